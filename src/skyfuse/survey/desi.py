"""DESI spectra: coadds of many targets in one file, and beside it the redshifts that redrock found.

The formats are those of the DESI data model, files ``coadd-*`` and ``redrock-*`` (``zbest-*`` of old).
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skyfuse.errors import FileError
from skyfuse.survey import fits, spectra
from skyfuse.survey.fits.faults import AGAIN
from skyfuse.survey.reader import Options, Partner, Refused, SurveyFile
from skyfuse.survey.records import Instrument, Spectroscopy, Spectrum, SpectrumInfo, content_of
from skyfuse.survey.spectra import LEFT_OUT

DESI = Instrument("desi", spectroscopy=Spectroscopy("desi"))
"""The spectrographs of the Mayall telescope: three arms each, B, R and Z."""

# An HDU of one arm; coadds of all arms together (BRZ) have the same names.
_ARM = re.compile(r"([BRZ]+)_(WAVELENGTH|FLUX|IVAR|MASK)")
_FIBERMAP = {
    "TARGETID": "iu",
    "TARGET_RA": "f",
    "TARGET_DEC": "f",
    "OBJTYPE": "S",
    "COADD_FIBERSTATUS": "iu",
    "FIBERSTATUS": "iu",
    "EXPID": "iu",
    "COADD_NUMEXP": "iu",
    "NUM_EXPID": "iu",
}
_EXPOSURES = {"TARGETID": "iu", "MJD": "f"}
_REDSHIFTS = {"TARGETID": "iu", "Z": "f", "ZERR": "f", "ZWARN": "iu", "SPECTYPE": "S", "SUBTYPE": "S"}
# Bits of COADD_FIBERSTATUS (desispec, maskbits: fibermask) with which DESI's pipeline too uses no spectrum.
# Those of single amplifiers (BADAMPB and so on) concern one arm, whose inverse variance is 0 then; those that
# only inform (STUCKPOSITIONER, RESTRICTED, POORPOSITION) stay.
_BAD_FIBRE = (
    (1 << 8 | 1 << 9, "bad-target", "a fibre off its target, or nobody knows where"),
    (
        1 << 0 | 1 << 2 | sum(1 << bit for bit in range(16, 22)),
        "unplugged",
        "a fibre that is unassigned, broken or not to be calibrated",
    ),
)
# Bins of the arms are one where they differ by no more than this share: what float32 rounds at 9824 Å.
_SAME_BIN = 1e-3
# numpy's names of the numbers that BITPIX tells.
_NUMBERS = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
# Of a joined spectrum: a thousand times what DESI has.
_MOST_BINS = 10_000_000
# Of redshifts: some MB for 500 targets.
_MOST_REDSHIFT_BYTES = 1 << 29
_NAMES = {"coadd": ("redrock", "zbest"), "redrock": ("coadd",), "zbest": ("coadd",)}
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,79}")

_held = threading.local()


class _Arm(NamedTuple):
    """Where the spectra of one arm lie.

    Attributes
    ----------
    first : int
        Bin of the joined grid where it begins.
    size : int
        Bins.
    flux, ivar, mask : HDU or None
        A coadd without a mask has it in its inverse variances.
    """

    first: int
    size: int
    flux: fits.HDU
    ivar: fits.HDU
    mask: fits.HDU | None


@dataclass(frozen=True, slots=True)
class _Redshift:
    """What redrock says of one target."""

    z: float
    z_err: float
    zwarning: int
    kind: bytes
    subclass: bytes


class _Redshifts:
    """A redrock file: what it says, by target.

    Attributes
    ----------
    sha256 : str
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        content, hdus, self.sha256 = fits.read(path, most=_MOST_REDSHIFT_BYTES)
        hdu = next((one for one in hdus if _is_redshifts(one.header)), None)
        rows = {} if hdu is None else fits.table(content, hdu, path, _REDSHIFTS)
        if len(rows) < len(_REDSHIFTS) or any(column.ndim > 1 for column in rows.values()):
            raise FileError(
                f"it has no table of redshifts with {', '.join(_REDSHIFTS)}",
                reason="wrong-hdus",
                remedy=AGAIN,
                path=path,
            )
        self._columns = [rows[name].tolist() for name in ("Z", "ZERR", "ZWARN", "SPECTYPE", "SUBTYPE")]
        self._rows: dict[int, list[int]] = {}
        for row, target in enumerate(rows["TARGETID"].tolist()):
            self._rows.setdefault(target, []).append(row)

    def of(self, target: int) -> _Redshift | None:
        """Return what it says of a target, None for nothing."""
        rows = self._rows.get(target, [])
        if len(rows) > 1:
            raise FileError(
                f"it has the target {target} {len(rows)} times",
                reason="bad-values",
                remedy=AGAIN,
                path=self._path,
            )
        return _Redshift(*(column[rows[0]] for column in self._columns)) if rows else None


