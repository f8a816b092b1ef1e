"""Spectra of any other layout that specutils can read, as the instrument ``generic``.

What specutils leaves open is never guessed: a file must say whether its wavelengths are those in air or in
vacuum, what its uncertainties are, and where on the sky it was taken.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from astropy import units as u
from astropy.coordinates import Angle
from astropy.nddata import StdDevUncertainty, UnknownUncertainty
from astropy.time import Time
from numpy.typing import NDArray

from skyfuse.errors import FileError
from skyfuse.survey import fits, spectra
from skyfuse.survey.filetype import HEAD, form_of
from skyfuse.survey.reader import Options, SurveyFile
from skyfuse.survey.records import Instrument, Spectroscopy, Spectrum, SpectrumInfo
from skyfuse.survey.spectra import FLUX_UNIT

if TYPE_CHECKING:
    from specutils import Spectrum as Loaded

Medium = Literal["air", "vacuum"]

# Names of columns, and of axes (FITS 4.0, table 25, and IRAF's), that hold or count wavelengths.
_AXIS_COLUMN = re.compile(r"(?i)(log_?)?(wave|lam|freq|spectral|energy|wn\b|wvl)\w*")
_AXIS_TYPE = re.compile(r"(?i)(WAVE|AWAV|FREQ|ENER|WAVN|LAMBDA|LINEAR|MULTISPE|LOG)")
_ECSV = b"# %ECSV"
_ECSV_COLUMN = re.compile(r"name: *['\"]?(\w+)")
# Of tables specutils takes the first column with a unit of flux density for the fluxes, and the next one with
# the same unit for σ: names must bear that out.
_BY_UNITS = ("tabular-fits", "ECSV")
_ERROR_COLUMN = re.compile(
    r"(?i)(\w+_)?(e|er|err|errors?|sig|sigma|std|stddev|unc|uncert|uncertainty|noise)(_\w+|\d*)"
    r"|e_?flux\w*|flux_?(err|sig|unc)\w*"
)
_FLUX_COLUMN = re.compile(
    r"(?i)(\w+_)?(flux|flam|fnu|f_?lambda|f_?lam|f_?nu|spec|spectrum|intensity|signal)\w*"
)
_PLACES = (
    ("RA", "DEC"),
    ("RA_TARG", "DEC_TARG"),
    ("TARG_RA", "TARG_DEC"),
    ("RA_OBJ", "DEC_OBJ"),
    ("RAOBJ", "DECOBJ"),
    ("OBJRA", "OBJDEC"),
)
# Below this no wavelength is given in air.
_AIR_FROM = 2000.0
# FITS 4.0, 7.3.1.
_MOST_FIELDS = 999
# Of a bin of SDSS: what float32 rounds.
_LADDER = 5e-3
_MOST_BYTES = 1 << 28
_HOW_MEDIUM = "say so in its header: AIRORVAC = 'air' or 'vac'"


class _Cards(Mapping[str, Any]):
    """What the headers of a file say, or the table's metadata: of a keyword the first that stands there."""

    def __init__(self, *headers: Mapping[str, Any]) -> None:
        self._headers = headers

    def __getitem__(self, key: str) -> Any:
        for header in self._headers:
            if key in header:
                return header[key]
        raise KeyError(key)

    def __iter__(self) -> Any:
        return iter(dict.fromkeys(key for header in self._headers for key in header))

    def __len__(self) -> int:
        return len(list(iter(self)))


def _may_hold_spectrum(file: SurveyFile) -> bool:
    """Tell from headers whether it is worth to ask specutils, whose import and look take seconds."""
    head = _head(file.path)
    if head.startswith(_ECSV):
        names = _ECSV_COLUMN.findall(head.decode("utf-8", "replace"))
        return any(_AXIS_COLUMN.fullmatch(name) for name in names)
    if form_of(head) not in ("a FITS file", "compressed by gzip", "compressed by bzip2"):
        return False
    # astropy makes as many columns as a damaged header tells, until there is no memory left.
    sound = all(0 <= _whole(header.get("TFIELDS", 0)) <= _MOST_FIELDS for header in file.headers)
    return sound and any(_is_spectral(header) for header in file.headers)


def _whole(value: object) -> int:
    return value if isinstance(value, int) else -1


def _head(path: Path) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(HEAD)
    except OSError:
        # The headers' reading tells what is wrong.
        return b""


