"""What a reader must be able to do: recognise a file as its own, list the records in it, read one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

from skyfuse.survey import fits
from skyfuse.survey.records import Frame, FrameInfo, Instrument, Spectrum, SpectrumInfo


class SurveyFile:
    """A file as readers look at it to tell whether it is theirs: its headers, read when asked for.

    Attributes
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def header(self) -> fits.Header:
        """Primary header.

        Raises
        ------
        FileError
            If the file is no FITS file, or a broken one.
        """
        return fits.read_header(self.path)

    @cached_property
    def headers(self) -> list[fits.Header]:
        """Headers of all HDUs, the primary one first; of tile-compressed images as they were before.

        Raises
        ------
        FileError
            If the file is no FITS file, or a broken one.
        """
        return fits.read_headers(self.path)


@dataclass(frozen=True, slots=True)
class Refused:
    """A record of a file that cannot be used.

    Attributes
    ----------
    key : str
        Names the record within the file.
    reason : str
        The ledger's word for why.
    message : str
        One line, as of a `FileError`.
    partners : tuple of str
        Paths that were looked for and are missing, or the folder that they would lie in: once they change the
        file is looked at again.
    """

    key: str
    reason: str
    message: str
    partners: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Partner:
    """A file that holds no records of its own: it is read together with another (weight, mask, redshifts).

    Attributes
    ----------
    of : str
        Path of that file.
    """

    of: str


@dataclass(frozen=True, slots=True)
class Options:
    """How records are read.

    Attributes
    ----------
    keep_unknown : bool
        Also read fibres that saw no known object.
    keep_unclassified : bool
        Also read spectra without the pipeline's class and redshift; these are None in `Spectrum.catalogue`.
    scratch : Scratch, optional
        Memory for a frame's arrays, which the next frame read with the same one overwrites.
    """

    keep_unknown: bool = False
    keep_unclassified: bool = False
    scratch: fits.Scratch | None = None


@runtime_checkable
class Reader(Protocol):
    """What reads the files of one survey or instrument.

    Attributes
    ----------
    name : str
        Letters, digits and ``-``.
    instruments : sequence of Instrument
        What took the data that it delivers; each `FrameInfo` and `SpectrumInfo` names one of them.
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    @property
    def instruments(self) -> Sequence[Instrument]:
        """See above."""
        ...

    def recognises(self, file: SurveyFile) -> bool:
        """Tell whether the file is one of this reader's, by its headers; never raises for a readable file."""
        ...

    def records(self, file: SurveyFile) -> Sequence[FrameInfo | SpectrumInfo | Refused | Partner]:
        """Return what the file holds, each record with a key of its own, by reading no more than is needed.

        Raises
        ------
        FileError
            If none of it can be used.
        """
        ...

    def read(self, path: Path, key: str, options: Options) -> Frame | Spectrum:
        """Read one record in full.

        Raises
        ------
        FileError
            If it cannot be used.
        """
        ...
