"""SDSS imaging frames of DR8 and later: ``frame-<band>-<run>-<camcol>-<field>.fits`` (SDSS data model)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyfuse.errors import FileError
from skyfuse.survey import fits, wcs
from skyfuse.survey.fits.faults import AGAIN
from skyfuse.survey.reader import Options, SurveyFile
from skyfuse.survey.records import Frame, FrameInfo
from skyfuse.survey.sdss.instrument import BANDS, FRAMES_BEHIND_R, PIXEL_ARCSEC, SDSS

# Electrons per DN, by camcol, bands u g r i z. Source of both tables: the SDSS data model page of `frame`,
# "Calculating the uncertainties in the image", which gives two lines for some CCDs, "before" and "after" a
# run. It leaves open what holds for that run itself; the later line is taken.
_GAIN = {
    1: (1.62, 3.32, 4.71, 5.165, 4.745),
    2: (1.595, 3.855, 4.6, 6.565, 5.155),
    3: (1.59, 3.845, 4.72, 4.86, 4.885),
    4: (1.6, 3.995, 4.76, 4.885, 4.775),
    5: (1.47, 4.05, 4.725, 4.64, 3.48),
    6: (2.17, 4.035, 4.895, 4.76, 4.69),
}
_GAIN_FROM_1100 = {2: (1.825, 3.855, 4.6, 6.565, 5.155)}
# Read-out noise and dark current together, DN².
_DARK_VARIANCE = {
    1: (9.61, 15.6025, 1.8225, 7.84, 0.81),
    2: (12.6025, 1.44, 1.0, 5.76, 1.0),
    3: (8.7025, 1.3225, 1.3225, 4.6225, 1.0),
    4: (12.6025, 1.96, 1.3225, 6.25, 9.61),
    5: (9.3025, 1.1025, 0.81, 7.84, 1.8225),
    6: (7.0225, 1.8225, 0.9025, 5.0625, 1.21),
}
_DARK_VARIANCE_FROM_1500 = {
    2: (12.6025, 1.44, 1.0, 6.25, 1.0),
    4: (12.6025, 1.96, 1.3225, 7.5625, 12.6025),
    5: (9.3025, 1.1025, 0.81, 7.84, 2.1025),
}

# numpy's names of the kinds of floats that BITPIX tells.
_FLOATS = {-32: ">f4", -64: ">f8"}
_SKY = {"ALLSKY": "f", "XINTERP": "f", "YINTERP": "f"}
# Of HDU 3, what must be said of the same frame.
_TRACK = {"RUN": "iu", "CAMCOL": "iu", "FIELD": "iu", "FILTER": "S"}
# The sky varies smoothly: one pixel in 16 each way is plenty for the median σ of empty pixels.
_EMPTY_STEP = 16
_CCD_ROWS = 2048
_SECONDS_A_DAY = 86400.0
# DN²: the converter's 16 bits give 65,535 DN at most, so that no pixel's variance comes near this.
_MOST_VARIANCE = 1e9
_MOST_DN = 65535
# Of a file, decompressed. A frame has 12.4 MB, of 64-bit floats twice as much.
_MOST_BYTES = 1 << 26


class _Sky(NamedTuple):
    """The sky of HDU 2: its samples, DN, and where each column and row of the image lies on them."""

    samples: NDArray[np.float32]
    x: NDArray[np.float32]
    y: NDArray[np.float32]


def gain(run: int, camcol: int, band: str) -> float:
    """Return electrons per DN of the CCD that took a frame."""
    table = _GAIN_FROM_1100 if run >= 1100 and camcol in _GAIN_FROM_1100 else _GAIN
    return table[camcol][BANDS.index(band)]


def dark_variance(run: int, camcol: int, band: str) -> float:
    """Return the variance of read-out noise and dark current of the CCD that took a frame, DN²."""
    late = run >= 1500 and camcol in _DARK_VARIANCE_FROM_1500
    return (_DARK_VARIANCE_FROM_1500 if late else _DARK_VARIANCE)[camcol][BANDS.index(band)]


def is_frame(header: fits.Header) -> bool:
    """Tell whether a primary header claims to be an SDSS frame's."""
    return "CAMCOL" in header and "FRAME" in header and "RUN" in header


