"""Write a mock sky as the surveys' own files, with its truth beside them."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.io import fits
from numpy.typing import NDArray

from skyfuse.errors import UsageError
from skyfuse.mock import bound, images, spectra
from skyfuse.mock.sky import (
    NX,
    NY,
    SPAWN_LABEL,
    SPAWN_SKY_FIBRE,
    SPAWN_SPECTRUM,
    Field,
    Sky,
    Source,
    draw_sky,
    generator,
)
from skyfuse.mock.spectra import BANDS

Progress = Callable[[int, int, str], None]
VERSION = 1
FIBRES, SKY_FIBRES = 640, 8
"""Fibres of a plate; the last ones look at empty sky."""
FIRST_PLATE, FIRST_MJD = 3001, 53001

COLUMNS = {
    "plate": "plate number of the spectrum",
    "mjd": "night of the spectrum, as in its name",
    "fiberid": "fibre number",
    "ra": "right ascension, deg (ICRS)",
    "dec": "declination, deg (ICRS)",
    "kind": "GALAXY, QSO or STAR",
    "subclass": "AGN, STARBURST, STARFORMING or empty (galaxies); BROADLINE (quasars); spectral type (stars)",
    "z": "true redshift",
    "log_mass": "log10 of stellar mass, solar masses",
    "log_sfr": "log10 of the true star-formation rate of the whole galaxy, solar masses a year",
    "avg": "the label: log_sfr with a scatter of label_sigma; the SFR table holds it, or what `listed` says",
    "flag": "FLAG of the SFR table, 0 for good; -1 for what has no row there",
    "listed": "what the SFR table holds: value, sentinel (-99), undefined (NaN), or absent (no row)",
    "label_sigma": "known standard deviation of avg about log_sfr, dex",
    "attainable_sigma": "sqrt(label_sigma² + Var(log_sfr | spectrum, images)), dex. The variance is the"
    " marginal of the inverse of (Fisher information of the noisy spectrum and of the images in five bands"
    " + inverse prior covariance), by finite differences of the mock's forward model at the true parameters:"
    " the Bayesian Cramér-Rao bound (Van Trees 1968, I, §2.4.3) in its local form. It bounds a model that"
    " knew the mock. Attainable R² of a set of objects = 1 - mean(attainable_sigma²) / var(avg)",
    "mag_u": "AB magnitude of the whole object",
    "mag_g": "likewise",
    "mag_r": "likewise",
    "mag_i": "likewise",
    "mag_z": "likewise",
    "fibre_mag_r": "AB magnitude of the light in the 3″ fibre",
    "radius": "half-light radius of the disc, arcsec, before inclination; NaN for point sources",
    "inclination": "deg, 0 is face-on",
    "position_angle": "deg, North through East",
    "bulge": "share of the old light in the bulge",
    "clump_share": "share of the young light in arms and clumps",
    "log_av": "log10 of the gas's attenuation in V, mag",
    "log_age": "log10 of the old stars' age, Gyr",
    "log_oh": "12 + log10(O/H) of the gas",
    "history": "log10 of the mean rate of the last Gyr over the present one",
    "quenched": "drawn from the quenched sequence",
    "blend": "another source was put 2.5 to 7 arcsec away",
    "edge": "put beside the patch's edge",
}
"""Columns of the truth table, and what they mean."""


_INFO = np.dtype(
    [
        ("PLATEID", ">i2"),
        ("MJD", ">i4"),
        ("FIBERID", ">i2"),
        ("RA", ">f8"),
        ("DEC", ">f8"),
        ("TARGETTYPE", "S19"),
        ("SPECTROTYPE", "S19"),
        ("SUBCLASS", "S21"),
        ("Z", ">f4"),
        ("Z_ERR", ">f4"),
        ("Z_WARNING", ">i2"),
    ]
)
_TOTSFR = np.dtype(
    [
        ("AVG", ">f4"),
        ("ENTROPY", ">f4"),
        ("FLAG", ">i2"),
        ("MEDIAN", ">f4"),
        ("MODE", ">f4"),
        ("P16", ">f4"),
        ("P2P5", ">f4"),
        ("P84", ">f4"),
        ("P97P5", ">f4"),
    ]
)


def _write_once(path: Path, make: Callable[[], bytes]) -> None:
    """Write a file whole or not at all; leave one that is there, since its bytes would be the same."""
    if path.exists():
        return
    data = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data)
    temporary.replace(path)


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _fits(*hdus: Any) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(buffer)
    return buffer.getvalue()


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 2880)


def frame_path(where: Field, band: str) -> Path:
    """Return a frame's place under the mock's folder, as on the SDSS archive server."""
    name = f"frame-{band}-{where.run:06d}-{where.camcol}-{where.number:04d}.fits"
    return Path("photoObj/frames/301", str(where.run), str(where.camcol), name)


def fibre_of(index: int) -> tuple[int, int, int]:
    """Return plate, MJD and fibre of a target."""
    plate, fibre = divmod(index, FIBRES - SKY_FIBRES)
    return FIRST_PLATE + plate, FIRST_MJD + plate, fibre + 1


def spectrum_path(plate: int, mjd: int, fibre: int) -> Path:
    """Return a lite spectrum's place under the mock's folder, as on the SDSS archive server."""
    return Path("spectro/redux/26/spectra/lite", f"{plate:04d}", f"spec-{plate:04d}-{mjd}-{fibre:04d}.fits")


def _frame_bytes(where: Field, observed: images.Conditions, image: NDArray[np.float32]) -> bytes:
    header = fits.Header()
    drift = images.DRIFT_ORDER.index(observed.band)
    for key, value, comment in (
        ("TAI", observed.tai, "1st row - Number of seconds since Nov 17 1858"),
        ("RA", round(where.ra, 6), "Right ascension of telescope boresight"),
        ("DEC", round(where.dec, 6), "Declination of telescope boresight"),
        ("ORIGIN", "MOCK", ""),
        ("TELESCOP", "2.5m", ""),
        ("TIMESYS", "TAI", ""),
        ("RUN", where.run, "Run number"),
        (
            "FRAME",
            where.number + 2 * images.DRIFT_ORDER.index(observed.band),
            "Frame sequence number within the run",
        ),
        ("STRIPE", 10, "Stripe index number"),
        ("FLAVOR", "science", "Flavor of this run"),
        ("EXPTIME", "53.907456", "Exposure time (seconds)"),
        ("CCDMODE", "DRIFT", "'STARING' or 'DRIFT'"),
        ("C_OBS", 26322, "CCD row clock rate (usec/row)"),
        ("CAMROW", 1 + drift, "Row in the imaging camera"),
        ("EQUINOX", 2000.0, ""),
        ("SOFTBIAS", 1000, "software bias added to all DN"),
        ("BUNIT", "nanomaggy", "1 nanomaggy = 3.631e-6 Jy"),
        ("FILTER", observed.band, "filter used"),
        ("CAMCOL", where.camcol, "column in the imaging camera"),
        ("RADECSYS", "ICRS", "International Celestial Ref. System"),
    ):
        header[key] = (value, comment)
    wcs = observed.wcs.wcs
    for axis in (0, 1):
        header[f"CTYPE{axis + 1}"] = ("RA---TAN", "DEC--TAN")[axis]
        header[f"CUNIT{axis + 1}"] = "deg"
        header[f"CRPIX{axis + 1}"] = float(wcs.crpix[axis])
        header[f"CRVAL{axis + 1}"] = float(wcs.crval[axis])
        for other in (0, 1):
            header[f"CD{axis + 1}_{other + 1}"] = float(wcs.cd[axis, other])
    header["NMGY"] = (float(observed.calib.mean()), "Calibration factor [nMgy per count]")
    header["RERUN"] = ("301", "rerun")
    sky = np.zeros(1, [("ALLSKY", ">f4", (192, 256)), ("XINTERP", ">f4", (NX,)), ("YINTERP", ">f4", (NY,))])
    sky["ALLSKY"], sky["XINTERP"], sky["YINTERP"] = observed.all_sky, images.X_INTERP, images.Y_INTERP
    track = np.zeros(
        1,
        [
            ("RUN", ">i4"),
            ("RERUN", "S3"),
            ("CAMCOL", ">i4"),
            ("FILTER", "S1"),
            ("NODE", ">f8"),
            ("INCL", ">f8"),
            ("NAXIS", ">i4", (2,)),
            ("FIELD", ">i4"),
            ("MJD", ">f8"),
            ("AIRMASS", ">f8"),
        ],
    )
    track["RUN"], track["RERUN"], track["CAMCOL"], track["FILTER"] = (
        where.run,
        b"301",
        where.camcol,
        observed.band.encode(),
    )
    track["NODE"], track["NAXIS"], track["FIELD"] = 95.0, (NX, NY), where.number
    track["MJD"], track["AIRMASS"] = observed.tai / 86400, 1.1
    return _fits(
        fits.PrimaryHDU(image, header),
        fits.ImageHDU(observed.calib),
        fits.BinTableHDU(sky),
        fits.BinTableHDU(track),
    )


_COADD = np.dtype(
    [
        ("flux", ">f4"),
        ("loglam", ">f4"),
        ("ivar", ">f4"),
        ("and_mask", ">i4"),
        ("or_mask", ">i4"),
        ("wdisp", ">f4"),
        ("sky", ">f4"),
        ("model", ">f4"),
    ]
)
_SPECOBJ = np.dtype(
    [
        ("SURVEY", "S6"),
        ("INSTRUMENT", "S4"),
        ("PROGRAMNAME", "S23"),
        ("PLATEQUALITY", "S8"),
        ("PLATESN2", ">f4"),
        ("SPECPRIMARY", "u1"),
        ("SPECLEGACY", "u1"),
        ("SPECOBJID", "S22"),
        ("RUN2D", "S3"),
        ("RUN1D", "S1"),
        ("CX", ">f8"),
        ("CY", ">f8"),
        ("CZ", ">f8"),
        ("SOURCETYPE", "S19"),
        ("TARGETTYPE", "S8"),
        ("OBJTYPE", "S16"),
        ("PLATE", ">i4"),
        ("TILE", ">i4"),
        ("MJD", ">i4"),
        ("FIBERID", ">i4"),
        ("PLUG_RA", ">f8"),
        ("PLUG_DEC", ">f8"),
        ("CLASS", "S6"),
        ("SUBCLASS", "S21"),
        ("Z", ">f4"),
        ("Z_ERR", ">f4"),
        ("RCHI2", ">f4"),
        ("DOF", ">i4"),
        ("VDISP", ">f4"),
        ("VDISP_ERR", ">f4"),
        ("WAVEMIN", ">f4"),
        ("WAVEMAX", ">f4"),
        ("ZWARNING", ">i4"),
        ("SN_MEDIAN_ALL", ">f4"),
        ("SN_MEDIAN", ">f4", (5,)),
        ("SPECTROFLUX", ">f4", (5,)),
        ("SPECTROFLUX_IVAR", ">f4", (5,)),
        ("ANYANDMASK", ">i4"),
        ("ANYORMASK", ">i4"),
    ]
)


@lru_cache(maxsize=128)
def _table_header(name: str, rows: int) -> bytes:
    """Return a table's header block; making it anew for each file would take most of the writing time."""
    dtype = {"COADD": _COADD, "SPECOBJ": _SPECOBJ}[name]
    header: str = fits.BinTableHDU(np.zeros(rows, dtype), name=name).header.tostring()
    return header.encode("ascii")


