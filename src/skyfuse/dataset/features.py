"""Scaling of the inputs, fitted on the training part alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from skyfuse.dataset.quality import blocks
from skyfuse.errors import StoreError, UsageError

FloatArray = NDArray[np.float32]


def _spread(values: FloatArray) -> float:
    """Return a typical magnitude of the values; 1 where there is none to take."""
    finite = np.abs(values[np.isfinite(values)])
    typical = float(np.median(finite)) if finite.size else 0.0
    return typical if np.isfinite(typical) and typical > 0 else 1.0


@dataclass(frozen=True)
class Stretch:
    """``(arcsinh(x / softening) − mean) / std``, by channel.

    arcsinh is linear below the softening and logarithmic above: it keeps the sign and the absolute scale of
    a flux (Lupton, Gunn & Szalay 1999), so that bright and faint objects stay apart.

    Attributes
    ----------
    softening, mean, std : ndarray of float64, shape (channels,)
        Of each image band; a spectrum is one channel, so that its shape and its absolute scale both survive.
    """

    softening: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def fit(cls, values: FloatArray) -> Self:
        """Fit on training data.

        The softening is the median over the objects of each object's median |x|: where sky fills most of a
        cutout that is 0.67 of the sky's σ, and for a spectrum it is the typical flux density. Mean and
        standard deviation are those of the stretched valid samples.

        Parameters
        ----------
        values : ndarray of float32, shape (n, channels, ...) or (n, bins)
            NaN where invalid.
        """
        x = values[:, None] if values.ndim == 2 else values
        n, channels = x.shape[:2]
        flat = x.reshape(n, channels, -1)
        softening = np.empty(channels)
        mean, std = np.zeros(channels), np.ones(channels)
        for c in range(channels):
            medians = np.full(n, np.nan, dtype=np.float32)
            for block in blocks(n, 4 * flat.shape[2]):
                part = np.abs(flat[block, c])
                some = np.isfinite(part).any(axis=1)
                medians[block][some] = np.nanmedian(part[some], axis=1)
            softening[c] = _spread(medians)
            count, total, squares = 0, 0.0, 0.0
            for block in blocks(n, 8 * flat.shape[2]):
                part = np.arcsinh(flat[block, c] / softening[c])
                valid = part[np.isfinite(part)].astype(np.float64)
                count, total, squares = count + valid.size, total + valid.sum(), squares + valid @ valid
            if count:
                mean[c] = total / count
                variance = squares / count - mean[c] ** 2
                std[c] = np.sqrt(variance) if variance > 1e-12 else 1.0
        return cls(softening, mean, std)

    def transform(self, values: FloatArray) -> FloatArray:
        """Scale; NaN stays NaN."""
        channels = 1 if values.ndim == 2 else values.shape[1]
        if channels != len(self.mean):
            raise UsageError(
                f"the scaler was fitted on {len(self.mean)} channels, not {channels}",
                remedy="give data of the shape that the model was trained on",
            )
        shape = (1, 1) if values.ndim == 2 else (1, channels, *[1] * (values.ndim - 2))
        softening, mean, std = (
            a.astype(np.float32).reshape(shape) for a in (self.softening, self.mean, self.std)
        )
        out: FloatArray = np.arcsinh(values / softening)
        out -= mean
        out /= std
        return out


@dataclass(frozen=True)
class Scaler:
    """One `Stretch` for each modality.

    Attributes
    ----------
    stretches : dict of str to Stretch
    """

    stretches: dict[str, Stretch]

    @classmethod
    def fit(cls, arrays: Mapping[str, FloatArray]) -> Self:
        """Fit on the training part alone, so that nothing of other parts reaches a model.

        Parameters
        ----------
        arrays : mapping of str to ndarray of float32
            ``image`` of shape (n, c, s, s): one stretch a band; ``spectrum`` of shape (n, bins): one
            stretch. NaN where invalid.
        """
        return cls({modality: Stretch.fit(values) for modality, values in arrays.items()})

    def transform(self, arrays: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Return scaled arrays of the same shapes; NaN stays NaN.

        Raises
        ------
        UsageError
            If a modality or the number of channels differs from what was fitted.
        """
        unknown = set(arrays) - set(self.stretches)
        if unknown:
            raise UsageError(
                f"the scaler was not fitted on {', '.join(sorted(unknown))}",
                remedy=f"give {', '.join(sorted(self.stretches))}",
            )
        return {modality: self.stretches[modality].transform(values) for modality, values in arrays.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        return {
            modality: {name: getattr(stretch, name).tolist() for name in ("softening", "mean", "std")}
            for modality, stretch in self.stretches.items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild a scaler from `to_dict`.

        Raises
        ------
        StoreError
            If an entry is missing, not finite, or not positive where it must be.
        """
        stretches = {}
        for modality, entry in data.items():
            try:
                softening, mean, std = (
                    np.asarray(entry[name], dtype=np.float64).reshape(-1)
                    for name in ("softening", "mean", "std")
                )
            except (KeyError, TypeError, ValueError) as error:
                raise StoreError(
                    f"the scaler of {modality!r} is malformed ({error!r})", remedy="train the model again"
                ) from error
            finite = all(np.isfinite(a).all() for a in (softening, mean, std))
            if not (
                finite
                and len(softening) == len(mean) == len(std)
                and (softening > 0).all()
                and (std > 0).all()
            ):
                raise StoreError(
                    f"the scaler of {modality!r} holds impossible numbers", remedy="train the model again"
                )
            stretches[modality] = Stretch(softening, mean, std)
        return cls(stretches)