def frame_info(header: fits.Header, path: Path) -> FrameInfo:
    """Check a frame's primary header and keep what identifies the frame.

    The time is the middle of the exposure of the frame's middle row. SDSS scans by drifting: TAI is when row
    0 was read ("at reading of col 0, row 0", says the header), its light was gathered over EXPTIME before
    that, and row y follows y / 2048 of EXPTIME later, the time in which a star crosses the 2048 rows of a
    CCD.

    Raises
    ------
    FileError
        ``damaged``, ``missing-keyword``, ``bad-values``, ``unknown-band``, ``wrong-unit``, ``wrong-hdus`` or
        ``bad-wcs``.
    """
    fits.require_one_voice(header, path)
    if header.get("NAXIS") != 2 or header.get("BITPIX") not in (-32, -64):
        raise FileError(
            "HDU 0 is no image of floats (an fpC or raw frame is one of counts)",
            reason="wrong-hdus",
            remedy="give calibrated frames (frame-*.fits of DR8 and later)",
            path=path,
        )
    fits.require_plain_image(header, path)
    band = str(header.get("FILTER", "")).strip()
    if len(band) != 1 or band not in BANDS:
        raise FileError(
            f"its FILTER is {band!r}, none of u, g, r, i, z", reason="unknown-band", remedy=AGAIN, path=path
        )
    unit = str(header.get("BUNIT", "")).strip().lower()
    if unit not in ("nanomaggy", "nanomaggies", "nmgy"):
        raise FileError(
            f"its BUNIT is {unit!r}, not nanomaggy",
            reason="wrong-unit",
            remedy="give calibrated frames (frame-*.fits), not raw or otherwise scaled images",
            path=path,
        )
    run = fits.integer(header, "RUN", path, 1, 999_999)
    camcol = fits.integer(header, "CAMCOL", path, 1, len(_GAIN))
    behind = FRAMES_BEHIND_R[band]
    field = fits.integer(header, "FRAME", path, behind, 9999 + behind) - behind
    nx, ny = fits.integer(header, "NAXIS1", path), fits.integer(header, "NAXIS2", path)
    if not (1 <= nx <= _CCD_ROWS and 1 <= ny <= _CCD_ROWS):
        raise FileError(
            f"its image of {nx} × {ny} pixels has no place on a CCD of {_CCD_ROWS} × {_CCD_ROWS}",
            reason="wrong-hdus",
            remedy=AGAIN,
            path=path,
        )
    exposed = fits.number(header, "EXPTIME", path)
    if not 0 < exposed < _SECONDS_A_DAY:
        raise FileError(f"its EXPTIME is {exposed} s", reason="bad-values", remedy=AGAIN, path=path)
    middle = fits.number(header, "TAI", path) + ((ny - 1) / 2 / _CCD_ROWS - 0.5) * exposed
    mjd = fits.require_date(middle / _SECONDS_A_DAY, path)
    place = wcs.celestial(header, (ny, nx), path, PIXEL_ARCSEC)
    return FrameInfo(
        frame_id=f"sdss-{run}-{camcol}-{field}-{band}",
        survey="sdss",
        band=band,
        mjd=mjd,
        shape=(ny, nx),
        wcs=place.cards,
        ra=place.ra,
        dec=place.dec,
        run=run,
        camcol=camcol,
        field=field,
    )


