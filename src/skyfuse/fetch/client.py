"""Speaking to the hosts of an archive: requests, redirects and answers, each with an end.

On urllib3: carrying a file of 200 kB costs 0.4 ms of processor time. With httpx it is 1.6 to 3 ms on
24 connections, which leaves no room for fifteen times the rate of single requests on a busy machine.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from types import TracebackType
from typing import Self
from urllib.parse import urlencode, urljoin
from urllib.request import getproxies, proxy_bypass

import urllib3

from skyfuse.errors import DataError, FileError, UsageError
from skyfuse.fetch import bounds as limits
from skyfuse.fetch.answers import length_of, require_plain, retry_after
from skyfuse.fetch.bounds import HEAD, LEAST_RATE, REDIRECTS, WORDS, Bounds
from skyfuse.fetch.connection import limit_of, manager
from skyfuse.fetch.ledger import printable
from skyfuse.fetch.tries import TryError, failed_try

CONNECTIONS = 24
"""Connections at a time: enough to hide a latency of 50 ms, no more than an archive bears from one user."""

TRIES = 16
"""Tries for one file; with the waits between them a server may be out of order for five minutes."""

FORM = "application/x-www-form-urlencoded"
"""Content type of a form's fields."""

CHUNK = 1 << 18
"""Bytes of a content that are taken at once."""