def _is_spectral(header: fits.Header) -> bool:
    """Tell whether an HDU is a table with wavelengths, or an image of one axis that counts them."""
    if header.get("XTENSION") == "BINTABLE":
        return any(_AXIS_COLUMN.fullmatch(name) for name in fits.column_names(header))
    lengths = [header.get(f"NAXIS{axis}", 0) for axis in range(1, 1 + int(header.get("NAXIS", 0)))]
    along = [length for length in lengths if length != 1]
    return len(along) == 1 and _AXIS_TYPE.match(str(header.get("CTYPE1", ""))) is not None


def _cards(file: SurveyFile, loaded: Loaded) -> _Cards:
    if _head(file.path).startswith(_ECSV):
        return _Cards({str(key).upper(): value for key, value in loaded.meta.get("header", {}).items()})
    return _Cards(*file.headers)


class SpecutilsReader:
    """Spectra of one object that specutils can read: FITS tables and images, ECSV tables.

    Parameters
    ----------
    name : str
        Of the reader and of the instrument: another one for spectra of which `medium` is known.
    medium : {'air', 'vacuum'}, optional
        What the wavelengths of files are that do not say it.
    grid : str
        Wavelength grid of these spectra, see `skyfuse.cube.grid.grid_named`.
    """

    def __init__(self, name: str = "generic", medium: Medium | None = None, grid: str = "sdss") -> None:
        self.name = name
        self.medium = medium
        self.instruments = (Instrument(name, spectroscopy=Spectroscopy(grid)),)

    def recognises(self, file: SurveyFile) -> bool:
        """Tell whether specutils knows the layout of a file that looks like a spectrum's."""
        return _may_hold_spectrum(file) and _layout(file.path) is not None

    def records(self, file: SurveyFile) -> list[SpectrumInfo]:
        """Return the one spectrum of the file.

        Raises
        ------
        FileError
            As `read`.
        """
        return [self._read(file.path)[0]]

    def read(self, path: Path, key: str, options: Options) -> Spectrum:
        """Read the spectrum; `key` is empty.

        Wavelengths in air are brought to vacuum (Morton 2000, ApJS 130, 403, equation 8). No pipeline told a
        class or redshift: all verdicts are None, and no option is needed to read it. `catalogue` also says
        the ``frame`` of its wavelengths' velocity (SPECSYS), which are left in it.

        Raises
        ------
        FileError
            ``missing-keyword`` (no position), ``no-medium`` (air or vacuum), ``no-uncertainty``,
            ``wrong-unit``, ``wrong-hdus`` (several spectra), ``bad-values``, ``no-good-pixels``, or what
            makes the file unreadable.
        """
        info, loaded, cards, sha256 = self._read(path)
        wavelength = self._wavelengths(loaded, cards, path)
        flux, sigma = _fluxes(loaded, wavelength, path)
        masked = np.zeros(len(flux), np.bool_) if loaded.mask is None else np.asarray(loaded.mask) != 0
        order = np.argsort(wavelength, kind="stable")
        wavelength, flux, sigma, masked = wavelength[order], flux[order], sigma[order], masked[order]
        spectra.require_wavelengths(np.log10(wavelength), path)
        ivar = spectra.ivar_of(sigma)
        value, error = spectra.flux_and_sigma(flux, ivar, masked, path)
        catalogue: dict[str, Any] = dict.fromkeys(("class", "subclass", "z", "z_err", "zwarning"))
        catalogue |= {"sn_median": spectra.sn_median(value, error), "objtype": ""}
        catalogue["frame"] = str(cards.get("SPECSYS", "")).strip() or None
        loglam, first_bin = spectra.on_ladder(np.log10(wavelength), _LADDER)
        return Spectrum(
            info,
            wavelength if first_bin is None else 10.0**loglam,
            value,
            error,
            first_bin,
            sha256,
            catalogue,
        )

    def _read(self, path: Path) -> tuple[SpectrumInfo, Loaded, _Cards, str]:
        file = SurveyFile(path)
        content, sha256 = fits.read_bytes(path, most=_MOST_BYTES)
        if not _head(path).startswith(_ECSV):
            for hdu in fits.parse(content, path):
                if hdu.header.get("XTENSION") == "BINTABLE":
                    fits.table(content, hdu, path, {})
        loaded = _loaded(path)
        cards = _cards(file, loaded)
        ra, dec = _position(cards, path)
        info = SpectrumInfo(
            # The content names it: neither files nor headers have names that are unique and stable.
            spectrum_id=f"{self.name}-{sha256[:16]}",
            survey=self.name,
            plate=None,
            mjd=_mjd(cards),
            fiberid=None,
            ra=ra,
            dec=dec,
            instrument=self.name,
        )
        return info, loaded, cards, sha256

    def _wavelengths(self, loaded: Loaded, cards: _Cards, path: Path) -> NDArray[np.float64]:
        """Return the wavelengths in vacuum, Å."""
        from specutils.utils.wcs_utils import air_to_vac

        axis = loaded.spectral_axis
        try:
            wavelength = np.array(axis.to_value(u.AA, u.spectral()), np.float64)
        except u.UnitConversionError as error:
            raise FileError(
                f"its spectral axis is in {axis.unit.to_string()!r}, no wavelength, frequency or energy",
                reason="wrong-unit",
                remedy="give the spectrum over wavelengths",
                path=path,
            ) from error
        if not (np.isfinite(wavelength) & (wavelength > 0)).all():
            raise FileError(
                "its wavelengths are not all numbers above 0",
                reason="bad-values",
                remedy="correct them",
                path=path,
            )
        if self._medium(cards, axis.unit, path) == "air":
            seen = wavelength >= _AIR_FROM
            if seen.any():
                wavelength[seen] = air_to_vac(wavelength[seen] * u.AA).to_value(u.AA)
        return wavelength

    def _medium(self, cards: _Cards, unit: u.UnitBase, path: Path) -> Medium:
        """Return whether wavelengths are in air or vacuum, by all that tells it."""
        said = {*_said_of_medium(cards)}
        if unit.physical_type != "length":
            # Frequencies, energies and wave numbers are given in vacuum.
            said = {"vacuum"}
        if len(said) > 1:
            raise FileError(
                "it says of its wavelengths both that they are in air and in vacuum",
                reason="bad-values",
                remedy="correct its header",
                path=path,
            )
        found = said.pop() if said else self.medium
        if found is None:
            raise FileError(
                "nothing says whether its wavelengths are in air or in vacuum",
                reason="no-medium",
                remedy=_HOW_MEDIUM,
                path=path,
            )
        return found


