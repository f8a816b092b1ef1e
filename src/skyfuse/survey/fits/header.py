"""The header of an HDU: keywords, the values that are asked for, and checks that readers share."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from skyfuse.errors import FileError
from skyfuse.survey.fits.faults import AGAIN, damaged

CARD = 80
PRINTABLE = bytes(range(0x20, 0x7F))
_QUOTED = re.compile(r" +'(?:[^']|'')*' *(?:/.*)?")
_INTEGER = re.compile(r"[+-]?\d+")
FLOAT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[ED][+-]?\d+)?")


class Header(Mapping[str, str | float | int | bool]):
    """Keyword to value of one header; each card is parsed when it is asked for, since most never are.

    Parameters
    ----------
    content : bytes
        Whole cards.

    Attributes
    ----------
    contradicted : frozenset of str
        Keywords that stand there more than once, with different values.
    """

    def __init__(self, content: bytes) -> None:
        text = content.decode("latin-1")
        # Backwards, so that of a repeated keyword the first card holds, as in astropy.
        places = [at for at in range(len(text) - CARD, -1, -CARD) if text[at + 8] == "="]
        # With the blank after the sign: what stands in its place makes no value.
        self._cards = {text[at : at + 8].rstrip(): text[at + 9 : at + CARD] for at in places}
        self.contradicted: frozenset[str] = frozenset()
        if len(self._cards) < len(places):
            values = {(text[at : at + 8].rstrip(), _value(text[at + 9 : at + CARD])) for at in places}
            counts = Counter(key for key, _ in values)
            self.contradicted = frozenset(key for key, count in counts.items() if count > 1)

    def __getitem__(self, key: str) -> str | float | int | bool:
        return _value(self._cards[key])

    def __contains__(self, key: object) -> bool:
        return key in self._cards

    def __len__(self) -> int:
        return len(self._cards)

    def __iter__(self) -> Iterator[str]:
        return iter(self._cards)

    def is_quoted(self, key: str) -> bool:
        """Return whether a value is written as text, with nothing but a comment behind it."""
        return _QUOTED.fullmatch(self._cards[key]) is not None

    def quoted(self, key: str) -> str:
        """Return a value that is written as text, see `is_quoted`; empty where there is none."""
        return str(self[key]) if key in self and self.is_quoted(key) else ""

    def replaced(self, names: Mapping[str, str]) -> Header:
        """Return a copy in which each key of `names` has the value of another keyword."""
        copy = Header(b"")
        copy._cards = self._cards | {key: self._cards[other] for key, other in names.items()}
        copy.contradicted = self.contradicted
        return copy

    def over(self, other: Header, only: Container[str] | None = None) -> Header:
        """Return a copy in which keywords that this header lacks, or `only` some, have the other's values."""
        copy = Header(b"")
        taken = {key: card for key, card in other._cards.items() if only is None or key in only}
        copy._cards = taken | self._cards
        copy.contradicted = self.contradicted | (other.contradicted & (taken.keys() - self._cards.keys()))
        return copy


def _value(card: str) -> str | float | int | bool:
    """Return the value of what follows ``KEYWORD =`` on a card."""
    card = card.strip()
    if card[:1] == "'":
        if card.count("'") == 2:
            return card[1 : card.index("'", 1)].rstrip()
        end = card.find("'", 1)
        while end > 0 and card[end + 1 : end + 2] == "'":
            end = card.find("'", end + 2)
        return card[1 : end if end > 0 else None].replace("''", "'").rstrip()
    word = card.split("/", 1)[0].strip()
    if word in ("T", "F"):
        return word == "T"
    if _INTEGER.fullmatch(word):
        return int(word)
    if FLOAT.fullmatch(word):
        return float(word.replace("D", "E"))
    return word


def number(header: Header, key: str, path: Path) -> float:
    """Return a header value as a number, also where it is written as text (``EXPTIME = '53.9'``).

    Raises
    ------
    FileError
        ``missing-keyword`` where it is absent, ``bad-values`` where it is no finite number.
    """
    value = _number(header, key, path)
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise _not(header, key, path, "a finite number")
    return value


