"""What models read of the data: scaling fitted on the training part alone, smoothing, line measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import convolve1d

from skyfuse.dataset.quality import blocks
from skyfuse.errors import StoreError, UsageError

FloatArray = NDArray[np.float32]

# Interquartile range of the standard normal distribution.
_NORMAL_QUARTILES = 1.349
_FARTHEST = 5.0


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
class Standard:
    """``(arcsinh((x − median) / scale) − mean) / std`` of the columns of a table, cut off at ±5.

    Missing values are taken as the median first. Errors and line strengths have tails that reach a hundred
    times as far as their body; so they do no harm, and the body keeps its resolution.

    Attributes
    ----------
    median, scale : ndarray of float64, shape (columns,)
        Of each column; the scale is the interquartile range over 1.349, which is the standard deviation of a
        normal distribution.
    mean, std : ndarray of float64, shape (columns,)
        Of the stretched values.
    """

    median: NDArray[np.float64]
    scale: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def fit(cls, values: FloatArray) -> Self:
        """Fit on training data.

        Parameters
        ----------
        values : ndarray of float32, shape (n, columns)
            NaN or infinite where missing; a column without any value counts as zeros.
        """
        x = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
        known = np.isfinite(x).any(axis=0)
        median, spread = np.zeros(x.shape[1]), np.zeros(x.shape[1])
        low, median[known], high = np.nanquantile(x[:, known], [0.25, 0.5, 0.75], axis=0)
        spread[known] = (high - low) / _NORMAL_QUARTILES
        x = np.where(np.isnan(x), median, x) - median
        # Where half of the values and more are equal, the others alone tell the scale.
        deviation = np.sqrt((x * x).mean(axis=0)) if len(x) else spread
        scale = np.where(spread > 0, spread, np.where(deviation > 0, deviation, 1.0))
        x = np.arcsinh(x / scale)
        mean, std = (x.mean(axis=0), x.std(axis=0)) if len(x) else (median, spread)
        return cls(median, scale, mean, np.where(std > 1e-9, std, 1.0))

    def transform(self, values: FloatArray) -> FloatArray:
        """Scale; the result has no NaN."""
        if values.shape[1:] != self.mean.shape:
            raise UsageError(
                f"the scaler was fitted on {len(self.mean)} columns, not {values.shape[1:]}",
                remedy="give the columns that the model was trained on",
            )
        x = np.where(np.isfinite(values), values, self.median)
        stretched = (np.arcsinh((x - self.median) / self.scale) - self.mean) / self.std
        return np.clip(stretched, -_FARTHEST, _FARTHEST).astype(np.float32)


@dataclass(frozen=True)
class Scaler:
    """One `Stretch` for each modality of arrays, and a `Standard` for the table.

    Attributes
    ----------
    stretches : dict of str to Stretch or Standard
    """

    stretches: dict[str, Stretch | Standard]

    @classmethod
    def fit(cls, arrays: Mapping[str, FloatArray]) -> Self:
        """Fit on the training part alone, so that nothing of other parts reaches a model.

        Parameters
        ----------
        arrays : mapping of str to ndarray of float32
            ``image`` of shape (n, c, s, s): one stretch a band; ``spectrum`` of shape (n, bins): one
            stretch; ``table`` of shape (n, columns): a scale a column. NaN where invalid.
        """
        return cls({modality: _kind(modality).fit(values) for modality, values in arrays.items()})

    def transform(self, arrays: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Return scaled arrays of the same shapes; NaN stays NaN but in a table, which gets the median.

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
            modality: {part.name: getattr(stretch, part.name).tolist() for part in fields(stretch)}
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
        stretches: dict[str, Stretch | Standard] = {}
        for modality, entry in data.items():
            kind = _kind(modality)
            try:
                numbers = {
                    part.name: np.asarray(entry[part.name], dtype=np.float64).reshape(-1)
                    for part in fields(kind)
                }
            except (KeyError, TypeError, ValueError) as error:
                raise StoreError(
                    f"the scaler of {modality!r} is malformed ({error!r})", remedy="train the model again"
                ) from error
            sound = len({len(values) for values in numbers.values()}) == 1 and all(
                np.isfinite(values).all() and (name in ("median", "mean") or (values > 0).all())
                for name, values in numbers.items()
            )
            if not sound:
                raise StoreError(
                    f"the scaler of {modality!r} holds impossible numbers", remedy="train the model again"
                )
            stretches[modality] = kind(**numbers)
        return cls(stretches)


def _kind(modality: str) -> type[Stretch] | type[Standard]:
    return Standard if modality == "table" else Stretch


def smooth(flux: FloatArray, width: float) -> FloatArray:
    """Return spectra smoothed by a Gaussian, over their valid bins alone.

    Parameters
    ----------
    flux : ndarray of float32, shape (n, bins)
        NaN where invalid; it stays NaN there, and gives its neighbours nothing.
    width : float
        Standard deviation of the Gaussian, bins; it is cut off at four of them.
    """
    kernel = _gaussian(width)
    valid = np.isfinite(flux)
    weight = convolve1d(valid.astype(np.float64), kernel, axis=1, mode="constant")
    total = convolve1d(np.where(valid, flux, 0).astype(np.float64), kernel, axis=1, mode="constant")
    return _quotient(total, weight, valid)


def smooth_sigma(sigma: FloatArray, width: float) -> FloatArray:
    """Return the standard deviation of what `smooth` gives for spectra of independent bins.

    Parameters
    ----------
    sigma : ndarray of float32, shape (n, bins)
        Of the flux; NaN where invalid.
    width : float
        As in `smooth`.
    """
    kernel = _gaussian(width)
    valid = np.isfinite(sigma)
    weight = convolve1d(valid.astype(np.float64), kernel, axis=1, mode="constant")
    squares = np.where(valid, sigma, 0).astype(np.float64) ** 2
    variance = convolve1d(squares, kernel**2, axis=1, mode="constant")
    return _quotient(np.sqrt(variance), weight, valid)


def _gaussian(width: float) -> NDArray[np.float64]:
    if not 0 < width < np.inf:
        raise UsageError(f"spectra cannot be smoothed over {width} bins", remedy="give a width above 0")
    reach = int(np.ceil(4 * width))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    return np.asarray(kernel / kernel.sum())


def _quotient(
    total: NDArray[np.float64], weight: NDArray[np.float64], valid: NDArray[np.bool_]
) -> FloatArray:
    return np.where(valid, total / np.where(valid, weight, 1), np.nan).astype(np.float32)


# ---------------------------------------------------------------------------------------------- line measures

# Blue side band, line, red side band of each equivalent width, Å in vacuum at rest. Lines after the list of
# the SDSS pipeline (vacuum: Mg II 2799.12, [O II] 3728.5, K 3934.78, H 3969.59, Hδ 4102.89, G 4305.61,
# Hγ 4341.68, Hβ 4862.68, [O III] 4960.30 and 5008.24, Mg 5176.7, Na 5895.6, Hα 6564.61, [S II] 6718.29); the
# names carry the rounded, partly air wavelengths by which the classifier study calls them. Each window holds
# the line out to 800 km/s or more (Mg II, which quasars alone show here: 3000), and the bands keep clear of
# its neighbours. K and H share their bands. Hα is measured with [N II], from which a broad one cannot be
# parted; of [S II] the window holds the one line up to the middle between the two.
_WIDTHS = {
    "ew_mgii_2799": ((2720, 2755), (2769, 2829), (2843, 2878)),
    "ew_oii_3727": ((3690, 3713), (3716, 3741), (3744, 3767)),
    "ew_caii_k_3934": ((3903, 3918), (3921, 3948), (3987, 4003)),
    "ew_caii_h_3968": ((3903, 3918), (3956, 3983), (3987, 4003)),
    "ew_hdelta_4101": ((4042, 4082), (4084, 4122), (4129, 4162)),
    "ew_gband_4304": ((4267, 4283), (4284, 4318), (4319, 4334)),
    "ew_hgamma_4342": ((4285, 4319), (4323, 4361), (4368, 4421)),
    "ew_hbeta_4861": ((4800, 4838), (4843, 4883), (4890, 4925)),
    "ew_oiii_4960": ((4928, 4944), (4947, 4974), (4977, 4993)),
    "ew_oiii_5008": ((4977, 4993), (4995, 5022), (5025, 5045)),
    "ew_mg_5175": ((5119, 5144), (5161, 5194), (5195, 5208)),
    "ew_na_5895": ((5862, 5877), (5878, 5911), (5924, 5950)),
    "ew_halpha_6565": ((6490, 6530), (6538, 6595), (6605, 6645)),
    "ew_sii_6716": ((6665, 6700), (6708, 6725.5), (6743, 6778)),
}
EW_NAMES = tuple(_WIDTHS)
"""Columns of `equivalent_widths`."""

# Side bands and band of spectral indices, Å in air. Balmer A indices: Worthey & Ottaviani (1997); Hα: Cohen,
# Blakeslee & Ryzhov (1998); all others: Trager et al. (1998, the Lick/IDS system).
_INDICES = {
    "idx_hdelta_a": ((4041.6, 4081.5), (4083.5, 4122.25), (4128.5, 4161.0)),
    "idx_ca4227": ((4211.0, 4219.75), (4222.25, 4234.75), (4241.0, 4251.0)),
    "idx_g4300": ((4266.375, 4282.625), (4281.375, 4316.375), (4318.875, 4335.125)),
    "idx_hgamma_a": ((4283.5, 4319.75), (4319.75, 4363.5), (4367.25, 4419.75)),
    "idx_hbeta": ((4827.875, 4847.875), (4847.875, 4876.625), (4876.625, 4891.625)),
    "idx_mgb": ((5117.7, 5142.7), (5160.125, 5192.625), (5191.375, 5206.375)),
    "idx_fe5270": ((5233.15, 5248.15), (5245.65, 5285.65), (5285.65, 5318.15)),
    "idx_fe5335": ((5304.625, 5317.375), (5312.125, 5352.125), (5353.375, 5363.375)),
    "idx_nad": ((5860.625, 5875.675), (5876.875, 5909.375), (5922.125, 5948.125)),
    "idx_tio1": ((5816.625, 5849.125), (5936.625, 5994.125), (6038.625, 6103.625)),
    "idx_tio2": ((6066.625, 6141.625), (6189.625, 6272.125), (6372.625, 6415.125)),
    "idx_halpha": ((6420.0, 6455.0), (6548.0, 6578.0), (6600.0, 6640.0)),
}
# Bands of the 4000 Å break, narrow definition (Balogh et al. 1999).
_BREAK = (3850.0, 3950.0), (4000.0, 4100.0)
INDEX_NAMES = (*_INDICES, "idx_d4000")
"""Columns of `line_indices`."""

# Share of a side band that must be valid; the line itself must be whole.
_LEAST_BAND = 0.5
_WHOLE = 1 - 1e-9
# Spectra measured at a time.
_ROWS = 512


def _vacuum(air: ArrayLike) -> NDArray[np.float64]:
    """Return vacuum wavelengths of air wavelengths, Å (Morton 2000, as inverted by Piskunov for VALD)."""
    wavelength = np.asarray(air, dtype=np.float64)
    s2 = (1e4 / wavelength) ** 2
    n = 1 + 8.336624212083e-5 + 0.02408926869968 / (130.1065924522 - s2)
    return np.asarray(wavelength * (n + 1.599740894897e-4 / (38.92568793293 - s2)))


@dataclass(frozen=True)
class _Spectra:
    """Some spectra on one grid: flux (n, bins) and the edges of the bins (bins + 1), Å."""

    flux: NDArray[np.float64]
    centres: NDArray[np.float64]
    edges: NDArray[np.float64]

    def window(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Return flux, centre and valid overlap (Å) of the bins in each spectrum's window, shape (n, m) each.

        Bins off the grid and invalid ones have overlap 0.
        """
        bins = len(self.centres)
        first = np.searchsorted(self.edges, low, side="right") - 1
        last = np.searchsorted(self.edges, high, side="left")
        index = first[:, None] + np.arange(max(1, int((last - first).max(initial=1))))
        there = (index >= 0) & (index < bins)
        index = np.clip(index, 0, bins - 1)
        flux = np.take_along_axis(self.flux, index, axis=1)
        overlap = np.minimum(high[:, None], self.edges[index + 1]) - np.maximum(
            low[:, None], self.edges[index]
        )
        valid = there & np.isfinite(flux)
        return np.where(valid, flux, 0), self.centres[index], np.where(valid, np.maximum(overlap, 0), 0)

    def band(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Return mean flux and mean wavelength over each spectrum's window; NaN where too little is valid."""
        flux, centre, overlap = self.window(low, high)
        weight = overlap.sum(axis=1)
        weight[weight < _LEAST_BAND * (high - low)] = np.nan
        return (flux * overlap).sum(axis=1) / weight, (centre * overlap).sum(axis=1) / weight

    def width(self, bands: NDArray[np.float64], stretch: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the equivalent width at rest (Å) of one line in each spectrum; see `equivalent_widths`."""
        (blue, at_blue), (red, at_red) = (self.band(*(edge * stretch for edge in bands[k])) for k in (0, 2))
        low, high = (edge * stretch for edge in bands[1])
        flux, centre, overlap = self.window(low, high)
        along = (centre - at_blue[:, None]) / (at_red - at_blue)[:, None]
        continuum = blue[:, None] + along * (red - blue)[:, None]
        # A continuum that is not above zero, on either side or between, gives no relative depth.
        sound = (
            (overlap.sum(axis=1) >= _WHOLE * (high - low))
            & (np.fmin(blue, red) > 0)
            & np.isfinite(blue + red)
        )
        depth = 1 - flux / np.where(sound[:, None], continuum, 1)
        return np.where(sound, (depth * overlap).sum(axis=1) / stretch, np.nan)


def _spectra(wavelength: ArrayLike, flux: NDArray[Any]) -> list[tuple[slice, _Spectra]]:
    centres = np.asarray(wavelength, dtype=np.float64)
    middle = (centres[:-1] + centres[1:]) / 2
    edges = np.concatenate([2 * centres[:1] - middle[:1], middle, 2 * centres[-1:] - middle[-1:]])
    slices = [slice(first, first + _ROWS) for first in range(0, len(flux), _ROWS)]
    return [(rows, _Spectra(np.asarray(flux[rows], dtype=np.float64), centres, edges)) for rows in slices]


def equivalent_widths(wavelength: ArrayLike, flux: NDArray[Any], z: ArrayLike) -> NDArray[np.float64]:
    """Return the equivalent widths of fourteen lines at rest.

    ``EW = Σ (Fc − F)/Fc Δλ / (1 + z)`` over the line's window, shifted by z, above zero for absorption. The
    continuum Fc is the straight line through the mean fluxes of a band on either side.

    Parameters
    ----------
    wavelength : array, shape (bins,)
        Å, vacuum.
    flux : ndarray, shape (n, bins)
        Per wavelength; NaN where invalid.
    z : array, shape (n,)
        Redshifts.

    Returns
    -------
    ndarray of float64, shape (n, 14)
        Å, in the order of `EW_NAMES`. NaN where z is not finite, a bin of the line is off the grid or
        invalid, more than half of a side band is, or the continuum is not above zero.
    """
    stretch = 1 + np.asarray(z, dtype=np.float64)
    usable = np.isfinite(stretch) & (stretch > 0)
    stretch = np.where(usable, stretch, 1.0)
    out = np.full((len(flux), len(_WIDTHS)), np.nan)
    for rows, spectra in _spectra(wavelength, flux):
        for column, bands in enumerate(_WIDTHS.values()):
            out[rows, column] = spectra.width(np.asarray(bands, dtype=np.float64), stretch[rows])
    out[~usable] = np.nan
    return out


def line_indices(wavelength: ArrayLike, flux: NDArray[Any]) -> NDArray[np.float64]:
    """Return spectral indices in the observed frame, for stars.

    Twelve are equivalent widths (Å) as in `equivalent_widths`, the last is the break at 4000 Å: the mean flux
    per frequency in 4000–4100 Å over that in 3850–3950 Å.

    Parameters
    ----------
    wavelength : array, shape (bins,)
        Å, vacuum.
    flux : ndarray, shape (n, bins)
        Per wavelength; NaN where invalid.

    Returns
    -------
    ndarray of float64, shape (n, 13)
        In the order of `INDEX_NAMES`; NaN as in `equivalent_widths`.
    """
    out = np.full((len(flux), len(INDEX_NAMES)), np.nan)
    for rows, spectra in _spectra(wavelength, flux):
        one = np.ones(len(spectra.flux))
        for column, bands in enumerate(_INDICES.values()):
            out[rows, column] = spectra.width(_vacuum(bands), one)
        # The flux per frequency goes as λ² times that per wavelength.
        by_frequency = _Spectra(spectra.flux * spectra.centres**2, spectra.centres, spectra.edges)
        blue, red = (by_frequency.band(low * one, high * one)[0] for low, high in _vacuum(_BREAK))
        out[rows, -1] = np.where(blue > 0, red / np.where(blue > 0, blue, 1), np.nan)
    return out