def _spectrum_bytes(
    seen: spectra.FibreSpectrum, where: tuple[int, int, int], ra: float, dec: float, record: NDArray[np.void]
) -> bytes:
    plate, mjd, fibre = where
    header = fits.Header()
    for key, value, comment in (
        ("SIMPLE", True, ""),
        ("BITPIX", 8, ""),
        ("NAXIS", 0, ""),
        ("EXTEND", True, ""),
        ("TAI", mjd * 86400.0 + 15000.0, "1st row - Number of seconds since Nov 17 1858"),
        ("RA", ra, "Right ascension (deg)"),
        ("DEC", dec, "Declination (deg)"),
        ("EQUINOX", 2000.0, ""),
        ("RADECSYS", "FK5", ""),
        ("TIMESYS", "tai", "TAI, not UTC"),
        ("MJD", mjd, "MJD of observation"),
        ("TELESCOP", "SDSS 2.5-M", "Sloan Digital Sky Survey"),
        ("EXPTIME", 3600.0, "Minimum of exposure times for all cameras"),
        ("FLAVOR", "science", ""),
        ("QUALITY", "excellent", "night/image quality"),
        ("PLATEID", plate, "Plate Id"),
        ("VACUUM", True, "Wavelengths are in vacuum"),
        ("NWORDER", 2, "Linear-log10 coefficients"),
        ("WFITTYPE", "LOG-LINEAR", "Linear-log10 dispersion"),
        ("COEFF0", round(seen.first * 1e-4, 4), "Central wavelength (log10) of first pixel"),
        ("COEFF1", 1e-4, "Log10 dispersion per pixel"),
        ("DC-FLAG", 1, "Log-linear flag"),
        ("BUNIT", "1E-17 erg/cm^2/s/Ang", ""),
        ("PLUG_RA", ra, "RA of object [deg]"),
        ("PLUG_DEC", dec, "dec of object [deg]"),
        ("FIBERID", fibre, "Fiber number (1-640)"),
    ):
        header[key] = (value, comment)
    n = len(seen.flux)
    coadd = np.zeros(n, _COADD)
    coadd["flux"], coadd["ivar"], coadd["loglam"] = seen.flux, seen.ivar, (seen.first + np.arange(n)) * 1e-4
    coadd["and_mask"], coadd["or_mask"] = seen.and_mask, seen.or_mask
    coadd["wdisp"], coadd["sky"], coadd["model"] = seen.wdisp, seen.sky, seen.expected
    return b"".join(
        [
            header.tostring().encode("ascii"),
            _table_header("COADD", n),
            _padded(coadd.tobytes()),
            _table_header("SPECOBJ", 1),
            _padded(record.tobytes()),
        ]
    )