class _Coadd:
    """An opened coadd: where what it holds lies, read target by target.

    Attributes
    ----------
    path : Path
    targets : list of int
        TARGETID by row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.redshifts_path = _beside(path)
        self._content: memoryview | fits.OnDisk
        self._digests: tuple[str, ...] = ()
        if fits.is_compressed(path):
            self._content, self._packed = fits.read_bytes(path)
        else:
            self._content = fits.OnDisk(path)
        self._hdus = fits.parse(self._content, path, sums=False)
        self._header = self._hdus[0].header
        fits.require_one_voice(self._header, path)
        self._named: dict[str, fits.HDU] = {}
        for hdu in self._hdus:
            name = _name(hdu.header)
            if name and name in self._named:
                raise self._wrong(f"it has two HDUs {name}")
            self._named[name] = hdu
        self._read_fibermap()
        self._read_arms()

    def check(self) -> None:
        """Read all of it once, against its sums, and the redshifts: before the first spectrum."""
        if self._digests:
            return
        fits.require_sums(self._content, self._hdus, self.path)
        own = self._content.sha256() if isinstance(self._content, fits.OnDisk) else self._packed
        self._redshifts = None if self.redshifts_path is None else _Redshifts(self.redshifts_path)
        self._digests = (own,) if self._redshifts is None else (own, self._redshifts.sha256)

    @cached_property
    def _rows(self) -> dict[str, int]:
        # The first one of a target.
        return {str(target): row for row, target in reversed(list(enumerate(self.targets)))}

    @cached_property
    def _last_exposures(self) -> dict[int, float]:
        """MJD of the last exposure, by target."""
        rows = self._table("EXP_FIBERMAP", _EXPOSURES)
        last: dict[int, float] = {}
        if len(rows) == len(_EXPOSURES):
            for target, mjd in zip(rows["TARGETID"].tolist(), rows["MJD"].tolist(), strict=True):
                if math.isfinite(mjd):
                    last[target] = max(mjd, last.get(target, mjd))
        return last

    def _table(self, name: str, wanted: dict[str, str]) -> dict[str, NDArray[Any]]:
        """Read the columns of a table that are there."""
        if name not in self._named:
            return {}
        hdu = self._named[name]
        content = memoryview(self._content[hdu.start : hdu.stop])
        moved = fits.HDU(hdu.header, 0, len(content), len(content))
        rows = fits.table(content, moved, self.path, wanted)
        if any(column.ndim > 1 for column in rows.values()):
            raise self._wrong(f"{name} has columns of several values")
        return rows

    def _read_fibermap(self) -> None:
        rows = self._table("FIBERMAP", _FIBERMAP)
        if not rows:
            raise FileError(
                "it has no FIBERMAP: nothing tells which targets its spectra are of, and where they are",
                reason="missing-fibermap",
                remedy="give the coadd as the DESI archive has it",
                path=self.path,
            )
        for name in ("TARGETID", "TARGET_RA", "TARGET_DEC"):
            if name not in rows:
                raise self._wrong(f"its FIBERMAP has no {name}")
        # Coadds of old have that of the first exposure, beside what tells that there are several.
        if "EXPID" in rows and not {"COADD_FIBERSTATUS", "COADD_NUMEXP", "NUM_EXPID"} & set(rows):
            raise FileError(
                "it holds single exposures, several spectra of one target",
                reason="unknown-kind",
                remedy="give the coadd-*.fits of the same targets",
                path=self.path,
            )
        self.targets: list[int] = rows["TARGETID"].tolist()
        count = len(self.targets)
        self._ra, self._dec = rows["TARGET_RA"].tolist(), rows["TARGET_DEC"].tolist()
        self._objtype = rows["OBJTYPE"].tolist() if "OBJTYPE" in rows else [b"TGT"] * count
        status = rows.get("COADD_FIBERSTATUS", rows.get("FIBERSTATUS"))
        self._status: list[int] = [0] * count if status is None else status.tolist()

    def _read_arms(self) -> None:
        """Find the arms and bring their bins onto one grid."""
        arms = _arms(self._named)
        parts = [match for name in self._named if (match := _ARM.fullmatch(name))]
        lone = next((match for match in parts if match[1] not in arms), None)
        if lone is not None:
            raise self._wrong(f"it has {lone[0]} and no {lone[1]}_FLUX")
        masked = {match[1] for match in parts if match[2] == "MASK"}
        if masked and masked < {*arms}:
            raise self._wrong(f"it has no {min({*arms} - masked)}_MASK, but that of another arm")
        waves = {name: self._wavelengths(name) for name in arms}
        if not waves:
            raise self._wrong("it has no spectra")
        first = min(waves.values(), key=lambda wave: float(wave[0]))
        start, span = float(first[0]), float(first[-1] - first[0])
        # Differences of neighbours are rounded more.
        step = span / (len(first) - 1)
        if not step > 0:
            raise self._wrong("its wavelengths do not rise")
        # The step that was meant, where rounding accounts for the rest.
        if abs(round(step, 6) * (len(first) - 1) - span) < _SAME_BIN * step:
            step = round(step, 6)
        self.first_bin = round(start / step) if abs(start / step - round(start / step)) < _SAME_BIN else None
        self.step = None if self.first_bin is None else step
        if self.first_bin is not None:
            start = self.first_bin * step
        self._arms = [self._arm(name, wave, start, step) for name, wave in waves.items()]
        bins = max(arm.first + arm.size for arm in self._arms)
        if bins > _MOST_BINS:
            raise self._wrong(f"its arms together span {bins} bins")
        counts = np.arange(bins, dtype=np.float64)
        self.wavelength = (
            start + counts * step if self.first_bin is None else (self.first_bin + counts) * step
        )
        spectra.require_wavelengths(np.log10(self.wavelength), self.path)

    def _wavelengths(self, name: str) -> NDArray[np.float64]:
        hdu = self._named.get(f"{name}_WAVELENGTH")
        if hdu is None or hdu.header.get("NAXIS") != 1:
            raise self._wrong(f"it has no {name}_WAVELENGTH of one axis")
        wave = self._numbers(hdu, slice(hdu.start, hdu.stop)).astype(np.float64)
        if wave.size < 2 or not np.isfinite(wave).all():
            raise self._wrong(f"{name}_WAVELENGTH holds no wavelengths")
        return wave

    def _arm(self, name: str, wave: NDArray[np.float64], start: float, step: float) -> _Arm:
        place = (wave - start) / step
        bins = np.rint(place)
        if np.abs(place - bins).max() > _SAME_BIN or (np.diff(bins) != 1).any():
            raise FileError(
                f"the wavelengths of its arm {name} are not on one grid with the others, steps of {step} Å",
                reason="bad-values",
                remedy=AGAIN,
                path=self.path,
            )
        found = []
        for part in ("FLUX", "IVAR", "MASK"):
            hdu = self._named.get(f"{name}_{part}")
            if hdu is None and part == "MASK":
                break
            shape = (len(self.targets), len(wave))
            if hdu is None or (hdu.header.get("NAXIS2"), hdu.header.get("NAXIS1")) != shape:
                raise self._wrong(f"{name}_{part} is no image of {shape[0]} targets of {shape[1]} bins")
            if (hdu.header["BITPIX"] in (-32, -64)) == (part == "MASK") or hdu.header["NAXIS"] != 2:
                raise self._wrong(f"{name}_{part} is no image of the right numbers")
            if part != "MASK":
                fits.require_plain_image(hdu.header, self.path)
            # Early coadds give none.
            if part == "FLUX" and (unit := str(hdu.header.get("BUNIT", "")).strip()):
                spectra.require_flux_unit(unit, self.path)
            found.append(hdu)
        flux, ivar, *mask = found
        return _Arm(int(bins[0]), len(wave), flux, ivar, mask[0] if mask else None)

    def _numbers(self, hdu: fits.HDU, place: slice) -> NDArray[Any]:
        """Return numbers of an image, as they are stored."""
        return np.frombuffer(self._content[place], _NUMBERS[int(hdu.header["BITPIX"])])

    def _wrong(self, fault: str) -> FileError:
        return FileError(fault, reason="wrong-hdus", remedy=AGAIN, path=self.path)

    def info(self, row: int, *, keep_unknown: bool) -> SpectrumInfo:
        """Return what identifies the spectrum of a row, or refuse a fibre that saw no target."""
        target = self.targets[row]
        if not keep_unknown:
            self._require_target(target, self._objtype_of(row), self._status[row])
        ra, dec = self._ra[row], self._dec[row]
        if not (0 <= ra <= 360 and -90 <= dec <= 90):
            raise FileError(
                f"the position of its target {target}, {ra}, {dec}, is not on the sky",
                reason="bad-values",
                remedy=AGAIN,
                path=self.path,
            )
        mjd = self._last_exposures.get(target)
        survey = fits.survey(self._header, "desi")
        return SpectrumInfo(
            spectrum_id=f"{survey}-{self._group}-{target}",
            survey=survey,
            plate=None,
            mjd=None if mjd is None else int(fits.require_date(mjd, self.path)),
            fiberid=None,
            ra=ra % 360.0,
            dec=dec,
            instrument="desi",
            key=str(target),
            # Redshifts that come later change the folder.
            partners=(str(self.redshifts_path or self.path.parent),),
        )

    def _require_target(self, target: int, objtype: str, status: int) -> None:
        found = next((one for one in _BAD_FIBRE if status & one[0]), None)
        if objtype == "SKY":
            reason, fault = "sky-fibre", "a sky fibre"
        elif target <= 0 or objtype == "":
            reason, fault = "unplugged", "a fibre without a target"
        elif objtype == "BAD":
            reason, fault = "bad-target", "a fibre with a bad target"
        elif found is not None:
            _, reason, fault = found
        else:
            return
        raise FileError(f"target {target}: it is {fault}", reason=reason, remedy=LEFT_OUT, path=self.path)

    @cached_property
    def _group(self) -> str:
        """What tells coadds of one target apart: exposures of one survey and program, or of one tile.

        A target lies in one HEALPix cell, so that the cell's number would add nothing.
        """
        header, kind = self._header, str(self._header.get("SPGRP", ""))
        if kind in ("", "healpix") and {"SURVEY", "PROGRAM"} <= header.keys():
            group = "-".join(fits.text(header, key, self.path) for key in ("SURVEY", "PROGRAM"))
        elif kind and {"TILEID", "SPGRPVAL"} <= header.keys():
            value = header["SPGRPVAL"]
            night = {"cumulative": f"thru{value}", "pernight": f"{value}"}.get(kind, f"{kind}{value}")
            group = f"tile{fits.integer(header, 'TILEID', self.path, 0)}-{night}"
        else:
            # Early headers tell nothing; the names of their files do.
            stem = self.path.name.split(".fits")[0].removeprefix("coadd-")
            group = re.sub(r"[^A-Za-z0-9_.+-]", "-", stem)
        if not _GROUP.fullmatch(group):
            raise FileError(
                f"its survey and program, or tile, make no name: {group[:80]!r}",
                reason="bad-values",
                remedy=AGAIN,
                path=self.path,
            )
        return group

    def records(self) -> list[SpectrumInfo | Refused]:
        """Return all targets, those without one as refused."""
        found: list[SpectrumInfo | Refused] = []
        for row, target in enumerate(self.targets):
            if self._rows[str(target)] != row:
                message = f"{self.path}: has the target {target} again in row {row}; {AGAIN}"
                found.append(Refused(f"{target}#{row}", "duplicate", message))
                continue
            try:
                found.append(self.info(row, keep_unknown=False))
            except FileError as error:
                found.append(Refused(str(target), error.reason, str(error)))
        return found

    def read(self, key: str, options: Options) -> Spectrum:
        """Read the spectrum of a target."""
        if key not in self._rows:
            raise FileError(
                f"it has no target {key!r} any more",
                reason="missing-target",
                remedy="build again",
                path=self.path,
            )
        row = self._rows[key]
        info = self.info(row, keep_unknown=options.keep_unknown)
        redshift = None if self._redshifts is None else self._redshifts.of(self.targets[row])
        if redshift is None and not options.keep_unclassified:
            raise FileError(
                f"target {key}: no redrock file beside the coadd has its redshift",
                reason="no-redshifts",
                remedy="put the redrock file of the same release beside it, or keep what is not classified",
                path=self.path,
            )
        joined, ivar = self._joined(row)
        flux, sigma = spectra.flux_and_sigma(joined, ivar, ivar == 0, self.path)
        catalogue = self._catalogue(redshift)
        catalogue["sn_median"] = spectra.sn_median(flux, sigma)
        catalogue["objtype"] = self._objtype_of(row)
        if not options.keep_unknown:
            spectra.require_object(catalogue["zwarning"], catalogue["objtype"], self.path)
        digest = content_of(self._digests)
        return Spectrum(info, self.wavelength, flux, sigma, self.first_bin, digest, catalogue, self.step)

    def _objtype_of(self, row: int) -> str:
        return fits.printable(self._objtype[row].rstrip(b"\0 "), self.path).strip()

    def _joined(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return flux and inverse variance of all arms on one grid.

        ``flux = Σ ivar · flux / Σ ivar`` and ``ivar = Σ ivar`` over the arms that see a bin.
        """
        total, weight = np.zeros(len(self.wavelength)), np.zeros(len(self.wavelength))
        for arm in self._arms:
            flux, ivar = self._row(arm.flux, arm.size, row), self._row(arm.ivar, arm.size, row)
            good = np.isfinite(flux) & (ivar > 0) & (ivar < np.inf)
            if arm.mask is not None:
                # Unsigned integers are stored less half of their range.
                good &= self._row(arm.mask, arm.size, row) == -int(arm.mask.header.get("BZERO", 0))
            own = slice(arm.first, arm.first + arm.size)
            ivar = np.where(good, ivar, 0).astype(np.float64)
            total[own] += ivar * np.where(good, flux, 0)
            weight[own] += ivar
        with np.errstate(invalid="ignore", divide="ignore"):
            return total / weight, weight

    def _row(self, hdu: fits.HDU, size: int, row: int) -> NDArray[Any]:
        width = size * abs(int(hdu.header["BITPIX"])) // 8
        start = hdu.start + row * width
        return self._numbers(hdu, slice(start, start + width))

    def _catalogue(self, redshift: _Redshift | None) -> dict[str, Any]:
        """Return what redrock says of a target, in the words of SDSS."""
        names = ("class", "subclass", "z", "z_err", "zwarning")
        if redshift is None or self.redshifts_path is None:
            return dict.fromkeys(names)
        path = self.redshifts_path
        kind, subclass = (
            fits.printable(text.rstrip(b"\0 "), path).strip() for text in (redshift.kind, redshift.subclass)
        )
        spectra.require_class(kind, "it says SPECTYPE", path, also=("",))
        z = spectra.within(redshift.z, *spectra.REDSHIFTS, "it says Z", path)
        # Negative: a fit that failed.
        z_err = spectra.within(redshift.z_err, -100, 1e4, "it says ZERR", path)
        zwarning = int(spectra.within(redshift.zwarning, 0, 2**16, "it says ZWARN", path))
        return dict(zip(names, (kind, subclass, z, z_err, zwarning), strict=True))


