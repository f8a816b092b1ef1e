"""What the headers of an answer tell: its length, its place in a file, its coding, when to come again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import urllib3

from skyfuse.fetch.ledger import printable
from skyfuse.fetch.tries import TryError


def total_of(response: urllib3.BaseHTTPResponse, have: int, url: str) -> int | None:
    """Return the size of the whole file as a response tells it.

    Raises
    ------
    TryError
        ``bad-range``: bytes come from another place than asked for. ``bad-length``: as `length_of`.
    """
    length = length_of(response, url)
    if response.status == 200:
        return length
    given = re.fullmatch(
        r"bytes (?:(\d{1,18})-\d+|\*)/(\d{1,18}|\*)", response.headers.get("Content-Range", "")
    )
    if response.status == 206 and (not given or given[1] is None or int(given[1]) != have):
        raise TryError("bad-range", f"the server sends other bytes than those from {have} on", url)
    return int(given[2]) if given and given[2] != "*" else None


def length_of(response: urllib3.BaseHTTPResponse, url: str) -> int | None:
    """Return the length of a content as its headers tell it, or None where they do not.

    Raises
    ------
    TryError
        ``bad-length``: it is no number of bytes, so that nobody could tell a whole content from one that was
        cut (RFC 9112, section 6.3).
    """
    length = response.headers.get("Content-Length")
    if length is None or "Transfer-Encoding" in response.headers:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", length):
        raise TryError("bad-length", f"its length is {printable(length)[:40]!r}", url)
    return int(length)


def require_plain(response: urllib3.BaseHTTPResponse, url: str, *, gzip: bool = False) -> None:
    """Require the coding that was asked for, none; a file that is compressed itself may be told to be so."""
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if coding not in ("", "identity", *(("gzip", "x-gzip") if gzip else ())):
        raise TryError("bad-coding", f"it comes coded as {printable(coding)[:40]!r}", url)


def require_same(response: urllib3.BaseHTTPResponse, part: str | None, have: int, url: str) -> None:
    """Require that bytes to go on with are there, and are of the file that the part file is of.

    Raises
    ------
    TryError
        ``bad-range``.
    """
    if response.status == 416:
        raise TryError("bad-range", f"the server has no bytes from {have} on", url)
    if response.status == 206 and validator_of(response.headers) not in (None, part):
        raise TryError("bad-range", f"the server has another file than that of the first {have} bytes", url)


def validator_of(headers: Mapping[str, str]) -> str | None:
    """Return what If-Range may name: a strong ETag, else the date (RFC 9110, section 13.1.5)."""
    tag = headers.get("ETag", "")
    found = tag if tag.startswith('"') else headers.get("Last-Modified", "")
    return found if sendable(found) else None


def sendable(text: str | None) -> bool:
    """Tell whether a text can be sent back in a header."""
    return bool(text) and text is not None and text.isascii() and text.isprintable()


def retry_after(headers: Mapping[str, str]) -> float:
    """Return how long (s) a server asks us to wait: seconds or a date (RFC 9110, section 10.2.3), else 0.

    A date counts from the server's own (section 6.6.1 has it tell one); this machine's clock may be wrong.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        now = parsedate_to_datetime(headers.get("Date", ""))
        seconds = (parsedate_to_datetime(value) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return max(0.0, seconds)
