"""Models that learn the spectra themselves: a convolutional autoencoder, and principal components."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skyfuse.dataset.features import Scaler, Stretch
from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.models import architectures, files
from skyfuse.models.architectures import Shapes
from skyfuse.models.base import History, Lesson, Model
from skyfuse.models.inputs import Arrays
from skyfuse.models.networks import TRAINING, Network
from skyfuse.words import Kind


class Reconstruction(Model):
    """A model that says a spectrum in a few values and draws it again from them.

    `Model.predict` gives the mean squared error of each spectrum over its valid bins, in scaled units: those
    of `skyfuse.dataset.features.Scaler`, in which the training part has the variance 1.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"reconstruction"})

    _scaler: Scaler

    def encode(self, x: Arrays) -> NDArray[np.float64]:
        """Return the code of each spectrum.

        Parameters
        ----------
        x : dict of str to ndarray
            ``spectrum`` (n, bins), NaN where invalid.

        Returns
        -------
        ndarray of float64, shape (n, latent)

        Raises
        ------
        UsageError
            If the model is not fitted.
        DataError
            If the spectra are not of the length that it was fitted on.
        """
        return self._encode(self._spectra(x))

    def reconstruct(self, x: Arrays) -> NDArray[np.float32]:
        """Return each spectrum as its code draws it.

        Parameters
        ----------
        x : dict of str to ndarray
            See `encode`.

        Returns
        -------
        ndarray of float32, shape (n, bins)
            In the units of the input; NaN in bins that the code does not stand for.

        Raises
        ------
        UsageError, DataError
            As `encode`.
        """
        stretch = cast(Stretch, self._scaler.stretches["spectrum"])
        stretched = self._drawn(self._spectra(x)) * stretch.std + stretch.mean
        flux: NDArray[np.float32] = (np.sinh(stretched) * stretch.softening).astype(np.float32)
        return flux

    def _spectra(self, x: Arrays) -> Arrays:
        if not self.fitted:
            raise UsageError("the model is not fitted", remedy="call fit first, or load a saved model")
        name = self._names["spectrum"]
        spectra = np.ascontiguousarray(x.get(name, ()), dtype=np.float32)
        if spectra.shape[1:] != self.shapes["spectrum"]:
            raise DataError(
                f"{name} has shape {spectra.shape[1:]}, and the model reads {self.shapes['spectrum']}",
                remedy="give spectra at the zoom of the model's training",
            )
        return {"spectrum": spectra}

    def _require_spectra(self, lesson: Lesson) -> None:
        if set(lesson.shapes) != {"spectrum"}:
            raise UsageError(
                f"{self.name} got {' and '.join(lesson.shapes)}", remedy="give it spectrum and nothing else"
            )

    @abstractmethod
    def _encode(self, x: Arrays) -> NDArray[np.float64]: ...

    @abstractmethod
    def _drawn(self, x: Arrays) -> NDArray[np.float64]:
        """Return scaled spectra as their codes draw them, (n, bins), NaN in bins that these leave out."""

    def _predict(self, x: Arrays) -> NDArray[np.float64]:
        squares = np.square(self._drawn(x) - self._scaler.transform(x)["spectrum"])
        known = np.isfinite(squares)
        errors: NDArray[np.float64] = np.where(known, squares, 0).sum(axis=1) / np.maximum(
            known.sum(axis=1), 1
        )
        return errors