def _name(header: fits.Header) -> str:
    """Return the name of an HDU."""
    return str(header.get("EXTNAME", "")).strip().upper()


def _arms(names: Iterable[str]) -> list[str]:
    """Return the arms of which HDUs hold fluxes."""
    return [match[1] for name in names if (match := _ARM.fullmatch(name)) and match[2] == "FLUX"]


def _is_redshifts(header: fits.Header) -> bool:
    """Tell whether an HDU is redrock's table of redshifts."""
    return _name(header) in ("REDSHIFTS", "ZBEST")


def _beside(path: Path) -> Path | None:
    """Return the file that belongs to a coadd or to its redshifts and lies in the same folder."""
    kind, dash, rest = path.name.partition("-")
    rest = rest.removesuffix(".gz").removesuffix(".bz2")
    for other in _NAMES.get(kind, ()) if dash else ():
        for ending in ("", ".gz", ".bz2"):
            if (found := path.with_name(f"{other}-{rest}{ending}")).is_file():
                return found
    return None


def _stamps(path: Path) -> tuple[object, ...]:
    """Return by what a change of a coadd and of its redshifts is told."""
    redshifts = _beside(path)
    return path, fits.stamp(path), redshifts, None if redshifts is None else fits.stamp(redshifts)


def _opened(path: Path, *, checked: bool) -> _Coadd:
    """Return a coadd, which stays open for its next target until the thread reads another or it changes.

    What makes it useless is held likewise, so that it is not read in full again for each of its targets.
    """
    stamps = _stamps(path)
    held: _Coadd | FileError | None
    before, held = getattr(_held, "coadd", None) or (None, None)
    if held is None or before != stamps:
        # Before the next one is opened, as either may be large.
        held = _held.coadd = None
        try:
            held = _Coadd(path)
        except FileError as error:
            held = error
    if isinstance(held, _Coadd) and checked:
        try:
            held.check()
        except FileError as error:
            held = error
    _held.coadd = stamps, held
    if isinstance(held, _Coadd):
        return held
    raise held.with_traceback(None)


