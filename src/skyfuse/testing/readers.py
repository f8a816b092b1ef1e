"""Whether a reader, or the description of an instrument, keeps to what a build relies on."""

from __future__ import annotations

import pickle
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from astropy.io import fits as astropy_fits

from skyfuse.cube.cutout import frame_wcs, sky_to_pixel
from skyfuse.cube.grid import grid_named
from skyfuse.errors import FileError
from skyfuse.survey.described import DescribedReader
from skyfuse.survey.description import load_description
from skyfuse.survey.reader import Options, Partner, Reader, Refused, SurveyFile
from skyfuse.survey.records import Frame, FrameInfo, Instrument, Spectrum, SpectrumInfo
from skyfuse.testing.require import require

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_STEP = 1e-4
_OPTIONS = Options(keep_unknown=True, keep_unclassified=True)


def check_instrument(description: Path | str, file: Path | str | Sequence[Path | str]) -> None:
    """Check the description of an instrument on files that it took: the reader made of it is checked.

    Parameters
    ----------
    description : path or str
        A YAML file, or the name of a description that Skyfuse ships.
    file : path or sequence of path
        One of its files or several; partners (weights, masks) lie beside them.

    Raises
    ------
    AssertionError
        With what is asked for and does not hold.
    UsageError
        If the description is wrong in itself.
    """
    files = [file] if isinstance(file, str | Path) else list(file)
    check_reader(DescribedReader(load_description(str(description))), files)


def check_reader(reader: Reader, files: Sequence[Path | str]) -> None:
    """Check that a reader keeps to what a build relies on.

    It must survive pickling, know its own files and no others, name every record by a key and an id of its
    own, give the same bytes whenever and in whatever order records are read, keep NaN in value and σ
    together, and meet broken files with FileError alone.

    Parameters
    ----------
    reader : Reader
    files : sequence of path
        Files that it reads, at least one; together with their partners.

    Raises
    ------
    AssertionError
        With what is asked for and does not hold.
    """
    require(isinstance(reader, Reader), f"{reader!r} has all that skyfuse.survey.reader.Reader asks for")
    require(_NAME.fullmatch(reader.name), f"the name {reader.name!r} is of letters, digits and -")
    require(reader.instruments, "a reader says which instruments its data are of")
    for instrument in reader.instruments:
        _check_kind(instrument)
    copy = pickle.loads(pickle.dumps(reader))  # noqa: S301  # made in this line
    require(copy.name == reader.name, "a pickled reader is the same reader: worker processes get it so")
    require(files, "one file or more is given")
    with tempfile.TemporaryDirectory(prefix="skyfuse-check-") as folder:
        _check_foreign(reader, Path(folder))
        names: set[str] = set()
        for path in map(Path, files):
            _check_file(copy, path, names)
            _check_broken(reader, path, Path(folder))
    require(names, "one record or more can be read")


def _check_kind(instrument: Instrument) -> None:
    name = instrument.name
    require(_NAME.fullmatch(name), f"the instrument's name {name!r} is of letters, digits and -")
    imaging, spectroscopy = instrument.imaging, instrument.spectroscopy
    require(imaging or spectroscopy, f"{name} takes images or spectra")
    if imaging is not None:
        require(imaging.bands, f"{name} has bands")
        require(len(set(imaging.bands)) == len(imaging.bands), f"{name} names each band once")
        require(imaging.pixel_arcsec > 0, f"{name} has pixels of some width")
        require(imaging.size >= 1 and imaging.zooms >= 1, f"{name} has cutouts of one pixel and zoom or more")
    if spectroscopy is not None:
        grid_named(spectroscopy.grid)


def _check_foreign(reader: Reader, folder: Path) -> None:
    path = folder / "foreign.fits"
    astropy_fits.PrimaryHDU(np.zeros((2, 2), np.float32)).writeto(path)
    known = reader.recognises(SurveyFile(path))
    require(known is False, "a FITS file whose header says nothing is not recognised")


def _check_file(reader: Reader, path: Path, names: set[str]) -> None:
    file = SurveyFile(path)
    require(reader.recognises(file) is True, f"{path} is recognised")
    records = list(reader.records(file))
    require(records, f"{path} holds records, or FileError says why not")
    again = list(reader.records(SurveyFile(path)))
    require(records == again, f"{path} holds the same records whenever it is asked")
    keys = [record.key for record in records if not isinstance(record, Partner)]
    require(len(set(keys)) == len(keys), f"each record of {path} has a key of its own")
    good = [record for record in records if isinstance(record, FrameInfo | SpectrumInfo)]
    for info in good:
        _check_info(reader, info, path)
        name = info.frame_id if isinstance(info, FrameInfo) else info.spectrum_id
        require(name and name not in names, f"the id {name!r} is of one record alone")
        names.add(name)
    first = [_read(reader, path, info) for info in good]
    for info, one in zip(reversed(good), reversed(first), strict=True):
        other = _read(reader, path, info)
        if one is not None and other is not None:
            _check_record(info, one)
        require(_same(one, other), f"{info.key!r} of {path} is the same in whatever order records are read")
    require(
        not good or any(one is not None for one in first), f"a record of {path} that is listed can be read"
    )
    try:
        reader.read(path, "\0 no key of this file", _OPTIONS)
    except FileError:
        return
    require(len(records) == 1, f"a key that is not in {path} is met with FileError")


