"""Tell what a file is from its primary header, wherever it lies and whatever it is called."""

from __future__ import annotations

from pathlib import Path

from skyfuse.errors import FileError
from skyfuse.survey import fits, sdss
from skyfuse.survey.records import FrameInfo, SpectrumInfo


def recognise(path: str | Path) -> FrameInfo | SpectrumInfo:
    """Tell what a file is by reading no more than its primary header.

    Parameters
    ----------
    path : path
        A FITS file, plain or compressed with bzip2 or gzip.

    Returns
    -------
    FrameInfo or SpectrumInfo

    Raises
    ------
    FileError
        With the reason ``unreadable``, ``empty``, ``not-fits``, ``truncated``, ``unknown-kind``,
        ``missing-keyword``, ``bad-values``, ``unknown-band``, ``wrong-unit``, ``wrong-hdus`` or ``bad-wcs``.
    """
    path = Path(path)
    header = fits.read_header(path)
    if sdss.is_spectrum(header):
        return sdss.spectrum_info(header, path)
    if sdss.is_frame(header):
        return sdss.frame_info(header, path)
    raise FileError(
        "its header is that of no SDSS frame and no SDSS spectrum",
        reason="unknown-kind",
        remedy="give frame-*.fits and spec-*.fits files; other surveys are not read yet",
        path=path,
    )
