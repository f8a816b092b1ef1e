"""SDSS imaging frames and spectra (`frame` and `spec` of the SDSS data model)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.wcs import WcsError, Wcsprm
from numba import njit
from numpy.typing import NDArray

from skyfuse.errors import FileError
from skyfuse.survey import fits
from skyfuse.survey.records import BANDS, Frame, FrameInfo, Spectrum, SpectrumInfo

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

# Bits of SPPIXMASK, in `and_mask`: set in every exposure that went into the pixel. The SDSS page of SPPIXMASK
# says that what is very bad has ivar = 0 already, and names BRIGHTSKY as the bit to look at beyond that. Of
# the good pixels of 173 real spectra, BRIGHTSKY takes 3.9 %, BADSKYCHI 0.03 %, the others none; NOPLUG and
# BADARC make the whole spectrum or its wavelengths meaningless. The bits that only warn of the fibre or of
# larger errors (BADFLAT, MANYBADCOLUMNS, NEARBADPIXEL, LOWFLAT, PARTIALREJECT and so on) stay: their pixels'
# errors allow for it. NODATA (24) is deprecated in favour of ivar = 0.
_BAD_BITS = (
    1 << 0  # NOPLUG: fibre not listed in the plug map
    | 1 << 3  # BADARC: bad arc solution
    | 1 << 18  # FULLREJECT: fully rejected in extraction
    | 1 << 22  # NOSKY: sky level unknown at this wavelength
    | 1 << 23  # BRIGHTSKY: sky so bright that its subtraction may not be trusted
    | 1 << 25  # COMBINEREJ: rejected in the combination of exposures
    | 1 << 27  # BADSKYCHI: chi² > 3 in the sky residuals at this wavelength
    | 1 << 28  # REDMONSTER: a whole region of such
)
# Bits of ZWARNING that mean that the fibre saw no known object (SDSS page of ZWARNING).
_NO_OBJECT = (
    (1 << 0, "sky-fibre", "a sky fibre"),
    (1 << 7, "unplugged", "a fibre that was unplugged or broken"),
    (1 << 8, "bad-target", "a fibre with a catastrophically bad position"),
    (1 << 9, "no-data", "a fibre without data"),
)
_SKY = {"ALLSKY": "f", "XINTERP": "f", "YINTERP": "f"}
_PIXELS = {"FLUX": "f", "LOGLAM": "f", "IVAR": "f", "AND_MASK": "iu"}
_VERDICTS = {
    "CLASS": "S",
    "SUBCLASS": "S",
    "Z": "f",
    "Z_ERR": "f",
    "ZWARNING": "iu",
    "SN_MEDIAN_ALL": "f",
    "OBJTYPE": "S",
    "SOURCETYPE": "S",
}
# Half a unit in the last place of a float32 near 4, in bins of 1e-4, with room for one rounding more.
_BIN_TOLERANCE = 5e-3
# The sky varies smoothly: one pixel in 16 each way is plenty for the median σ of empty pixels.
_EMPTY_STEP = 16
_CCD_ROWS = 2048
# A star drifts over the CCDs in this order, two frames apart (Gunn et al. 1998, AJ 116, 3040), and FRAME
# counts the frames of one CCD: the field, which numbers the sky, is FRAME less this. Real frames bear it out.
FRAMES_BEHIND_R = {"r": 0, "i": 2, "u": 4, "z": 6, "g": 8}
_SECONDS_A_DAY = 86400.0
_AGAIN = "get the file again from the archive"


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


def is_spectrum(header: fits.Header) -> bool:
    """Tell whether a primary header claims to be an SDSS spectrum's."""
    return "PLATEID" in header and "FIBERID" in header