class Autoencoder(Reconstruction, Network):
    """Convolutional autoencoder of spectra, see `skyfuse.models.architectures.Codec`.

    The study of it reads 1,792 or 896 bins. It names a code of 14 values for both; the pools that it lists
    for 1,792 bins, 4·4·2·2·2·2, give 7, and those for 896, all 2, give 14. Here the number of values is the
    parameter and the pools follow from it.

    Parameters
    ----------
    latent : int, default 14
        Values of the code.
    **params
        See `skyfuse.models.networks.Network`.
    """

    name = "autoencoder"
    title = "Autoencoder"
    needs = ("spectrum",)
    defaults = MappingProxyType({**TRAINING, "max_epochs": 60, "patience": 10, "latent": 14})

    _network: architectures.Codec

    def build(self, shapes: Shapes, outputs: int) -> architectures.Codec:
        """See `skyfuse.models.networks.Network.build`; `outputs` is not read, a spectrum comes out."""
        return architectures.Codec(shapes["spectrum"][0], self.params["latent"])

    def _fit(self, lesson: Lesson) -> History:
        self._require_spectra(lesson)
        return super()._fit(lesson)

    def _part(self, x: Arrays, y: NDArray[Any]) -> tuple[dict[str, Tensor], Tensor]:
        scaled = self._scaler.transform(x)["spectrum"]
        known = np.full_like(scaled, np.nan)
        kept = self._network.kept
        known[:, kept] = np.where(np.isfinite(scaled[:, kept]), scaled[:, kept], np.nan)
        return self._inputs(x), torch.from_numpy(known)

    def _encode(self, x: Arrays) -> NDArray[np.float64]:
        return self._outputs(x, self._network.encode)

    def _drawn(self, x: Arrays) -> NDArray[np.float64]:
        drawn = self._outputs(x)
        left_out = np.ones(drawn.shape[1], dtype=bool)
        left_out[self._network.kept] = False
        drawn[:, left_out] = np.nan
        return drawn


class PrincipalComponents(Reconstruction):
    """Principal components of spectra: the best code that is linear, to compare the autoencoder with.

    Scaled as for networks, invalid bins the mean; the components are those of the training part.

    Parameters
    ----------
    latent : int, default 14
        Components that are kept.
    """

    name = "pca"
    title = "PCA"
    weights = (files.ARRAYS,)
    libraries = ("scikit-learn",)

    _mean: NDArray[np.float64]
    _components: NDArray[np.float64]

    def __init__(self, *, latent: int = 14) -> None:
        if latent < 1:
            raise UsageError(f"latent is {latent}", remedy="give 1 or more")
        super().__init__(latent=latent)

    def _fit(self, lesson: Lesson) -> History:
        from sklearn.decomposition import PCA

        self._require_spectra(lesson)
        self._scaler = Scaler.fit(lesson.train)
        x = self._inputs(lesson.train)
        if self.params["latent"] > min(x.shape):
            raise DataError(
                f"{x.shape[0]} spectra of {x.shape[1]} bins have no {self.params['latent']} components",
                remedy=f"give latent up to {min(x.shape)}",
            )
        found = PCA(self.params["latent"], random_state=lesson.seed).fit(x)
        # In the order in which a file gives them back: sums of products depend on it.
        self._mean, self._components = found.mean_, np.ascontiguousarray(found.components_)
        if lesson.progress is not None:
            lesson.progress(1, 1, f"{self.params['latent']} components")
        return lesson.history(self._predict(lesson.train), self._predict(lesson.valid))

    def _inputs(self, x: Arrays) -> NDArray[np.float64]:
        scaled = self._scaler.transform(x)["spectrum"].astype(np.float64)
        return np.where(np.isfinite(scaled), scaled, 0.0)

    def _encode(self, x: Arrays) -> NDArray[np.float64]:
        return (self._inputs(x) - self._mean) @ self._components.T

    def _drawn(self, x: Arrays) -> NDArray[np.float64]:
        return self._encode(x) @ self._components + self._mean

    def _write(self, folder: Path) -> dict[str, Any]:
        files.write_arrays({"mean": self._mean, "components": self._components}, folder)
        return {"scaler": self._scaler.to_dict()}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        layout = {"mean": ("f8", ("bins",)), "components": ("f8", ("latent", "bins"))}
        arrays = files.read_arrays(
            folder, layout, bins=self.shapes["spectrum"][0], latent=self.params["latent"]
        )
        self._mean, self._components = arrays["mean"], arrays["components"]
        self._scaler = Scaler.from_dict(state["scaler"])
        if {modality: len(s.mean) for modality, s in self._scaler.stretches.items()} != {"spectrum": 1}:
            raise StoreError("does not scale its spectra", remedy="train the model again", path=folder)