def _said_of_medium(cards: _Cards) -> list[Medium]:
    """Return what cards and columns say: AIRORVAC, VACUUM, the type of the axis, the UCD of a column."""
    said: list[Medium] = []
    word = str(cards.get("AIRORVAC", "")).strip().lower()
    if word.startswith(("air", "vac")):
        said.append("air" if word.startswith("air") else "vacuum")
    if "VACUUM" in cards and cards["VACUUM"] in (0, 1, True, False):
        said.append("vacuum" if cards["VACUUM"] else "air")
    kind = str(cards.get("CTYPE1", "")).strip().upper()
    # Greisen et al. 2006, A&A 446, 747, table 1.
    if kind.startswith(("WAVE", "AWAV")) and kind != "WAVELENGTH":
        said.append("air" if kind.startswith("AWAV") else "vacuum")
    for key in cards:
        if key.startswith("TUCD") and str(cards[key]).strip().lower() == "em.wl;obs.atmos":
            said.append("air")
    return said


def _layout(path: Path) -> str | None:
    """Return what specutils calls a layout, None where it knows none, or cannot decide."""
    if _head(path).startswith(_ECSV):
        return "ECSV"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from specutils.io.registers import identify_spectrum_format

        try:
            found = identify_spectrum_format(str(path))
        # Whatever the identifiers of layouts stumble over.
        except Exception:
            return None
    return found if isinstance(found, str) else None