def frame_info(header: fits.Header, path: Path) -> FrameInfo:
    """Check a frame's primary header and keep what identifies the frame.

    The time is the middle of the exposure of the frame's middle row. SDSS scans by drifting: TAI is when row
    0 was read ("at reading of col 0, row 0", says the header), its light was gathered over EXPTIME before
    that, and row y follows y / 2048 of EXPTIME later, the time in which a star crosses the 2048 rows of a
    CCD.

    Raises
    ------
    FileError
        ``missing-keyword``, ``bad-values``, ``unknown-band``, ``wrong-unit``, ``wrong-hdus`` or ``bad-wcs``.
    """
    if header.get("NAXIS") != 2 or header.get("BITPIX") != -32:
        raise FileError("HDU 0 is no image of 32-bit floats", reason="wrong-hdus", remedy=_AGAIN, path=path)
    if header.get("BSCALE", 1) != 1 or header.get("BZERO", 0) != 0:
        raise FileError("its image is scaled (BSCALE, BZERO)", reason="wrong-hdus", remedy=_AGAIN, path=path)
    band = str(header.get("FILTER", "")).strip()
    if len(band) != 1 or band not in BANDS:
        raise FileError(
            f"its FILTER is {band!r}, none of u, g, r, i, z", reason="unknown-band", remedy=_AGAIN, path=path
        )
    unit = str(header.get("BUNIT", "")).strip().lower()
    if unit not in ("nanomaggy", "nanomaggies", "nmgy"):
        raise FileError(
            f"its BUNIT is {unit!r}, not nanomaggy",
            reason="wrong-unit",
            remedy="give calibrated frames (frame-*.fits), not raw or otherwise scaled images",
            path=path,
        )
    run, camcol, frame = (fits.integer(header, key, path) for key in ("RUN", "CAMCOL", "FRAME"))
    field = frame - FRAMES_BEHIND_R[band]
    if camcol not in _GAIN:
        raise FileError(f"its CAMCOL is {camcol}, not 1 to 6", reason="bad-values", remedy=_AGAIN, path=path)
    nx, ny = fits.integer(header, "NAXIS1", path), fits.integer(header, "NAXIS2", path)
    if nx < 1 or ny < 1:
        raise FileError("its image has no pixels", reason="wrong-hdus", remedy=_AGAIN, path=path)
    after_reading_of_row_0 = ((ny - 1) / 2 / _CCD_ROWS - 0.5) * fits.number(header, "EXPTIME", path)
    middle = fits.number(header, "TAI", path) + after_reading_of_row_0
    cards, ra, dec = _celestial(header, (ny, nx), path)
    return FrameInfo(
        frame_id=f"sdss-{run}-{camcol}-{field}-{band}",
        survey="sdss",
        run=run,
        camcol=camcol,
        field=field,
        band=band,
        mjd=middle / _SECONDS_A_DAY,
        shape=(ny, nx),
        wcs=cards,
        ra=ra,
        dec=dec,
    )


