"""A small sky of an instrument of its own: its files and their reader, a cube, a dataset; bare arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits as astropy_fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from skyfuse.cube.build import build
from skyfuse.cube.query import Cube
from skyfuse.dataset import Dataset, Wanted
from skyfuse.errors import FileError
from skyfuse.models.inputs import Arrays
from skyfuse.plugins import register
from skyfuse.survey import fits, registry
from skyfuse.survey.reader import Options, SurveyFile
from skyfuse.survey.records import (
    Frame,
    FrameInfo,
    Imaging,
    Instrument,
    Spectroscopy,
    Spectrum,
    SpectrumInfo,
)

_BANDS = ("g", "r")
_PIXEL, _SIDE, _APART = 2.0, 392, 32
_MJD = 55000.0
_FIRST_BIN, _BINS = 36000, 501
# A cutout is of 16 pixels, so neighbours share none.
_TINY = Instrument(
    "tiny",
    Imaging(_BANDS, _PIXEL, size=16, zooms=3),
    Spectroscopy(f"log:{10**3.6!r},{10**3.65!r},1e-4"),
)


# Of the table of a file of spectra, with numpy's kinds.
_COLUMNS = {"RA": "f", "DEC": "f", "Z": "f"}


class TinyReader:
    """Reads the files that `tiny_sky` writes: a frame each, or the spectra of all objects in one."""

    name = "tiny"
    instruments = (_TINY,)

    def recognises(self, file: SurveyFile) -> bool:
        """Tell by INSTRUME."""
        return file.header.get("INSTRUME") == "TINY"

    def records(self, file: SurveyFile) -> list[FrameInfo | SpectrumInfo]:
        """Return the frame, or the spectra."""
        return list(_Opened(file.path).infos)

    def read(self, path: Path, key: str, options: Options) -> Frame | Spectrum:
        """Read the record of a key."""
        opened = _Opened(path)
        for row, info in enumerate(opened.infos):
            if info.key == key:
                return opened.frame(info) if isinstance(info, FrameInfo) else opened.spectrum(info, row)
        raise FileError(
            f"it has no record {key!r}", reason="missing-record", remedy="ask for others", path=path
        )


class _Opened:
    """One file, read whole: `skyfuse.survey.fits` says what is wrong with a broken one."""

    def __init__(self, path: Path) -> None:
        self.content, self.hdus, self.sha256 = fits.read(path)
        self.path, self.header = path, self.hdus[0].header
        self.band = self.header.quoted("FILTER")
        if len(self.hdus) != (2 if self.band else 4):
            raise FileError("it lacks HDUs", reason="wrong-hdus", remedy="write it again", path=path)
        self.infos: list[FrameInfo | SpectrumInfo] = (
            [self._frame_info()] if self.band else [*self._spectrum_infos()]
        )

    def _frame_info(self) -> FrameInfo:
        header = self.header
        ra, dec = fits.position(header, "CRVAL1", "CRVAL2", self.path)
        return FrameInfo(
            frame_id=f"tiny-{self.band}",
            survey="mock",
            band=self.band,
            mjd=_MJD,
            shape=(_SIDE, _SIDE),
            wcs=_wcs(ra, dec).to_header().tostring(sep="\n"),
            ra=ra,
            dec=dec,
            instrument="tiny",
            key="0",
        )

    def _spectrum_infos(self) -> list[SpectrumInfo]:
        table = fits.table(self.content, self.hdus[3], self.path, _COLUMNS)
        places = enumerate(zip(table["RA"].tolist(), table["DEC"].tolist(), strict=True))
        return [
            SpectrumInfo(f"tiny-{row}", "mock", None, None, None, ra, dec, "tiny", str(row))
            for row, (ra, dec) in places
        ]

    def _image(self, number: int) -> NDArray[np.float32]:
        return fits.image(self.content, self.hdus, number, self.path).astype(np.float32)

    def frame(self, info: FrameInfo) -> Frame:
        sigma = self._image(1)
        return Frame(info, self._image(0), sigma, float(np.nanmedian(sigma)), self.sha256)

    def spectrum(self, info: SpectrumInfo, row: int) -> Spectrum:
        flux, sigma = self._image(1)[row], self._image(2)[row]
        redshift = float(fits.table(self.content, self.hdus[3], self.path, _COLUMNS)["Z"][row])
        catalogue: dict[str, Any] = {"class": "GALAXY", "subclass": "", "z": redshift, "z_err": 1e-4}
        catalogue |= {"zwarning": 0, "sn_median": float(np.nanmedian(flux / sigma)), "objtype": "GALAXY"}
        wavelength = np.power(10.0, (_FIRST_BIN + np.arange(_BINS)) * 1e-4)
        return Spectrum(info, wavelength, flux, sigma, _FIRST_BIN, self.sha256, catalogue)


def _wcs(ra: float, dec: float) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [_SIDE / 2 + 0.5] * 2
    wcs.wcs.cdelt = [-_PIXEL / 3600, _PIXEL / 3600]
    return wcs


def tiny_sky(folder: Path | str, *, seed: int = 0) -> Path:
    """Write 144 galaxies seen by the instrument ``tiny``: a frame in each of g and r, and a file of spectra.

    The brighter a galaxy, the greater its redshift, so that there is something to learn; σ is 1 throughout,
    and some pixels and samples are missing.

    Parameters
    ----------
    folder : path
        Made if it is not there.
    seed : int

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    places = np.arange(_APART // 2, _SIDE - 8, _APART)
    x, y = (axis.ravel() for axis in np.meshgrid(places, places))
    wcs = _wcs(180.0, 30.0)
    ra, dec = wcs.wcs_pix2world(x, y, 0)
    light = rng.uniform(0.5, 4, len(x))
    row, column = np.mgrid[:_SIDE, :_SIDE]
    blobs = np.zeros((_SIDE, _SIDE))
    for peak, i, j in zip(20 * light, x, y, strict=True):
        blobs += peak * np.exp(-((row - j) ** 2 + (column - i) ** 2) / 8)
    for band, colour in zip(_BANDS, (0.8, 1.2), strict=True):
        value = _with_holes(rng, rng.normal(colour * blobs, 1))
        cards = {**wcs.to_header(), "INSTRUME": "TINY", "FILTER": band}
        _write(folder / f"tiny-{band}.fits", cards, value, _sigma(value))
    flux = _with_holes(rng, rng.normal(5 * light[:, None], 1, (len(x), _BINS)))
    redshift = 0.05 * light + rng.normal(0, 0.005, len(x))
    columns = [
        astropy_fits.Column(name, "D", array=array)
        for name, array in (("RA", ra), ("DEC", dec), ("Z", redshift))
    ]
    table = astropy_fits.BinTableHDU.from_columns(columns)
    hdus = (astropy_fits.ImageHDU(flux), _sigma(flux), table)
    _write(folder / "tiny-spectra.fits", {"INSTRUME": "TINY"}, None, *hdus)
    return folder


def _with_holes(rng: np.random.Generator, value: NDArray[np.float64]) -> NDArray[np.float32]:
    value[rng.random(value.shape) < 0.01] = np.nan
    return value.astype(np.float32)


def _sigma(value: NDArray[np.float32]) -> Any:
    return astropy_fits.ImageHDU(np.where(np.isnan(value), np.nan, 1).astype(np.float32))


def _write(path: Path, cards: dict[str, Any], image: NDArray[np.float32] | None, *hdus: Any) -> None:
    primary = astropy_fits.PrimaryHDU(image, astropy_fits.Header(list(cards.items())))
    astropy_fits.HDUList([primary, *hdus]).writeto(path, overwrite=True)


def tiny_cube(folder: Path | str, *, seed: int = 0) -> Cube:
    """Build the cube of a `tiny_sky`; `TinyReader` is registered for it.

    Parameters
    ----------
    folder : path
        Gets the folders ``sky`` and ``tiny.cube``.
    seed : int

    Returns
    -------
    Cube
        144 objects, each with cutouts of 16 pixels in g and r at 3 zooms, and a spectrum of 501 bins.
    """
    if not any(reader.name == TinyReader.name for reader in registry.readers()):
        register(TinyReader())
    out = Path(folder) / "tiny.cube"
    build([tiny_sky(Path(folder) / "sky", seed=seed)], out, workers=1)
    return Cube.open(out)


def tiny_dataset(folder: Path | str, *, seed: int = 0) -> Dataset:
    """Make a dataset of a `tiny_cube`: images, spectra and the label ``z``, split.

    Parameters
    ----------
    folder : path
        Gets the folders of `tiny_cube` and ``dataset``.
    seed : int

    Returns
    -------
    Dataset
    """
    return Dataset.from_cube(tiny_cube(folder, seed=seed), Path(folder) / "dataset", Wanted(label="z"))


def tiny_arrays(
    n: int, modalities: Sequence[str] = ("image", "spectrum", "table"), *, seed: int = 0
) -> tuple[Arrays, NDArray[np.float64]]:
    """Return inputs of a model and what there is to learn from them.

    Parameters
    ----------
    n : int
        Objects.
    modalities : sequence of str
        Which of ``image`` (n, 3, 8, 8), ``spectrum`` (n, 32) and ``table`` (n, 4); some values are missing.
    seed : int

    Returns
    -------
    arrays : dict of str to ndarray
    y : ndarray of float64, shape (n,)
        The brighter an object, the greater.
    """
    rng = np.random.default_rng(seed)
    y = rng.uniform(1, 4, n)
    shapes = {"image": (3, 8, 8), "spectrum": (32,), "table": (4,)}
    arrays: Arrays = {}
    for modality in modalities:
        shape = shapes[modality]
        values = y.reshape(-1, *(1 for _ in shape)) * np.linspace(0.5, 1.5, shape[-1])
        arrays[modality] = _with_holes(rng, values + rng.normal(0, 0.2, (n, *shape)))
    return arrays, y
