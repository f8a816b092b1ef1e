"""Tell what a file is from its primary header, wherever it lies and whatever it is called."""

from __future__ import annotations

from pathlib import Path

from skyfuse.errors import FileError
from skyfuse.survey import fits, lamost, sdss
from skyfuse.survey.records import FrameInfo, Spectrum, SpectrumInfo


def recognise(path: str | Path) -> FrameInfo | SpectrumInfo:
    """Tell what a file is by reading no more than its primary header.

    Parameters
    ----------
    path : path
        A FITS file, plain or compressed with bzip2, gzip or fpack (``.fz``).

    Returns
    -------
    FrameInfo or SpectrumInfo

    Raises
    ------
    FileError
        With the reason ``unreadable``, ``empty``, ``not-fits``, ``truncated``, ``damaged``,
        ``unknown-kind``, ``missing-keyword``, ``bad-values``, ``unknown-band``, ``wrong-unit``,
        ``wrong-hdus`` or ``bad-wcs``.
    """
    path = Path(path)
    header = fits.read_header(path)
    if sdss.is_spectrum(header):
        return sdss.spectrum_info(header, path)
    if lamost.is_spectrum(header):
        return lamost.spectrum_info(header, path)
    if not sdss.is_frame(header) and header.get("NAXIS") == 0:
        header = next((packed for packed in fits.read_headers(path)[1:2] if "ZIMAGE" in packed), header)
    if sdss.is_frame(header):
        return sdss.frame_info(header, path)
    raise _unknown(path)


def read_spectrum(
    path: str | Path, *, keep_unknown: bool = False, keep_unclassified: bool = False
) -> Spectrum:
    """Read a spectrum of any survey that has a reader.

    Parameters
    ----------
    path : path
        A FITS file, plain or compressed with bzip2 or gzip.
    keep_unknown : bool
        Also read fibres that saw no known object.
    keep_unclassified : bool
        Also read spectra without the pipeline's class and redshift; these are None in `catalogue`.

    Returns
    -------
    Spectrum

    Raises
    ------
    FileError
        As `skyfuse.survey.sdss.read_spectrum` and `skyfuse.survey.lamost.read_spectrum`.
    """
    path = Path(path)
    header = fits.read_header(path)
    if sdss.is_spectrum(header):
        return sdss.read_spectrum(path, keep_unknown=keep_unknown, keep_unclassified=keep_unclassified)
    if lamost.is_spectrum(header):
        return lamost.read_spectrum(path, keep_unknown=keep_unknown, keep_unclassified=keep_unclassified)
    raise _unknown(path)


def _unknown(path: Path) -> FileError:
    return FileError(
        "its header is that of no SDSS frame and of no SDSS or LAMOST spectrum",
        reason="unknown-kind",
        remedy="give frame-*.fits and spec-*.fits files; other surveys are not read yet",
        path=path,
    )