def _celestial(header: fits.Header, shape: tuple[int, int], path: Path) -> tuple[str, float, float]:
    """Return a frame's WCS as header cards, and the position of its centre, degrees."""
    keys = ("CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2", "CD1_1", "CD1_2", "CD2_1", "CD2_2")
    try:
        values = {key: fits.number(header, key, path) for key in keys}
    except FileError as error:
        raise _bad_wcs(path, error.fault) from error
    if abs(values["CD1_1"] * values["CD2_2"] - values["CD1_2"] * values["CD2_1"]) < 1e-20:
        raise _bad_wcs(path, "its CD matrix is singular")
    words = {f"CTYPE{axis}": str(header.get(f"CTYPE{axis}", "")) for axis in (1, 2)}
    words |= {"CUNIT1": "deg", "CUNIT2": "deg"}
    # RADECSYS is the name of before FITS 3.0, which astropy warns about; an EQUINOX has no meaning beside
    # ICRS.
    words["RADESYS"] = str(header.get("RADESYS", header.get("RADECSYS", "ICRS")))
    if words["RADESYS"] not in ("ICRS", "FK5"):
        raise _bad_wcs(path, f"its coordinates are {words['RADESYS']!r}, neither ICRS nor FK5")
    cards = "".join(f"{key:<8}= {repr(value).upper():>20}".ljust(fits.CARD) for key, value in values.items())
    cards += "".join(f"{key:<8}= '{value:<8}'".ljust(fits.CARD) for key, value in words.items())
    for axis, size in enumerate(reversed(shape), start=1):
        cards += f"{f'NAXIS{axis}':<8}= {size:>20}".ljust(fits.CARD)
    try:
        # wcslib itself: `astropy.wcs.WCS` on top of it takes 13 times as long.
        wcs = Wcsprm(cards.encode("ascii"))
        wcs.set()
        if min(wcs.lng, wcs.lat) < 0:
            raise _bad_wcs(path, f"its axes are {words['CTYPE1']!r} and {words['CTYPE2']!r}, not celestial")
        centre = [[(shape[1] - 1) / 2, (shape[0] - 1) / 2]]
        ra, dec = wcs.p2s(centre, 0)["world"][0]
    except (ValueError, WcsError) as error:
        raise _bad_wcs(path, f"its WCS does not compute ({str(error).splitlines()[0]})") from error
    if not (np.isfinite(ra) and np.isfinite(dec)):
        raise _bad_wcs(path, "the position of its centre is not finite")
    return cards, float(ra), float(dec)


def _bad_wcs(path: Path, fault: str) -> FileError:
    return FileError(fault, reason="bad-wcs", remedy=_AGAIN, path=path)