def _loaded(path: Path) -> Loaded:
    """Return the spectrum that specutils finds in a file."""
    layout = _layout(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from specutils import Spectrum as Loaded

        try:
            loaded = Loaded.read(str(path), format=layout)
            names = _alike(path, layout, loaded) if layout in _BY_UNITS else []
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            raise FileError(
                f"specutils does not read it ({type(error).__name__}: {said})",
                reason="unknown-kind",
                remedy="give its columns units and the names wavelength, flux and uncertainty",
                path=path,
            ) from error
    if loaded.flux.ndim != 1 or loaded.flux.size < 2:
        raise FileError(
            f"it holds an array of {loaded.flux.shape}, not one spectrum",
            reason="wrong-hdus",
            remedy="give a file for each spectrum",
            path=path,
        )
    _require_names(names, path)
    return loaded


def _alike(path: Path, layout: str | None, loaded: Loaded) -> list[str]:
    """Return which columns of a table specutils took for fluxes and σ, by their unit alone."""
    from astropy.table import Table

    table = Table.read(path, format="ascii.ecsv") if layout == "ECSV" else Table.read(path, hdu=1)
    return [name for name in table.colnames if table[name].unit == loaded.flux.unit][:2]


def _require_names(names: list[str], path: Path) -> None:
    """Refuse columns that specutils took for fluxes and σ, and that are called otherwise."""
    if names and (_ERROR_COLUMN.fullmatch(names[0]) or not _FLUX_COLUMN.fullmatch(names[0])):
        raise FileError(
            f"its first column in a unit of fluxes is called {names[0]!r}",
            reason="wrong-hdus",
            remedy="put the column flux first",
            path=path,
        )
    if len(names) > 1 and not _ERROR_COLUMN.fullmatch(names[1]):
        raise FileError(
            f"nothing says that its column {names[1]!r}, which has the unit of the fluxes, is their σ",
            reason="no-uncertainty",
            remedy="put a column uncertainty after the fluxes",
            path=path,
        )


def _fluxes(
    loaded: Loaded, wavelength: NDArray[np.float64], path: Path
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return flux and σ in 1e-17 erg/s/cm²/Å."""
    unit = loaded.flux.unit
    try:
        scale = (1 * unit).to_value(FLUX_UNIT, u.spectral_density(wavelength * u.AA))
    except u.UnitConversionError as error:
        raise FileError(
            f"its fluxes are in {unit.to_string()!r}, no flux density",
            reason="wrong-unit",
            remedy="give fluxes in a unit such as erg s-1 cm-2 Angstrom-1 or Jy",
            path=path,
        ) from error
    uncertainty = loaded.uncertainty
    if uncertainty is None or isinstance(uncertainty, UnknownUncertainty):
        raise FileError(
            "it has no uncertainties, or nothing says what they are",
            reason="no-uncertainty",
            remedy="give σ, variance or inverse variance with it",
            path=path,
        )
    with np.errstate(all="ignore"):
        std = uncertainty.represent_as(StdDevUncertainty)
        sigma = std.quantity.to_value(unit) if std.unit is not None else np.asarray(std.array)
        return np.asarray(loaded.flux.value, np.float64) * scale, np.asarray(sigma, np.float64) * scale


def _position(cards: _Cards, path: Path) -> tuple[float, float]:
    """Return right ascension and declination, degrees (ICRS)."""
    names = next((pair for pair in _PLACES if pair[0] in cards and pair[1] in cards), None)
    if names is None:
        raise FileError(
            "its header has no RA and DEC",
            reason="missing-keyword",
            remedy="write where on the sky it was taken, in degrees",
            path=path,
        )
    frame = str(cards.get("RADESYS", cards.get("RADECSYS", "ICRS"))).strip().upper()
    equinox = cards.get("EQUINOX", 2000.0)
    # FK5 of J2000 is ICRS to 0.03 arcseconds.
    if frame not in ("ICRS", "FK5", "") or str(equinox).strip() not in ("2000", "2000.0", "J2000", "J2000.0"):
        raise FileError(
            f"its position is in {frame} of {equinox}, not in ICRS",
            reason="bad-values",
            remedy="give RA and DEC in ICRS",
            path=path,
        )
    try:
        ra = _degrees(cards[names[0]], u.hourangle)
        dec = _degrees(cards[names[1]], u.deg)
    except ValueError:
        ra = dec = math.nan
    if not (0 <= ra <= 360 and -90 <= dec <= 90):
        raise FileError(
            f"its {names[0]} = {cards[names[0]]} and {names[1]} = {cards[names[1]]} are no place on the sky",
            reason="bad-values",
            remedy="write it in degrees",
            path=path,
        )
    return ra % 360.0, dec


def _degrees(value: object, unit: u.UnitBase) -> float:
    """Return an angle in degrees; text with colons or blanks is sexagesimal, in `unit`."""
    if isinstance(value, str) and re.search(r"[:\shd]", value.strip()):
        return float(Angle(value.strip(), unit).deg)
    return float(str(value))


def _mjd(cards: _Cards) -> int | None:
    """Return the day of the observation, None where the header has none that can be read."""
    try:
        if "MJD-OBS" in cards:
            mjd = float(cards["MJD-OBS"])
        else:
            mjd = float(Time(str(cards["DATE-OBS"]).strip(), scale="utc").mjd)
    except (KeyError, ValueError, TypeError):
        return None
    return int(mjd) if 40_000 <= mjd < 100_000 else None