def _specobj(
    source: Source | None,
    where: tuple[int, int, int],
    ra: float,
    dec: float,
    seen: spectra.FibreSpectrum,
    rng: np.random.Generator,
) -> NDArray[np.void]:
    """Return the pipeline's row; `source` is None for a sky fibre."""
    plate, mjd, fibre = where
    record = np.zeros(1, _SPECOBJ)
    row: dict[str, Any] = {
        "SURVEY": b"sdss",
        "INSTRUMENT": b"SDSS",
        "PROGRAMNAME": b"legacy",
        "PLATEQUALITY": b"good",
        "PLATESN2": 20.0,
        "SPECPRIMARY": 1,
        "SPECLEGACY": 1,
        "RUN2D": b"26",
        "PLATE": plate,
        "TILE": plate,
        "MJD": mjd,
        "FIBERID": fibre,
        "SPECOBJID": str((plate << 50) + (fibre << 38) + ((mjd - 50000) << 24)).encode(),
        "PLUG_RA": ra,
        "PLUG_DEC": dec,
        "RCHI2": 1.0,
        "DOF": len(seen.flux) - 10,
        "CX": np.cos(np.radians(ra)) * np.cos(np.radians(dec)),
        "CY": np.sin(np.radians(ra)) * np.cos(np.radians(dec)),
        "CZ": np.sin(np.radians(dec)),
        "WAVEMIN": 10 ** (seen.first * 1e-4),
        "WAVEMAX": 10 ** ((seen.first + len(seen.flux) - 1) * 1e-4),
        "ANYANDMASK": np.bitwise_or.reduce(seen.and_mask),
        "ANYORMASK": np.bitwise_or.reduce(seen.or_mask),
    }
    good = seen.ivar > 0
    noise = np.sqrt(seen.ivar[good])
    row["SN_MEDIAN_ALL"] = float(np.median(seen.flux[good] * noise)) if good.any() else 0.0
    if source is None:
        row |= {
            "SOURCETYPE": b"SKY",
            "TARGETTYPE": b"SKY",
            "OBJTYPE": b"SKY",
            "CLASS": b"GALAXY",
            "ZWARNING": 4 | 1,
        }
    else:
        error = float(np.clip(3e-4 / max(row["SN_MEDIAN_ALL"], 0.3), 5e-6, 3e-3)) * (
            10 if source.kind == "QSO" else 1
        )
        row |= {
            "SOURCETYPE": {"GALAXY": b"GALAXY", "QSO": b"QSO", "STAR": b"SPECTROPHOTO_STD"}[source.kind],
            "TARGETTYPE": b"SCIENCE",
            "OBJTYPE": source.kind.encode(),
            "CLASS": source.kind.encode(),
            "SUBCLASS": source.subclass.encode(),
            "Z": source.z + error * rng.standard_normal(),
            "Z_ERR": error,
            "ZWARNING": 4 if row["SN_MEDIAN_ALL"] < 1.5 or rng.random() < 0.01 else 0,
            "VDISP": source.sigma_v if source.kind == "GALAXY" else 0.0,
            "VDISP_ERR": 10.0,
        }
    for key, value in row.items():
        record[key] = value
    return record