class CoaddReader:
    """Coadds with their redshifts, ``coadd-*.fits`` and ``redrock-*.fits``."""

    name = "desi-coadds"
    instruments = (DESI,)

    def recognises(self, file: SurveyFile) -> bool:
        """Tell whether the HDUs are those of a coadd, or of redshifts."""
        if file.header.get("NAXIS") != 0:
            return False
        names = {_name(header) for header in file.headers}
        if any({f"{arm}_IVAR", f"{arm}_WAVELENGTH"} <= names for arm in _arms(names)):
            return True
        return any(_is_redshifts(header) and "ZWARN" in fits.column_names(header) for header in file.headers)

    def records(self, file: SurveyFile) -> Sequence[SpectrumInfo | Refused | Partner]:
        """Return all targets of a coadd; redshifts are its partner.

        Raises
        ------
        FileError
            What makes the file useless as a whole: ``missing-fibermap``, ``no-spectra`` (redshifts without
            their coadd), ``unknown-kind`` (single exposures), ``wrong-hdus``, ``bad-values``, ``wrong-unit``,
            or what `skyfuse.survey.fits.parse` raises.
        """
        if not any(_is_redshifts(header) for header in file.headers):
            return _opened(file.path, checked=False).records()
        coadd = _beside(file.path)
        if coadd is None:
            raise FileError(
                "its coadd is not beside it",
                reason="no-spectra",
                remedy="put redrock-X.fits and coadd-X.fits into one folder",
                path=file.path,
                partners=(str(file.path.parent),),
            )
        return [Partner(str(coadd))]

    def read(self, path: Path, key: str, options: Options) -> Spectrum:
        """Read the spectrum of a target; `key` is its TARGETID.

        The arms are joined on their common bins: ``flux = Σ ivar · flux / Σ ivar``, ``σ = 1 / √Σ ivar`` over
        the samples that are finite, have an inverse variance and a mask of 0. Wavelengths are vacuum,
        barycentric.

        Raises
        ------
        FileError
            ``sky-fibre``, ``unplugged``, ``bad-target``, ``no-data``, ``no-redshifts``, ``no-good-pixels``,
            ``bad-values``, or what makes the coadd or its redshifts unreadable.
        """
        return _opened(path, checked=True).read(key, options)