def _read(reader: Reader, path: Path, info: FrameInfo | SpectrumInfo) -> Frame | Spectrum | None:
    try:
        return reader.read(path, info.key, _OPTIONS)
    except FileError:
        return None


def _same(one: Frame | Spectrum | None, other: Frame | Spectrum | None) -> bool:
    """Tell whether two records are the same to the last bit."""
    if one is None or other is None or type(one) is not type(other):
        return one is other
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]
    return all(
        np.array_equal(a, b, equal_nan=True) if isinstance(a, np.ndarray) else repr(a) == repr(b)
        for a, b in pairs
    )


def _check_info(reader: Reader, info: FrameInfo | SpectrumInfo, path: Path) -> None:
    own = {instrument.name: instrument for instrument in reader.instruments}
    where = f"{info.key!r} of {path}"
    require(info.instrument in own, f"{where} is of one of the reader's instruments")
    require(0 <= info.ra <= 360 and -90 <= info.dec <= 90, f"{where} lies on the sky, in degrees")
    missing = [partner for partner in info.partners if not Path(partner).exists()]
    require(not missing, f"the partners of {where} are there, or it is refused")
    if isinstance(info, FrameInfo):
        imaging = own[info.instrument].imaging
        require(imaging and info.band in imaging.bands, f"{where} is in one of the instrument's bands")
        require(len(info.shape) == 2 and min(info.shape) > 0, f"{where} has rows and columns")
    else:
        require(own[info.instrument].spectroscopy, f"{where} is of an instrument that takes spectra")


def _check_record(info: FrameInfo | SpectrumInfo, record: Frame | Spectrum) -> None:
    where = f"{info.key!r}"
    values = record.value if isinstance(record, Frame) else record.flux
    pairs = [("value", values), ("sigma", record.sigma)]
    for name, array in pairs:
        require(array.dtype == np.float32, f"{name} of {where} is float32")
    require(values.shape == record.sigma.shape, f"value and sigma of {where} have one shape")
    holes = np.isnan(values)
    require(np.array_equal(holes, np.isnan(record.sigma)), f"{where} has NaN in value and sigma together")
    require(not np.isinf(values).any(), f"{where} holds nothing infinite")
    sigma = record.sigma[~holes]
    require(np.isfinite(sigma).all() and (sigma > 0).all(), f"sigma of {where} is finite and above 0")
    require(re.fullmatch(r"[0-9a-f]{64}", record.sha256), f"sha256 of {where} is that of the file's bytes")
    require(record.info.key == info.key, f"{where} is what was asked for")
    require(record.info.instrument == info.instrument, f"{where} is of one instrument")
    if isinstance(record, Frame) and isinstance(info, FrameInfo):
        _check_frame(info, record)
    else:
        require(isinstance(record, Spectrum) and isinstance(info, SpectrumInfo), f"{where} is of one kind")
        if isinstance(record, Spectrum):
            _check_spectrum(where, record)


def _check_frame(info: FrameInfo, frame: Frame) -> None:
    where = f"{info.key!r}"
    require(frame.info.frame_id == info.frame_id, f"{where} keeps its id")
    require(frame.value.shape == tuple(info.shape), f"{where} has the shape that its header tells")
    require(np.isfinite(frame.sky_sigma) and frame.sky_sigma > 0, f"{where} has an empty pixel's sigma")
    x, y = sky_to_pixel(frame_wcs(info.wcs), info.ra, info.dec)
    ny, nx = info.shape
    on = -0.5 <= float(x) <= nx - 0.5 and -0.5 <= float(y) <= ny - 0.5
    require(on, f"the centre that {where} tells lies on it, by its WCS")


def _check_spectrum(where: str, spectrum: Spectrum) -> None:
    wavelength = spectrum.wavelength
    require(wavelength.dtype == np.float64, f"wavelengths of {where} are float64")
    require(wavelength.shape == spectrum.flux.shape, f"{where} has a wavelength for each sample")
    rising = bool((wavelength > 0).all() and (np.diff(wavelength) > 0).all())
    require(rising, f"wavelengths of {where} rise, Å")
    if spectrum.first_bin is not None:
        bins = spectrum.first_bin + np.arange(len(wavelength))
        exact = 10 ** (bins * _STEP) if spectrum.step is None else bins * spectrum.step
        require(np.allclose(wavelength, exact, rtol=1e-7, atol=0), f"first_bin of {where} counts its bins")


def _check_broken(reader: Reader, path: Path, folder: Path) -> None:
    """Cut a file at several lengths, alone in a folder: nothing but FileError may come of it."""
    content = path.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        alone = folder / f"{share}"
        alone.mkdir(exist_ok=True)
        cut = alone / path.name
        cut.write_bytes(content[: int(len(content) * share)])
        for failure in _failures(reader, cut):
            raise AssertionError(
                f"{path.name} cut to {share:.0%}, without its partners, is met with FileError alone"
            ) from failure
        cut.unlink()


def _failures(reader: Reader, path: Path) -> Iterator[Exception]:
    file = SurveyFile(path)
    try:
        if not reader.recognises(file):
            return
        for record in reader.records(file):
            if isinstance(record, FrameInfo | SpectrumInfo):
                _read(reader, path, record)
            else:
                require(isinstance(record, Refused | Partner), "records are of the four kinds")
    except FileError:
        return
    # Whatever a reader raises would stop a build of thousands of files.
    except Exception as error:
        yield error