@dataclass(frozen=True, slots=True)
class MockSummary:
    """What was written.

    Attributes
    ----------
    path : Path
    counts : dict
        Number of frames, spectra and labels, and of targets by kind.
    truth : Path
        The truth table.
    sfr : Path
        Folder of the star-formation tables.
    """

    path: Path
    counts: dict[str, int] = field(default_factory=dict)
    truth: Path = Path()
    sfr: Path = Path()

    def __str__(self) -> str:
        rows = [("folder", str(self.path)), *((name, f"{count:,}") for name, count in self.counts.items())]
        rows += [("truth", str(self.truth)), ("star-formation tables", str(self.sfr))]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def write_mock(
    out: Path,
    *,
    fields: int = 2,
    objects: int = 1500,
    seed: int = 7,
    templates: Path | None = None,
    expected: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> MockSummary:
    """Write a mock sky: frames, spectra and a star-formation table in the survey's formats, and the truth.

    Files are written whole or not at all. A run that was stopped goes on where it stopped when it is called
    with the same arguments; the bytes of each file depend on the arguments alone.

    Parameters
    ----------
    out : path
        Folder; made if it is not there.
    fields, objects : int
        Fields of five frames each, and objects with spectra.
    seed : int
        Not negative.
    templates : path, optional
        Folder of SDSS pipeline eigentemplates (``spEigenGal-55740.fits`` and others): stars are drawn as
        its stars, galaxies' populations and quasars as their nearest combination of its eigenspectra.
    expected : bool
        Write the noise-free, sky-subtracted expectation of every frame and spectrum too, as
        ``expected/STEM.npy``.
    workers : int, optional
        Processes to write with; by default one for each processor, and none beside this one for a small sky.
    progress : callable, optional
        Called with (done, total, what).

    Returns
    -------
    MockSummary

    Raises
    ------
    UsageError
        An argument is out of range, too many objects were asked for, templates are missing, or the folder
        holds something else, or another mock.
    """
    out = Path(out)
    for name, value, least in (("fields", fields, 1), ("objects", objects, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise UsageError(f"{name} is {value!r}", remedy=f"give a whole number of at least {least}")
    bank = None if templates is None else spectra.load_templates(Path(templates))
    sky = draw_sky(int(seed), int(fields), int(objects))
    _claim(
        out,
        {
            "seed": int(seed),
            "fields": int(fields),
            "objects": int(objects),
            "expected": expected,
            "templates": None if bank is None else bank.name,
        },
    )
    sky_fibres = max(2, objects // 160)
    total = fields + objects + sky_fibres
    done = 0

    def report(what: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, what)

    if workers is None:
        # Starting processes costs as much as some hundred spectra.
        workers = min(os.cpu_count() or 1, max(1, (objects + 100 * fields) // 400))
    writer = _Writer(out, sky, bank, expected)
    rows: list[dict[str, Any]] = []
    with _mapping(writer, workers) as mapped:
        for _ in mapped(_Writer.field, range(fields)):
            report("frames")
        for row in mapped(_Writer.target, range(objects)):
            rows.append(row)
            report("spectra")
    for number in range(sky_fibres):
        writer.sky_fibre(number)
        report("spectra")
    truth = pd.DataFrame(rows)[list(COLUMNS)]
    listed = _write_tables(out, truth)
    buffer = io.BytesIO()
    truth.to_parquet(buffer, index=False)
    _write_once(out / "truth.parquet", buffer.getvalue)
    kinds = truth["kind"].value_counts()
    counts = {
        "frames": len(BANDS) * fields,
        "spectra": objects + sky_fibres,
        "galaxies": int(kinds.get("GALAXY", 0)),
        "quasars": int(kinds.get("QSO", 0)),
        "stars": int(kinds.get("STAR", 0)),
        "sky fibres": sky_fibres,
        "rows of the SFR table": listed,
    }
    return MockSummary(out, counts, out / "truth.parquet", out / "sfr")


def _claim(out: Path, parameters: dict[str, Any]) -> None:
    """Mark the folder as that of this mock, or refuse it."""
    marker = out / "truth.json"
    if out.exists() and not out.is_dir():
        raise UsageError("this is a file", remedy="give a folder", path=out)
    if marker.exists():
        try:
            held = json.loads(marker.read_text(encoding="utf-8"))
            found = held["parameters"] if held["version"] == VERSION else None
        except (ValueError, KeyError, TypeError):
            found = None
        if found != parameters:
            raise UsageError(
                f"this folder holds a mock made otherwise ({found})",
                remedy="give another folder, or delete this one",
                path=out,
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(
            "the folder is not empty and holds no mock", remedy="give an empty or a new folder", path=out
        )
    text = {"version": VERSION, "parameters": parameters, "columns": COLUMNS}
    _write_once(marker, lambda: json.dumps(text, indent=1, ensure_ascii=False).encode("utf-8"))


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes one field or one spectrum of a sky at a time, in any order and any process."""

    out: Path
    sky: Sky
    bank: spectra.Populations | None
    expected: bool

    def field(self, index: int) -> None:
        """Write the five frames of a field."""
        where = self.sky.fields[index]
        paths = [self.out / frame_path(where, band) for band in BANDS]
        extra = [self.out / "expected" / f"{path.stem}.npy" for path in paths] if self.expected else []
        if all(path.exists() for path in [*paths, *extra]):
            return
        observed = images.conditions(self.sky, where)
        for number, (conditions, truth) in enumerate(
            zip(observed, images.render(self.sky, where, observed, self.bank), strict=True)
        ):
            if self.expected:
                _write_once(extra[number], partial(_npy, truth.astype(np.float32)))
            image = images.expose(truth, conditions, images.noise_generator(self.sky, where, number))
            _write_once(paths[number], partial(_frame_bytes, where, conditions, image))

    def sky_fibre(self, number: int) -> None:
        """Write a spectrum of empty sky: noise about zero, and no object."""
        rng = generator(self.sky.seed, SPAWN_SKY_FIBRE, number)
        plate, fibre = divmod(number, SKY_FIBRES)
        where = (FIRST_PLATE + plate, FIRST_MJD + plate, FIBRES - fibre)
        field_ = self.sky.fields[int(rng.integers(len(self.sky.fields)))]
        ra, dec = field_.ra + rng.uniform(-0.07, 0.07), field_.dec + rng.uniform(-0.1, 0.1)
        seen = spectra.observe(np.zeros(spectra.N_BINS), rng)
        self._spectrum(where, ra, dec, seen, _specobj(None, where, ra, dec, seen, rng))

    def target(self, index: int) -> dict[str, Any]:
        """Write a target's spectrum and return its row of the truth table."""
        source = self.sky.targets[index]
        light = spectra.source_light(source, self.bank)
        parts = images.transforms(source, images.box_size(source))
        rng = generator(self.sky.seed, SPAWN_SPECTRUM, source.index)
        fibre_light = images.fibre_shares(parts) @ light
        seen = spectra.observe(fibre_light, rng)
        where = fibre_of(source.index)
        record = _specobj(source, where, source.ra, source.dec, seen, rng)
        self._spectrum(where, source.ra, source.dec, seen, record)
        return _truth_row(self.sky, source, light, parts, fibre_light, seen, self.bank)

    def _spectrum(
        self,
        where: tuple[int, int, int],
        ra: float,
        dec: float,
        seen: spectra.FibreSpectrum,
        record: NDArray[np.void],
    ) -> None:
        path = self.out / spectrum_path(*where)
        _write_once(path, lambda: _spectrum_bytes(seen, where, ra, dec, record))
        if self.expected:
            extra = self.out / "expected" / f"{path.stem}.npy"
            _write_once(extra, lambda: _npy(seen.expected.astype(np.float32)))


# A worker process's writer: the sky is the same for every task, so it travels once a process.
_held: list[_Writer] = []


def _start_worker(writer: _Writer) -> None:
    _held.append(writer)


def _in_worker(task: Callable[[_Writer, int], Any], index: int) -> Any:
    return task(_held[0], index)


@contextmanager
def _mapping(writer: _Writer, workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a `map` of the writer's methods over indices: results in order, in this process or several."""
    if workers == 1:
        yield lambda task, indices: (task(writer, index) for index in indices)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(writer,)) as pool:
        try:
            yield lambda task, indices: pool.map(
                partial(_in_worker, task), indices, chunksize=max(1, min(16, len(indices) // (4 * workers)))
            )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _truth_row(
    sky: Sky,
    source: Source,
    light: NDArray[np.float64],
    parts: NDArray[np.complex128],
    fibre_light: NDArray[np.float64],
    seen: spectra.FibreSpectrum,
    bank: spectra.Populations | None,
) -> dict[str, Any]:
    """Return what is true of a target, and what its star-formation table says."""
    where = fibre_of(source.index)
    weights = spectra.filter_weights()
    mags = 22.5 - 2.5 * np.log10(weights @ light.sum(axis=0))
    row: dict[str, Any] = dict.fromkeys(COLUMNS, np.nan)
    row |= {"plate": where[0], "mjd": where[1], "fiberid": where[2], "flag": -1, "listed": "absent"}
    for name in (
        "ra",
        "dec",
        "kind",
        "subclass",
        "z",
        "log_mass",
        "log_sfr",
        "log_av",
        "log_age",
        "log_oh",
        "history",
        "quenched",
        "blend",
        "edge",
    ):
        row[name] = getattr(source, name)
    row |= {f"mag_{band}": float(mag) for band, mag in zip(BANDS, mags, strict=True)}
    row["fibre_mag_r"] = float(22.5 - 2.5 * np.log10(weights[2] @ fibre_light))
    if source.shape is None:
        return row
    shape = source.shape
    row |= {"radius": shape.re_disc, "inclination": shape.inclination, "position_angle": shape.position_angle}
    row |= {"bulge": shape.bulge, "clump_share": shape.clump_share}
    rng = generator(sky.seed, SPAWN_LABEL, source.index)
    sigma = float(np.clip(0.24 * np.exp(0.25 * rng.standard_normal()), 0.1, 0.6))
    row["flag"] = 0 if rng.random() < 0.85 else int(rng.integers(1, 6))
    # A flagged fit is a worse one.
    sigma *= 2.0 if row["flag"] else 1.0
    row["avg"] = source.log_sfr + sigma * rng.standard_normal()
    row["label_sigma"] = sigma
    row["attainable_sigma"] = float(
        np.hypot(sigma, np.sqrt(bound.rate_variance(source, light, parts, seen, bank)))
    )
    row["listed"] = str(rng.choice(["value", "sentinel", "undefined", "absent"], p=[0.88, 0.05, 0.03, 0.04]))
    return row


def _write_tables(out: Path, truth: pd.DataFrame) -> int:
    """Write the two row-aligned tables of the MPA-JHU catalogue; return their number of rows."""
    rows = truth[truth["listed"] != "absent"]
    n = len(rows)
    info = np.zeros(n, _INFO)
    for key, column in (
        ("PLATEID", "plate"),
        ("MJD", "mjd"),
        ("FIBERID", "fiberid"),
        ("RA", "ra"),
        ("DEC", "dec"),
        ("Z", "z"),
    ):
        info[key] = rows[column]
    info["Z_ERR"], info["TARGETTYPE"], info["SPECTROTYPE"] = 1e-4, b"GALAXY", b"GALAXY"
    info["SUBCLASS"] = rows["subclass"].str.encode("ascii")
    sfr = np.zeros(n, _TOTSFR)
    # Offsets of the percentiles of a normal distribution, in standard deviations.
    for key, offset in (
        ("AVG", 0.0),
        ("MEDIAN", 0.0),
        ("MODE", 0.0),
        ("P16", -1.0),
        ("P84", 1.0),
        ("P2P5", -1.96),
        ("P97P5", 1.96),
    ):
        value = (rows["avg"] + offset * rows["label_sigma"]).to_numpy(copy=True)
        value[(rows["listed"] == "sentinel").to_numpy()] = -99.0
        value[(rows["listed"] == "undefined").to_numpy()] = np.nan
        sfr[key] = value
    sfr["FLAG"] = rows["flag"]
    for name, table in (("gal_info_dr7_v5_2.fit", info), ("gal_totsfr_dr7_v5_2.fits", sfr)):
        _write_once(out / "sfr" / name, partial(_fits, fits.PrimaryHDU(), fits.BinTableHDU(table)))
    return n
