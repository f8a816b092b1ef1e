"""Which reader reads a file: the built-in ones, those of installed packages, those registered by hand.

A reader of one's own is Python code that was installed or registered by the user and runs with the user's
rights. Files of data and descriptions of instruments never run anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from skyfuse.entrypoints import installed, load
from skyfuse.errors import FileError, UsageError
from skyfuse.survey import desi, lamost
from skyfuse.survey.reader import Reader, SurveyFile
from skyfuse.survey.records import Instrument
from skyfuse.survey.sdss import frames, sdssv, spectra, spspec

ENTRY_POINT = "skyfuse.readers"
"""Group of entry points under which an installed package names its readers."""

BUILT_IN: tuple[Reader, ...] = (
    spectra.SpectrumReader(),
    sdssv.SpectrumReader(),
    spspec.SpectrumReader(),
    lamost.SpectrumReader(),
    frames.FrameReader(),
    desi.CoaddReader(),
)
"""In the order in which they are asked: first those that need the primary header alone; the descriptions
shipped come after all of them."""

_registered: list[Reader] = []


def register(reader: Reader) -> None:
    """Let a reader of one's own read files, before the built-in ones.

    That of a description takes the place of the one of a shipped description with the same name.

    Parameters
    ----------
    reader : Reader
        Kept until the process ends, and handed to worker processes by pickling: its class must be importable.

    Raises
    ------
    UsageError
        If it lacks what a reader must have, or its name is taken.
    """
    _require_reader(reader)
    taken = {other.name: other.instruments for other in (*_registered, *_installed(), *BUILT_IN)}
    if reader.name in taken:
        described = [one.described for one in reader.instruments]
        if all(described) and [one.described for one in taken[reader.name]] == described:
            return
        raise UsageError(f"there is a reader {reader.name!r} already", remedy="give it another name")
    _registered.append(reader)


def added() -> tuple[Reader, ...]:
    """Return the readers that are not built in: registered in this process, or installed."""
    return (*_registered, *_installed())


def marks_of(some: Sequence[Reader]) -> list[str]:
    """Return what names readers, and the content of their descriptions."""
    return [" ".join([one.name, *(told.described for told in one.instruments)]).strip() for one in some]


def readers(more: Sequence[Reader] = ()) -> tuple[Reader, ...]:
    """Return all readers in the order in which they are asked.

    These are `more`, those registered, installed, built in, those of the descriptions shipped, and last the
    one of spectra that specutils can read; one whose name stood before is left out, so that a description of
    one's own takes the place of another.
    """
    return tuple(_in_order(more))


def _in_order(more: Sequence[Reader]) -> Iterator[Reader]:
    names = set()
    for reader in _all(more):
        if reader.name not in names:
            names.add(reader.name)
            yield reader


def _all(more: Sequence[Reader]) -> Iterator[Reader]:
    yield from (*more, *_registered, *_installed(), *BUILT_IN)
    # Not read before they are needed: files that another reader knows cost nothing.
    yield from _described()
    yield _last()


@cache
def _described() -> tuple[Reader, ...]:
    from skyfuse.survey.described import described
    from skyfuse.survey.description import shipped_names

    return tuple(described(name) for name in shipped_names())


@cache
def _last() -> Reader:
    from skyfuse.survey.anyspectrum import SpecutilsReader

    return SpecutilsReader()


@cache
def _installed() -> tuple[Reader, ...]:
    found: dict[str, Reader] = {}
    for point in installed(ENTRY_POINT).values():
        loaded = load(point)
        reader = loaded() if isinstance(loaded, type) else loaded
        _require_reader(reader)
        if reader.name in found:
            raise UsageError(
                f"the installed {point.value} is a reader {reader.name!r}, as another package's",
                remedy="remove one of the packages",
            )
        found[reader.name] = reader
    return tuple(found.values())


def _require_reader(reader: object) -> None:
    if not isinstance(reader, Reader):
        raise UsageError(
            f"{reader!r} is no reader",
            remedy="give it all that skyfuse.survey.reader.Reader has",
        )


def reader_of(file: SurveyFile, more: Sequence[Reader] = ()) -> Reader:
    """Return the first reader that recognises a file.

    Raises
    ------
    FileError
        ``unknown-kind`` where none does, or what makes the file unreadable.
    """
    no_fits = None
    for reader in _in_order(more):
        try:
            if reader.recognises(file):
                return reader
        except FileError as error:
            # Some readers know other files.
            if error.reason != "not-fits":
                raise
            no_fits = error
    raise no_fits or FileError(
        "no reader knows its headers",
        reason="unknown-kind",
        remedy="describe the instrument (skyfuse instrument new), or write a reader",
        path=file.path,
    )


def reader_named(name: str, more: Sequence[Reader] = ()) -> Reader:
    """Return a reader by its name.

    Raises
    ------
    UsageError
        If there is none.
    """
    for reader in _in_order(more):
        if reader.name == name:
            return reader
    raise UsageError(f"there is no reader {name!r}", remedy="install or register it, or build anew")


def instruments(more: Sequence[Reader] = ()) -> dict[str, Instrument]:
    """Return all instruments that some reader knows, by name.

    Images and spectra of one instrument may have readers of their own.

    Raises
    ------
    UsageError
        If two readers tell of the images or the spectra of one instrument differently.
    """
    found: dict[str, Instrument] = {}
    for reader in readers(more):
        for one in reader.instruments:
            known = found.get(one.name, Instrument(one.name))
            for own, other in ((one.imaging, known.imaging), (one.spectroscopy, known.spectroscopy)):
                if None not in (own, other) and own != other:
                    raise UsageError(
                        f"the reader {reader.name!r} tells of {one.name!r} otherwise than another reader",
                        remedy="give the instrument that you describe another name",
                    )
            found[one.name] = Instrument(
                one.name,
                known.imaging or one.imaging,
                known.spectroscopy or one.spectroscopy,
                known.described or one.described,
            )
    return found