# The machine code is kept beside the source, so that worker processes start at once.
@njit(cache=True, nogil=True)
def _calibrate(
    raw: NDArray[np.uint32],
    calib: NDArray[np.float32],
    sky: NDArray[np.float32],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    gain: float,
    dark_variance: float,
    value: NDArray[np.float32],
    sigma: NDArray[np.float32],
    empty: NDArray[np.float32],
) -> int:
    """Fill value, sigma (ny, nx) and the σ of empty pixels, sparse; return how many are valid."""
    ny, nx = raw.shape
    sky_ny, sky_nx = sky.shape
    nan, zero = np.float32(np.nan), np.float32(0)
    one_by_gain, dark = np.float32(1 / gain), np.float32(dark_variance)
    most = np.float32(_MOST_VARIANCE)
    left = np.empty(nx, np.int32)
    share_x = np.empty(nx, np.float32)
    scale = np.empty(nx, np.float32)
    electrons = np.empty(nx, np.float32)
    for j in range(nx):
        # Positions outside the samples' centres take the outermost sample: bilinear, never extrapolated.
        at = min(max(x[j], zero), np.float32(sky_nx - 1))
        left[j] = min(np.int32(at), max(sky_nx - 2, 0))
        share_x[j] = at - left[j]
        scale[j] = calib[j] if calib[j] > 0 and calib[j] < np.inf else nan
        electrons[j] = one_by_gain / scale[j]
    # The sky samples left and right of each column, in the sky rows below and above: picked anew only where
    # those rows change, since picking takes longer than all the rest.
    row = -1
    below_left, below_right = np.empty(nx, np.float32), np.empty(nx, np.float32)
    above_left, above_right = np.empty(nx, np.float32), np.empty(nx, np.float32)
    floor = np.empty(nx, np.float32)
    word = np.empty(nx, np.uint32)
    flux = word.view(np.float32)
    count = 0
    for i in range(ny):
        at = min(max(y[i], zero), np.float32(sky_ny - 1))
        low = min(np.int32(at), max(sky_ny - 2, 0))
        high = min(low + 1, sky_ny - 1)
        share = np.float32(at - low)
        if low != row:
            row = low
            for j in range(nx):
                k = left[j]
                right = min(k + 1, sky_nx - 1)
                below_left[j], below_right[j] = sky[low, k], sky[low, right]
                above_left[j], above_right[j] = sky[high, k], sky[high, right]
        for j in range(nx):
            at_left = below_left[j] + share * (above_left[j] - below_left[j])
            at_right = below_right[j] + share * (above_right[j] - below_right[j])
            floor[j] = (at_left + share_x[j] * (at_right - at_left)) * one_by_gain + dark
        if i % _EMPTY_STEP == 0:
            for j in range(empty.shape[1]):
                empty[i // _EMPTY_STEP, j] = scale[j * _EMPTY_STEP] * np.sqrt(floor[j * _EMPTY_STEP])
        for j in range(nx):
            w = raw[i, j]
            word[j] = (
                (w >> np.uint32(24))
                | ((w >> np.uint32(8)) & np.uint32(0xFF00))
                | ((w << np.uint32(8)) & np.uint32(0xFF0000))
                | (w << np.uint32(24))
            )
        v, s = value[i], sigma[i]
        valid = np.int32(0)
        for j in range(nx):
            variance = flux[j] * electrons[j] + floor[j]
            # Also false where anything is NaN; infinite and absurd pixels fail the upper bound.
            good = (variance > zero) & (variance < most)
            v[j] = flux[j] if good else nan
            s[j] = scale[j] * np.sqrt(variance) if good else nan
            valid += np.int32(good)
        count += int(valid)
    return count


def read_frame(path: str | Path, scratch: fits.Scratch | None = None) -> Frame:
    """Read an SDSS frame and compute the uncertainty of each pixel.

    With the calibration vector (HDU 1, nanomaggies per DN) and the sky (HDU 2, DN, interpolated bilinearly):
    ``dn = image / calib + sky``, ``sigma = calib * sqrt(dn / gain + dark_variance)`` (SDSS data model,
    `frame`).

    Parameters
    ----------
    path : path
        ``frame-*.fits``, plain or compressed with bzip2, gzip or fpack (``.fz``).
    scratch : Scratch, optional
        Memory for the frame's arrays, which the next frame read with the same `scratch` overwrites.

    Returns
    -------
    Frame
        Value and sigma of shape (ny, nx), nanomaggies.

    Raises
    ------
    FileError
        As `skyfuse.survey.registry.reader_of`, and ``no-good-pixels`` where none is valid.
    """
    path, scratch = Path(path), scratch or fits.Scratch()
    content, hdus, sha256 = fits.read(path, scratch, _MOST_BYTES)
    primary, *others = hdus
    if not is_frame(primary.header):
        raise FileError(
            "it is no SDSS frame", reason="unknown-kind", remedy="give a frame-*.fits file", path=path
        )
    info = frame_info(primary.header, path)
    ny, nx = info.shape
    if len(others) < 3:
        raise FileError(
            "it lacks the calibration vector, the sky or the astrometry (HDUs 1 to 3)",
            reason="wrong-hdus",
            remedy=AGAIN,
            path=path,
        )
    vector, background, track = others[:3]
    _require_same_frame(fits.table(content, track, path, _TRACK), info, path)
    calib = _calibration(content, vector, nx, path)
    sky = _sky(content, background, (ny, nx), path)
    value, sigma = (scratch.array(name, (ny, nx), np.float32) for name in ("value", "sigma"))
    empty = np.empty((-(-ny // _EMPTY_STEP), -(-nx // _EMPTY_STEP)), np.float32)
    ccd = fits.integer(primary.header, "RUN", path), fits.integer(primary.header, "CAMCOL", path)
    count = _calibrate(
        _pixels(content, primary, (ny, nx), path),
        calib,
        *sky,
        gain(*ccd, info.band),
        dark_variance(*ccd, info.band),
        value,
        sigma,
        empty,
    )
    if count == 0:
        raise FileError("none of its pixels is valid", reason="no-good-pixels", remedy=AGAIN, path=path)
    return Frame(info, value, sigma, float(np.nanmedian(empty)), sha256)


def _pixels(content: memoryview, image: fits.HDU, shape: tuple[int, int], path: Path) -> NDArray[np.uint32]:
    """Return the image, (ny, nx), as the bytes of 32-bit floats in the order of FITS."""
    kind = _FLOATS[fits.integer(image.header, "BITPIX", path)]
    pixels = np.frombuffer(content, kind, shape[0] * shape[1], image.start)
    if kind != ">f4":
        with np.errstate(over="ignore"):
            pixels = pixels.astype(">f4")
    return pixels.view(np.uint32).reshape(shape)


def _calibration(content: memoryview, vector: fits.HDU, nx: int, path: Path) -> NDArray[np.float32]:
    """Return the nanomaggies per DN of each column (HDU 1)."""
    kind = _FLOATS.get(fits.integer(vector.header, "BITPIX", path))
    if kind is None or vector.stop - vector.start != np.dtype(kind).itemsize * nx:
        raise FileError(
            f"HDU 1 is no calibration vector of {nx} values", reason="wrong-hdus", remedy=AGAIN, path=path
        )
    fits.require_plain_image(vector.header, path)
    return np.frombuffer(content, kind, nx, vector.start).astype(np.float32)


def _sky(content: memoryview, background: fits.HDU, shape: tuple[int, int], path: Path) -> _Sky:
    """Return the sky of an image of that shape (HDU 2)."""
    columns = fits.table(content, background, path, _SKY)
    if len(columns) < 3 or any(len(column) != 1 for column in columns.values()):
        raise FileError(
            "HDU 2 is no sky table (ALLSKY, XINTERP, YINTERP)", reason="wrong-hdus", remedy=AGAIN, path=path
        )
    x, y = (columns[name].reshape(-1).astype(np.float32) for name in ("XINTERP", "YINTERP"))
    sky = columns["ALLSKY"].reshape(-1).astype(np.float32)
    ny, nx = _sky_shape(background.header)
    if (y.size, x.size) != shape or sky.size != ny * nx or sky.size == 0:
        raise FileError(
            "the sky of HDU 2 does not fit the image", reason="wrong-hdus", remedy=AGAIN, path=path
        )
    for at, size in ((x, nx), (y, ny)):
        # Edges are half a sample outside of the outermost centres.
        if not ((at > -2) & (at < size + 1)).all():
            raise FileError(
                "the sky's positions in HDU 2 are off its samples",
                reason="bad-values",
                remedy=AGAIN,
                path=path,
            )
    if not ((sky >= 0) & (sky <= _MOST_DN)).all():
        raise FileError(
            f"the sky in HDU 2 is not from 0 to {_MOST_DN} DN", reason="bad-values", remedy=AGAIN, path=path
        )
    return _Sky(sky.reshape(ny, nx), x, y)


def _require_same_frame(row: dict[str, NDArray[Any]], info: FrameInfo, path: Path) -> None:
    """Refuse a frame whose astrometry (HDU 3) is that of another one."""
    for name, column in row.items():
        own = getattr(info, {"FILTER": "band"}.get(name, name.lower()))
        found = column.ravel()[0] if column.size == 1 else None
        told = bytes(found).decode("latin-1").strip() if name == "FILTER" and found is not None else found
        if told != own:
            raise FileError(
                f"HDU 3 is about another frame: its {name} is {told}, that of HDU 0 {own}",
                reason="bad-values",
                remedy=AGAIN,
                path=path,
            )


def _sky_shape(header: fits.Header) -> tuple[int, int]:
    """Return (ny, nx) of ALLSKY from its TDIM."""
    for column in range(1, int(header.get("TFIELDS", 0)) + 1):
        if str(header.get(f"TTYPE{column}", "")).upper() == "ALLSKY":
            words = str(header.get(f"TDIM{column}", "")).strip("() ").split(",")
            if len(words) == 2 and all(word.strip().isdigit() for word in words):
                return int(words[1]), int(words[0])
    return 0, 0


class FrameReader:
    """Calibrated imaging frames, ``frame-*.fits`` of DR8 and later."""

    name = "sdss-frames"
    instruments = (SDSS,)

    def recognises(self, file: SurveyFile) -> bool:
        """Tell whether HDU 0, or of an fpack file the image in HDU 1, is a frame's."""
        return is_frame(_image_header(file))

    def records(self, file: SurveyFile) -> list[FrameInfo]:
        """Return the one frame of the file."""
        return [frame_info(_image_header(file), file.path)]

    def read(self, path: Path, key: str, options: Options) -> Frame:
        """Read the frame; `key` is empty."""
        return read_frame(path, options.scratch)


def _image_header(file: SurveyFile) -> fits.Header:
    """Return the header of a frame's image, which fpack moves to HDU 1."""
    if is_frame(file.header) or file.header.get("NAXIS") != 0 or len(file.headers) < 2:
        return file.header
    packed = file.headers[1]
    return packed if packed.get("ZIMAGE") is True else file.header