_HEADERS = {
    "User-Agent": f"skyfuse/{version('skyfuse')}",
    # Any other coding would change lengths, ranges and checksums under our hands.
    "Accept-Encoding": "identity",
}
_PORTS = {"http": 80, "https": 443}
_MAY_PASS = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered to a query.

    Attributes
    ----------
    status : int
    url : str
        Where the answer came from, after redirects.
    headers : mapping of str to str
        Names in lower case.
    content : bytes
    """

    status: int
    url: str
    headers: Mapping[str, str]
    content: bytes


class Client:
    """Speak to the hosts of an archive; use it as a context manager.

    Proxies are those of the environment (``HTTPS_PROXY``, ``NO_PROXY`` and so on).

    Parameters
    ----------
    archive : collection of str
        Base URLs of the hosts that may be spoken to. A redirect to any other is refused; where a host is
        known under ``https``, its ``http`` addresses are asked by ``https``.
    connections : int
        Most connections at a time.
    tries : int
        Tries for each file before it is rejected; queries get half as many.
    bounds : Bounds, optional
        Of all waits.

    Raises
    ------
    UsageError
        If a base is no address.
    """

    def __init__(
        self,
        archive: Collection[str],
        *,
        connections: int = CONNECTIONS,
        tries: int = TRIES,
        bounds: Bounds | None = None,
    ) -> None:
        self.bounds = limits.BOUNDS if bounds is None else bounds
        self.connections = connections
        self.tries = tries
        try:
            self._origins = {_origin(base) for base in archive}
        except ValueError as error:
            raise UsageError(str(error), remedy="give it as https://host or https://host/path") from error
        self._pools: dict[tuple[str, str, int], urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in self._pools.values():
            pool.clear()

    def get(
        self,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        ok: Collection[int] = (200,),
        accept: Callable[[bytes], None] | None = None,
    ) -> Answer:
        """Ask a service by GET, with the waits, tries and refusals of a file.

        Parameters
        ----------
        url : str
        params : mapping of str to str, optional
            Of the query string.
        ok : collection of int
            Statuses that are an answer.
        accept : callable, optional
            Raises FileError where the content is not what the service should send: a reason to try again.

        Returns
        -------
        Answer

        Raises
        ------
        DataError
            If no answer came, with the service's own words.
        """
        return self._query("GET", url + ("?" + urlencode(params) if params else ""), {}, None, ok, accept)

    def post(
        self,
        url: str,
        *,
        data: Mapping[str, str],
        files: Mapping[str, tuple[str, bytes, str]] | None = None,
        ok: Collection[int] = (200,),
        accept: Callable[[bytes], None] | None = None,
    ) -> Answer:
        """Ask a service by POST; a redirect that answers it is followed by GET.

        Parameters
        ----------
        url : str
        data : mapping of str to str
            Fields of the form.
        files : mapping of str to (str, bytes, str), optional
            Uploads by field: file name, content, content type.
        ok, accept
            As in `get`.

        Returns
        -------
        Answer

        Raises
        ------
        DataError
            If no answer came, with the service's own words.
        """
        if files:
            body, kind = urllib3.encode_multipart_formdata({**data, **files})
        else:
            body, kind = urlencode(data).encode(), FORM
        return self._query("POST", url, {"Content-Type": kind}, body, ok, accept)

    def _query(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        ok: Collection[int],
        accept: Callable[[bytes], None] | None,
    ) -> Answer:
        waited = 0.0
        for attempt in range(1, max(1, self.tries // 2) + 1):
            try:
                response, last = self.ask(method, url, headers, body, timeout=self.bounds.query, ok=ok)
                try:
                    content = self._content(response, last)
                finally:
                    # Read to its end, it has gone back to its pool already.
                    response.close()
                if accept:
                    accept(content)
                lower = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status, last, lower, content)
            except FileError as error:
                fault = failed_try(error, url)
            wait = max(self.backoff(attempt), fault.wait)
            waited += wait
            if fault.final or waited > self.bounds.patience:
                break
            time.sleep(wait)
        raise DataError(f"the archive gives no answer: {printable(fault.fault)}", remedy=fault.remedy)

    def _content(self, response: urllib3.BaseHTTPResponse, url: str) -> bytes:
        """Return a whole answer to a query."""
        require_plain(response, url)
        length_of(response, url)
        content, lines, last = bytearray(), 0, 0
        for piece in self.pieces(response, url):
            content += piece
            lines += piece.count(b"\n")
            last = len(content) if b"\n" in piece else last
            if len(content) > limits.ANSWER or lines > limits.LINES or len(content) - last > limits.LINE:
                raise TryError(
                    "too-large",
                    f"the answer has over {limits.ANSWER} bytes, {limits.LINES} lines or {limits.LINE} bytes "
                    "in one line",
                    url,
                    final=True,
                )
        response.release_conn()
        return bytes(content)

    def pieces(self, response: urllib3.BaseHTTPResponse, url: str) -> Iterator[bytes]:
        """Yield the content of an answer as it comes.

        Raises
        ------
        TryError
            ``cut-off`` or ``too-slow``.
        """
        bounds, limit = self.bounds, limit_of(response)
        now = mark = time.monotonic()
        end = now + bounds.content
        size = 0
        while True:
            # One chunk, and what there may be around it.
            limit.allow(min(bounds.silence, end - now), CHUNK + HEAD)
            try:
                piece = response.read1(CHUNK)
            except urllib3.exceptions.ReadTimeoutError as error:
                raise _too_slow(f"{bounds.silence:g} s", url) from error
            except urllib3.exceptions.HTTPError as error:
                raise TryError("cut-off", f"the connection broke off: {_told(error)}", url) from error
            if not piece:
                return
            now = time.monotonic()
            size += len(piece)
            if now - mark > bounds.window:
                if size < LEAST_RATE * (now - mark):
                    raise _too_slow(f"{now - mark:.0f} s", url)
                mark, size = now, 0
            yield piece

    def backoff(self, tries: int) -> float:
        """Return how long (s) to wait after so many failed tries: doubled each time, and no two alike."""
        wait = min(self.bounds.longest_wait, self.bounds.first_wait * 2.0 ** min(tries - 1, 16))
        return wait * random.SystemRandom().uniform(0.5, 1.0)

    def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        timeout: float,
        ok: Collection[int],
    ) -> tuple[urllib3.BaseHTTPResponse, str]:
        """Send one request, follow its redirects, and return the response, unread, and where it came from.

        Raises
        ------
        TryError
            ``other-host``, ``no-answer``, ``redirects`` or ``http-<status>``.
        """
        headers = {**_HEADERS, **headers}
        for _ in range(REDIRECTS + 1):
            url = self._admit(url)
            try:
                response = self._pool(url).request(
                    method,
                    url,
                    headers=headers,
                    body=body,
                    timeout=urllib3.Timeout(connect=self.bounds.connect, read=timeout),
                    retries=False,
                    redirect=False,
                    preload_content=False,
                    decode_content=False,
                )
            except urllib3.exceptions.ReadTimeoutError as error:
                raise TryError("no-answer", f"no answer came within {timeout:g} s", url) from error
            except urllib3.exceptions.HTTPError as error:
                raise TryError("no-answer", _told(error), url) from error
            status = response.status
            if status in ok:
                return response, url
            words = self._words(response)
            place = response.headers.get("Location")
            if place is None or status not in (301, 302, 303, 307, 308):
                raise TryError(
                    f"http-{status}",
                    f"the server answers {status} {response.reason or ''} {words}".strip(),
                    url,
                    final=status not in _MAY_PASS,
                    wait=retry_after(response.headers),
                )
            with suppress(ValueError):
                place = urljoin(url, place)
            url = place
            # RFC 9110, sections 15.4.2 to 15.4.4: what answers a POST is got by GET.
            if status == 303 or (status in (301, 302) and method == "POST"):
                method, body = "GET", None
                headers.pop("Content-Type", None)
        raise TryError("redirects", f"over {REDIRECTS} redirects", url, final=True)

    def _words(self, response: urllib3.BaseHTTPResponse) -> str:
        """Return how the text of a page that is no answer begins; read the rest away where that is little."""
        words, limit = b"", limit_of(response)
        limit.allow(self.bounds.words, CHUNK + HEAD)
        try:
            while len(words) < WORDS and (piece := response.read1(WORDS - len(words))):
                words += piece
            if int(response.headers.get("Content-Length", CHUNK)) < CHUNK and response.status >= 200:
                response.drain_conn()
            else:
                response.close()
        except (urllib3.exceptions.HTTPError, ValueError):
            response.close()
        response.release_conn()
        return printable(re.sub("<[^>]*>", " ", words.decode(errors="replace")))[:200]

    def _admit(self, url: str) -> str:
        """Return an address that may be asked: of a host of the archive, over TLS where that host has it.

        Raises
        ------
        TryError
            ``other-host``.
        """
        with suppress(ValueError):
            scheme, host, port = _origin(url)
            if (scheme, host, port) in self._origins:
                return url
            if port == _PORTS[scheme] and {("http", host, 80), ("https", host, 443)} & self._origins:
                return urllib3.util.parse_url(url)._replace(scheme="https", port=None).url
        raise TryError("other-host", "the address is not of this archive, and is not asked", url, final=True)

    def _pool(self, url: str) -> urllib3.PoolManager:
        """Return the connections to an address's server, through the environment's proxy if that is to be."""
        scheme, host, _ = origin = _origin(url)
        with self._lock:
            if origin not in self._pools:
                proxy = "" if proxy_bypass(host) else getproxies().get(scheme, "")
                self._pools[origin] = manager(scheme, self.connections, proxy)
            return self._pools[origin]


def _told(error: urllib3.exceptions.HTTPError) -> str:
    """Return what went wrong on a connection, in the words of the first who noticed."""
    inner = error.args[1] if len(error.args) > 1 else None
    words = f"{error.args[0]} {inner}" if isinstance(inner, Exception) else str(error)
    return printable(words)[:300]


def _too_slow(span: str, url: str) -> TryError:
    return TryError("too-slow", f"under {LEAST_RATE:.0f} bytes a second came in {span}", url)


def _origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address; ValueError where it is none that we speak to.

    Read by the parser of those who connect, so that no address means one host here and another there.
    """
    parts = urllib3.util.parse_url(url)
    if parts.scheme not in _PORTS or not parts.host or parts.auth is not None:
        raise ValueError(f"no address of a server: {url!r}")
    return parts.scheme, parts.host, parts.port or _PORTS[parts.scheme]