def spectrum_info(header: fits.Header, path: Path) -> SpectrumInfo:
    """Check a spectrum's primary header and keep what identifies the spectrum.

    Its survey is ``sdss``, or ``mock`` where TELESCOP says that no telescope took it.

    Raises
    ------
    FileError
        ``missing-keyword`` or ``bad-values``.
    """
    plate, mjd, fiberid = (fits.integer(header, key, path) for key in ("PLATEID", "MJD", "FIBERID"))
    ra, dec = fits.position(header, "PLUG_RA", "PLUG_DEC", path)
    survey = fits.survey(header, "sdss")
    return SpectrumInfo(
        spectrum_id=f"{survey}-{plate}-{mjd}-{fiberid}",
        survey=survey,
        plate=plate,
        mjd=mjd,
        fiberid=fiberid,
        ra=ra,
        dec=dec,
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
            # Also false where anything is NaN; infinite pixels fail the upper bound.
            good = (variance > zero) & (variance < np.float32(3e38))
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
        ``frame-*.fits``, plain or compressed with bzip2 or gzip.
    scratch : Scratch, optional
        Memory for the frame's arrays, which the next frame read with the same `scratch` overwrites.

    Returns
    -------
    Frame
        Value and sigma of shape (ny, nx), nanomaggies.

    Raises
    ------
    FileError
        As `skyfuse.survey.recognise.recognise`, and ``no-good-pixels`` where none is valid.
    """
    path, scratch = Path(path), scratch or fits.Scratch()
    content, sha256 = fits.read_bytes(path, scratch)
    primary, *others = fits.parse(content, path)
    if not is_frame(primary.header):
        raise FileError(
            "it is no SDSS frame", reason="unknown-kind", remedy="give a frame-*.fits file", path=path
        )
    info = frame_info(primary.header, path)
    ny, nx = info.shape
    if len(others) < 2:
        raise FileError(
            "it lacks the calibration vector or the sky", reason="wrong-hdus", remedy=_AGAIN, path=path
        )
    vector, background = others[:2]
    if vector.header.get("BITPIX") != -32 or vector.stop - vector.start != 4 * nx:
        raise FileError(
            f"HDU 1 is no calibration vector of {nx} values", reason="wrong-hdus", remedy=_AGAIN, path=path
        )
    calib = np.frombuffer(content, ">f4", nx, vector.start).astype(np.float32)
    columns = fits.table(content, background, path, _SKY)
    if len(columns) < 3 or any(len(column) != 1 for column in columns.values()):
        raise FileError(
            "HDU 2 is no sky table (ALLSKY, XINTERP, YINTERP)", reason="wrong-hdus", remedy=_AGAIN, path=path
        )
    x, y = (columns[name].reshape(-1).astype(np.float32) for name in ("XINTERP", "YINTERP"))
    sky = columns["ALLSKY"].reshape(-1).astype(np.float32)
    shape = _sky_shape(background.header)
    if x.size != nx or y.size != ny or sky.size != shape[0] * shape[1] or sky.size == 0:
        raise FileError(
            "the sky of HDU 2 does not fit the image", reason="wrong-hdus", remedy=_AGAIN, path=path
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise FileError(
            "the sky's positions in HDU 2 are not finite", reason="bad-values", remedy=_AGAIN, path=path
        )
    value, sigma = (scratch.array(name, (ny, nx), np.float32) for name in ("value", "sigma"))
    empty = np.empty((-(-ny // _EMPTY_STEP), -(-nx // _EMPTY_STEP)), np.float32)
    count = _calibrate(
        np.frombuffer(content, np.uint32, ny * nx, primary.start).reshape(ny, nx),
        calib,
        sky.reshape(shape),
        x,
        y,
        gain(info.run, info.camcol, info.band),
        dark_variance(info.run, info.camcol, info.band),
        value,
        sigma,
        empty,
    )
    if count == 0:
        raise FileError("none of its pixels is valid", reason="no-good-pixels", remedy=_AGAIN, path=path)
    return Frame(info, value, sigma, float(np.nanmedian(empty)), sha256)


def _sky_shape(header: fits.Header) -> tuple[int, int]:
    """Return (ny, nx) of ALLSKY from its TDIM."""
    for column in range(1, int(header.get("TFIELDS", 0)) + 1):
        if str(header.get(f"TTYPE{column}", "")).upper() == "ALLSKY":
            words = str(header.get(f"TDIM{column}", "")).strip("() ").split(",")
            if len(words) == 2 and all(word.strip().isdigit() for word in words):
                return int(words[1]), int(words[0])
    return 0, 0


def read_spectrum(
    path: str | Path, *, keep_unknown: bool = False, keep_unclassified: bool = False
) -> Spectrum:
    """Read an SDSS spectrum, in the lite or the full format.

    A pixel is invalid where `ivar` is 0 or not finite, where `flux` is not finite, and where `and_mask` has
    one of the bits that say that the pixel cannot be trusted (SPPIXMASK: NOPLUG, BADARC, FULLREJECT, NOSKY,
    BRIGHTSKY, COMBINEREJ, BADSKYCHI, REDMONSTER).

    Parameters
    ----------
    path : path
        ``spec-*.fits``, plain or compressed with bzip2 or gzip.
    keep_unknown : bool
        Also read fibres that saw no known object: sky, unplugged, without a usable position.
    keep_unclassified : bool
        Also read spectra without the pipeline's verdicts: those that end after HDU 1, and those whose HDU 2
        has no CLASS, Z or ZWARNING. What is not told is None in `catalogue`.

    Returns
    -------
    Spectrum

    Raises
    ------
    FileError
        As `skyfuse.survey.recognise.recognise`, and ``sky-fibre``, ``unplugged``, ``bad-target``,
        ``no-data``, ``bad-values`` (wavelengths that do not rise) or ``no-good-pixels``.
    """
    path = Path(path)
    content, sha256 = fits.read_bytes(path)
    primary, *others = fits.parse(content, path)
    if not is_spectrum(primary.header):
        raise FileError(
            "it is no SDSS spectrum", reason="unknown-kind", remedy="give a spec-*.fits file", path=path
        )
    info = spectrum_info(primary.header, path)
    if len(others) < (1 if keep_unclassified else 2):
        raise FileError("it lacks HDU 1 or HDU 2", reason="wrong-hdus", remedy=_AGAIN, path=path)
    pixels = fits.table(content, others[0], path, _PIXELS)
    if len(pixels) < 4 or any(column.ndim > 1 or len(column) < 2 for column in pixels.values()):
        raise FileError(
            "HDU 1 lacks FLUX, LOGLAM, IVAR or AND_MASK", reason="wrong-hdus", remedy=_AGAIN, path=path
        )
    loglam = pixels["LOGLAM"].astype(np.float64)
    if not (np.isfinite(loglam).all() and (np.diff(loglam) > 0).all()):
        raise FileError("its wavelengths do not rise", reason="bad-values", remedy=_AGAIN, path=path)
    bins = np.rint(loglam * 1e4)
    first_bin = None
    if np.abs(loglam * 1e4 - bins).max() < _BIN_TOLERANCE and (np.diff(bins) == 1).all():
        first_bin = int(bins[0])
        loglam = bins * 1e-4
    flux, ivar = pixels["FLUX"].astype(np.float32), pixels["IVAR"].astype(np.float32)
    good = np.isfinite(flux) & (ivar > 0) & (ivar < np.inf) & (pixels["AND_MASK"] & _BAD_BITS == 0)
    if not good.any():
        raise FileError("none of its pixels is valid", reason="no-good-pixels", remedy=_AGAIN, path=path)
    sigma = np.full(len(flux), np.nan, np.float32)
    sigma[good] = 1 / np.sqrt(ivar[good])
    verdicts = fits.table(content, others[1], path, _VERDICTS) if len(others) > 1 else {}
    catalogue = _catalogue(verdicts, path, keep_unclassified=keep_unclassified)
    if catalogue["sn_median"] is None:
        catalogue["sn_median"] = float(np.median(flux[good] / sigma[good]))
    if not keep_unknown:
        _require_object(catalogue, path)
    flux[~good] = np.nan
    return Spectrum(info, 10.0**loglam, flux, sigma, first_bin, sha256, catalogue)


def _catalogue(
    row: dict[str, NDArray[Any]], path: Path, *, keep_unclassified: bool = False
) -> dict[str, Any]:
    """Return the pipeline's verdicts from the one row of HDU 2."""
    lacking = not (keep_unclassified or {"CLASS", "Z", "ZWARNING"} <= set(row))
    if lacking or any(column.shape != (1,) for column in row.values()):
        raise FileError(
            "HDU 2 lacks one row with CLASS, Z and ZWARNING", reason="wrong-hdus", remedy=_AGAIN, path=path
        )

    def text(*names: str) -> str:
        found = next((row[name][0] for name in names if name in row), b"")
        return bytes(found).decode("latin-1").strip()

    return {
        "class": text("CLASS") if "CLASS" in row else None,
        "subclass": text("SUBCLASS") if "CLASS" in row else None,
        "z": float(row["Z"][0]) if "Z" in row else None,
        "z_err": float(row["Z_ERR"][0]) if "Z_ERR" in row else None,
        "zwarning": int(row["ZWARNING"][0]) if "ZWARNING" in row else None,
        "sn_median": float(row["SN_MEDIAN_ALL"][0]) if "SN_MEDIAN_ALL" in row else None,
        "objtype": text("OBJTYPE", "SOURCETYPE"),
    }


def _require_object(catalogue: dict[str, Any], path: Path) -> None:
    """Raise where the flags say that the fibre saw no known object."""
    remedy = "leave it out, or read it from Python with keep_unknown=True"
    for bit, reason, fault in _NO_OBJECT:
        if (catalogue["zwarning"] or 0) & bit:
            raise FileError(f"it is {fault}", reason=reason, remedy=remedy, path=path)
    if catalogue["objtype"] == "SKY":
        raise FileError("it is a sky fibre", reason="sky-fibre", remedy=remedy, path=path)