def integer(header: Header, key: str, path: Path, least: int = -(2**63), most: int = 2**63 - 1) -> int:
    """Return a header value as an integer from `least` to `most`, never rounded on the way; see `number`.

    Raises
    ------
    FileError
        ``missing-keyword``, or ``bad-values`` where it is no such integer.
    """
    value = _number(header, key, path)
    if isinstance(value, float) and not value.is_integer():
        raise _not(header, key, path, "an integer")
    value = int(value)
    if not least <= value <= most:
        raise _not(header, key, path, f"from {least} to {most}")
    return value


def _number(header: Header, key: str, path: Path) -> int | float:
    if key not in header:
        raise FileError(f"its header has no {key}", reason="missing-keyword", remedy=AGAIN, path=path)
    value = header[key]
    if isinstance(value, str):
        value = _value(value)
    if isinstance(value, bool | str):
        raise _not(header, key, path, "a finite number")
    return value


def _not(header: Header, key: str, path: Path, wanted: str) -> FileError:
    return FileError(
        f"its header says {key} = {header[key]!r}, not {wanted}",
        reason="bad-values",
        remedy=AGAIN,
        path=path,
    )


def text(header: Header, key: str, path: Path) -> str:
    """Return a header value that is text, without blanks around it.

    Raises
    ------
    FileError
        ``missing-keyword`` where it is absent, ``bad-values`` where it is no text.
    """
    if key not in header:
        raise FileError(f"its header has no {key}", reason="missing-keyword", remedy=AGAIN, path=path)
    value = header[key]
    if not isinstance(value, str) or not header.is_quoted(key):
        raise _not(header, key, path, "text")
    return value.strip()


def require_one_voice(header: Header, path: Path) -> None:
    """Refuse a header that gives a keyword twice, with different values: which one holds cannot be known.

    Raises
    ------
    FileError
        ``damaged``.
    """
    if header.contradicted:
        raise damaged(f"its header gives {min(header.contradicted)} twice, with different values", path)


def require_plain_image(header: Header, path: Path) -> None:
    """Refuse an image of floats that BSCALE and BZERO scale: its pixels are not what they say.

    Raises
    ------
    FileError
        ``wrong-hdus``.
    """
    if header.get("BSCALE", 1) != 1 or header.get("BZERO", 0) != 0:
        raise FileError(
            "its image is scaled (BSCALE, BZERO)",
            reason="wrong-hdus",
            remedy="write it unscaled, or get the file again from the archive",
            path=path,
        )


def require_date(mjd: float, path: Path) -> float:
    """Return a time, MJD, or refuse one that is none of a digital survey: before 1968 or after 2132.

    Raises
    ------
    FileError
        ``bad-values``.
    """
    if not 40_000 <= mjd < 100_000:
        raise FileError(
            f"its time, MJD {mjd}, is not from 40000 to 100000",
            reason="bad-values",
            remedy=AGAIN,
            path=path,
        )
    return mjd


def printable(text: bytes, path: Path) -> str:
    """Return a text of a table, which is printable ASCII (FITS 4.0, section 7.3.3.1).

    Raises
    ------
    FileError
        ``bad-values``.
    """
    if text.translate(None, PRINTABLE):
        raise FileError(
            f"a text of a table holds bytes that are no printable ASCII: {text[:40]!r}",
            reason="bad-values",
            remedy=AGAIN,
            path=path,
        )
    return text.decode("ascii")


def position(header: Header, ra: str, dec: str, path: Path) -> tuple[float, float]:
    """Return the right ascension, in [0, 360), and declination that two keywords give, degrees.

    Raises
    ------
    FileError
        ``missing-keyword``, or ``bad-values`` where they are not on the sky.
    """
    at = number(header, ra, path), number(header, dec, path)
    if not (0 <= at[0] <= 360 and -90 <= at[1] <= 90):
        raise FileError(
            f"its position {at} is not on the sky",
            reason="bad-values",
            remedy=AGAIN,
            path=path,
        )
    return at[0] % 360.0, at[1]


def survey(header: Header, name: str) -> str:
    """Return the name of the survey, or ``mock`` where TELESCOP says that no telescope took the file."""
    return "mock" if str(header.get("TELESCOP", "")).strip().upper() == "MOCK" else name
