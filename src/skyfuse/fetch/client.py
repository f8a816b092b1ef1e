"""Getting the files that a ledger wants: many kept-alive connections, resumed, checked, renamed when whole.

Threads on urllib3: carrying a file of 200 kB costs 0.4 ms of processor time. With httpx it is 1.6 to 3 ms on
24 connections, which leaves no room for fifteen times the rate of single requests on a busy machine.
"""

from __future__ import annotations

import errno
import os
import queue
import random
import re
import shutil
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import TracebackType
from typing import Self
from urllib.parse import urlencode, urljoin
from urllib.request import getproxies, proxy_bypass

import urllib3

from skyfuse.disk import locked
from skyfuse.errors import DataError, FileError, StoreError, UsageError
from skyfuse.fetch import bounds as limits
from skyfuse.fetch.bounds import HEAD, LEAST_RATE, MOST, REDIRECTS, WORDS, Bounds
from skyfuse.fetch.checks import check
from skyfuse.fetch.connection import limit_of, manager
from skyfuse.fetch.ledger import NAME, Ledger, Row, Tally, Wanted, printable, writing
from skyfuse.words import Progress

CONNECTIONS = 24
"""Connections at a time: enough to hide a latency of 50 ms, no more than an archive bears from one user."""

TRIES = 16
"""Tries for one file; with the waits between them a server may be out of order for five minutes."""

_HEADERS = {
    "User-Agent": f"skyfuse/{version('skyfuse')}",
    # Any other coding would change lengths, ranges and checksums under our hands.
    "Accept-Encoding": "identity",
}
_CHUNK = 1 << 18
_PORTS = {"http": 80, "https": 443}
_MAY_PASS = (408, 425, 429, 500, 502, 503, 504)
_SPARE_ROOM = 1 << 28
# Names that cannot be, and names taken otherwise: what the server asks for is at fault, not the disk.
_BAD_NAME = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)
_PART = ".{}.part"
_FORM = "application/x-www-form-urlencoded"


class _Stopped(BaseException):
    """The run ends; what is under way stays as it is. No error, as KeyboardInterrupt is none."""


class _TryError(FileError):
    """A try that failed.

    Attributes
    ----------
    final : bool
        Another try would fail likewise.
    wait : float
        Seconds that the server asked to wait.
    gained : int
        Bytes that it brought all the same.
    """

    gained = 0

    def __init__(self, reason: str, fault: str, url: str, *, final: bool = False, wait: float = 0.0) -> None:
        remedy = "check what was asked for" if final else "run the same command again later"
        super().__init__(f"{fault} ({url[:300]})", reason=reason, remedy=remedy)
        self.final = final
        self.wait = wait


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
            body, kind = urlencode(data).encode(), _FORM
        return self._query("POST", url, {"Content-Type": kind}, body, ok, accept)

    def download(
        self,
        ledger: Ledger,
        *,
        typical: Mapping[str, int] | None = None,
        progress: Progress | None = None,
    ) -> Tally:
        """Get all that waits in a ledger into its folder; what was rejected is tried again.

        Parameters
        ----------
        ledger : Ledger
        typical : mapping of str to int, optional
            Bytes of a file of each kind, where the ledger does not know: for the look at the disk's room.
        progress : callable, optional
            Called with files done, files in all, and a text that holds bytes and rate.

        Returns
        -------
        Tally

        Raises
        ------
        StoreError
            If another run is at work in the folder, or the disk has too little room, at the start or on the
            way. What has come is kept, the rest waits.
        DataError
            If the archive no longer answers. What has come is kept, the rest waits.
        """
        with locked(ledger.folder, "download"), writing(ledger.folder):
            ledger.renew()
            _require_room(ledger, typical or {})
            return _Run(self, ledger, progress or (lambda done, total, what: None)).run()

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
                response, last = self._ask(method, url, headers, body, timeout=self.bounds.query, ok=ok)
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
                fault = _failed_try(error, url)
            wait = max(self.backoff(attempt), fault.wait)
            waited += wait
            if fault.final or waited > self.bounds.patience:
                break
            time.sleep(wait)
        raise DataError(f"the archive gives no answer: {printable(fault.fault)}", remedy=fault.remedy)

    def _content(self, response: urllib3.BaseHTTPResponse, url: str) -> bytes:
        """Return a whole answer to a query."""
        _require_plain(response, url)
        _length(response, url)
        content, lines, last = bytearray(), 0, 0
        for piece in self.pieces(response, url):
            content += piece
            lines += piece.count(b"\n")
            last = len(content) if b"\n" in piece else last
            if len(content) > limits.ANSWER or lines > limits.LINES or len(content) - last > limits.LINE:
                raise _TryError(
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
        _TryError
            ``cut-off`` or ``too-slow``.
        """
        bounds, limit = self.bounds, limit_of(response)
        now = mark = time.monotonic()
        end = now + bounds.content
        size = 0
        while True:
            # One chunk, and what there may be around it.
            limit.allow(min(bounds.silence, end - now), _CHUNK + HEAD)
            try:
                piece = response.read1(_CHUNK)
            except urllib3.exceptions.ReadTimeoutError as error:
                raise _too_slow(f"{bounds.silence:g} s", url) from error
            except urllib3.exceptions.HTTPError as error:
                raise _TryError("cut-off", f"the connection broke off: {_told(error)}", url) from error
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

    def _ask(
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
        _TryError
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
                raise _TryError("no-answer", f"no answer came within {timeout:g} s", url) from error
            except urllib3.exceptions.HTTPError as error:
                raise _TryError("no-answer", _told(error), url) from error
            status = response.status
            if status in ok:
                return response, url
            words = self._words(response)
            place = response.headers.get("Location")
            if place is None or status not in (301, 302, 303, 307, 308):
                raise _TryError(
                    f"http-{status}",
                    f"the server answers {status} {response.reason or ''} {words}".strip(),
                    url,
                    final=status not in _MAY_PASS,
                    wait=_retry_after(response.headers),
                )
            with suppress(ValueError):
                place = urljoin(url, place)
            url = place
            # RFC 9110, sections 15.4.2 to 15.4.4: what answers a POST is got by GET.
            if status == 303 or (status in (301, 302) and method == "POST"):
                method, body = "GET", None
                headers.pop("Content-Type", None)
        raise _TryError("redirects", f"over {REDIRECTS} redirects", url, final=True)

    def _words(self, response: urllib3.BaseHTTPResponse) -> str:
        """Return how the text of a page that is no answer begins; read the rest away where that is little."""
        words, limit = b"", limit_of(response)
        limit.allow(self.bounds.words, _CHUNK + HEAD)
        try:
            while len(words) < WORDS and (piece := response.read1(WORDS - len(words))):
                words += piece
            if int(response.headers.get("Content-Length", _CHUNK)) < _CHUNK and response.status >= 200:
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
        _TryError
            ``other-host``.
        """
        with suppress(ValueError):
            scheme, host, port = _origin(url)
            if (scheme, host, port) in self._origins:
                return url
            if port == _PORTS[scheme] and {("http", host, 80), ("https", host, 443)} & self._origins:
                return urllib3.util.parse_url(url)._replace(scheme="https", port=None).url
        raise _TryError("other-host", "the address is not of this archive, and is not asked", url, final=True)

    def _pool(self, url: str) -> urllib3.PoolManager:
        """Return the connections to an address's server, through the environment's proxy if that is to be."""
        scheme, host, _ = origin = _origin(url)
        with self._lock:
            if origin not in self._pools:
                proxy = "" if proxy_bypass(host) else getproxies().get(scheme, "")
                self._pools[origin] = manager(scheme, self.connections, proxy)
            return self._pools[origin]


class _Run:
    """One download: the caller's thread hands out rows, the others get the files."""

    def __init__(self, client: Client, ledger: Ledger, progress: Progress) -> None:
        self._client = client
        self._ledger = ledger
        self._folder = ledger.folder.resolve()
        self._progress = progress
        self._total = ledger.tally().waiting
        self._queue: queue.Queue[Row | None] = queue.Queue(client.connections)
        self._busy: set[int] = set()
        self._folders: set[Path] = set()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._broken: BaseException | None = None
        self._done = 0
        self._bytes = 0
        self._failures = 0
        self._last_success = time.monotonic()
        self._marks = deque([(time.monotonic(), 0)], maxlen=50)

    def run(self) -> Tally:
        threads = [
            threading.Thread(target=self._work, daemon=True)
            for _ in range(min(self._client.connections, self._total))
        ]
        for thread in threads:
            thread.start()
        try:
            self._feed()
        finally:
            # Also on Ctrl-C: who is about to rename may do so; who waits for the server is left behind.
            self._stop.set()
            with suppress(queue.Empty):
                while True:
                    self._queue.get_nowait()
            for _ in threads:
                self._queue.put_nowait(None)
            deadline = time.monotonic() + 2
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        if self._broken:
            raise self._broken
        self._tell(last=True)
        return self._ledger.tally()

    def _feed(self) -> None:
        """Hand out waiting rows until none waits; those that failed come again once they are due."""
        while True:
            # A page of rows is older than what its rows become while it is handed out: rows under way when
            # this round began are left to the next.
            with self._lock:
                busy = set(self._busy)
            for row in self._ledger.waiting(time.monotonic()):
                if row.id in busy:
                    continue
                with self._lock:
                    self._busy.add(row.id)
                while True:
                    self._tell()
                    if self._stop.is_set():
                        return
                    with suppress(queue.Full):
                        self._queue.put(row, timeout=0.2)
                        break
            due = self._ledger.next_due()
            if due is None or self._stop.wait(min(0.2, max(0.05, due - time.monotonic()))):
                return
            self._tell()

    def _work(self) -> None:
        """Get files until there is no more row or the run stops."""
        try:
            while (row := self._queue.get()) and not self._stop.is_set():
                wait = self._try(row)
                with self._lock:
                    self._busy.discard(row.id)
                if wait and self._stop.wait(wait):
                    return
        except _Stopped:
            pass
        except BaseException as error:
            self._broken = self._broken or error
            self._stop.set()

    def _try(self, row: Row) -> float:
        """Get one file, or note why not; return how long (s) this connection should rest."""
        url = row.wanted.url
        try:
            size, digest = self._obtain(row)
        except FileError as error:
            fault = _failed_try(error, url)
        except OSError as error:
            if error.errno not in _BAD_NAME:
                raise
            fault = _unsafe(row.wanted, f"that name cannot be ({error.strerror})")
        else:
            self._ledger.received(row.id, size, digest)
            self._count(done=1)
            return 0.0
        if self._stop.is_set():
            raise _Stopped
        # A large file over a bad line comes piece by piece: a try that brought much is none that failed.
        tries = row.tries + (fault.gained < _CHUNK)
        given_up = fault.final or tries >= self._client.tries
        due = None if given_up else time.monotonic() + max(fault.wait, self._client.backoff(tries))
        self._ledger.failed(row.id, fault.reason, str(fault), tries, due)
        self._count(done=given_up)
        return max(fault.wait, self._rest_after(fault))

    def _rest_after(self, fault: _TryError) -> float:
        """Return how long (s) to rest because the server seems to be out of order; stop if it stays so.

        A server that is down, bans us, or stands behind the login page of a network, would else see every
        file asked for and rejected within minutes.
        """
        reason = fault.reason
        if reason in ("http-404", "http-410") or not reason.startswith(("http-", "no-answer", "other-host")):
            return 0.0
        with self._lock:
            self._failures += 1
            rounds = self._failures / self._client.connections
            silence = time.monotonic() - self._last_success
        bounds = self._client.bounds
        if silence > bounds.patience or fault.wait > bounds.patience:
            raise DataError(
                f"the archive does not serve us now: {fault.fault}",
                remedy="what has come is kept; run the same command again later",
            )
        return min(bounds.longest_wait, bounds.first_wait * 2 ** min(rounds, 16.0)) if rounds > 1 else 0.0

    def _obtain(self, row: Row) -> tuple[int, str]:
        """Bring one file under its name; return its size and checksum."""
        wanted = row.wanted
        target = _target(self._folder, wanted)
        self._make(target.parent, wanted)
        size = _size(target, wanted)
        if size is not None:
            # Only whole files get their name: a kill came before the ledger's row, or the ledger is new. One
            # that the ledger had must still be the same.
            with suppress(FileError):
                digest = check(target, wanted)
                if row.digest in (None, digest):
                    return size, digest
        part = target.with_name(_PART.format(target.name))
        have = _size(part, wanted) or 0
        if not have or have != row.total:
            self._transfer(row, part, have)
        try:
            digest = check(part, wanted)
        except FileError:
            part.unlink()
            raise
        size = part.stat().st_size
        part.replace(target)
        return size, digest

    def _make(self, folder: Path, wanted: Wanted) -> None:
        """Make a folder, if it is within the one that all goes into; once, since looking takes long.

        Raises
        ------
        _TryError
            ``unsafe-path``.
        """
        if folder in self._folders:
            return
        if not folder.resolve().is_relative_to(self._folder):
            raise _unsafe(wanted, "a link on its path leads elsewhere")
        folder.mkdir(parents=True, exist_ok=True)
        self._folders.add(folder)

    def _transfer(self, row: Row, part: Path, have: int) -> None:
        """Bring a part file to its whole length, from the `have` bytes on that it has where that is possible.

        Part files grow by what arrives, so that a killed run loses next to nothing (RFC 9110, section 14:
        Range; section 13.1.5: If-Range with the validator under which the part came).
        """
        wanted, client, before = row.wanted, self._client, have
        method, headers, body = _request(row, have)
        response, url = client._ask(
            method,
            wanted.url,
            headers,
            body,
            timeout=client.bounds.file,
            ok=(200, 206, 416) if "Range" in headers else (200,),
        )
        try:
            try:
                total = _total(response, have, url)
                if response.status == 416 and total == have:
                    response.close()
                    return
                _require_same(response, row.part, have, url)
            except _TryError as error:
                # The file has changed, or the server knows no ranges: from the beginning, next time.
                if error.reason == "bad-range":
                    part.unlink()
                raise
            _require_plain(response, url, gzip=PurePosixPath(wanted.path).suffix.lower() == ".gz")
            if response.status == 200:
                have = 0
            most = MOST[wanted.kind]
            if (total or 0) > most:
                raise _too_large(most, url)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                # Cut before the new validator is noted: a kill between the two must not join old and new.
                os.ftruncate(descriptor, have)
                os.lseek(descriptor, have, os.SEEK_SET)
                self._ledger.began(row.id, _validator(response.headers), total)
                for piece in client.pieces(response, url):
                    if self._stop.is_set():
                        raise _Stopped
                    self._count(size=len(piece))
                    have += len(piece)
                    if have > most:
                        part.unlink()
                        raise _too_large(most, url)
                    while piece:
                        piece = piece[os.write(descriptor, piece) :]
                if total is not None and have != total:
                    raise _TryError("cut-off", f"{have} of {total} bytes came", url)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException as error:
            # What is left on the connection is not the next answer.
            response.close()
            if isinstance(error, _TryError) and error.reason in ("cut-off", "too-slow"):
                # Beyond what there was: an answer from the start brings nothing before it gets there.
                error.gained = have - before
            raise
        response.release_conn()

    def _count(self, *, done: int = 0, size: int = 0) -> None:
        with self._lock:
            self._done += done
            self._bytes += size
            if size:
                self._failures = 0
                self._last_success = time.monotonic()

    def _tell(self, *, last: bool = False) -> None:
        """Report files, bytes and rate, five times a second."""
        now = time.monotonic()
        if now - self._marks[-1][0] < 0.2 and not last:
            return
        self._marks.append((now, self._bytes))
        since, before = self._marks[0]
        rate = (self._bytes - before) / max(now - since, 0.2)
        self._progress(self._done, self._total, f"{_bytes(self._bytes)}, {_bytes(rate)}/s")


def _request(row: Row, have: int) -> tuple[str, dict[str, str], bytes | None]:
    """Return method, headers and body that ask for a file, from the `have` bytes on where it can be."""
    if row.wanted.data is not None:
        return "POST", {"Content-Type": _FORM}, row.wanted.data.encode()
    if have and row.part and _sendable(row.part):
        return "GET", {"Range": f"bytes={have}-", "If-Range": row.part}, None
    return "GET", {}, None


def _failed_try(error: FileError, url: str) -> _TryError:
    """Return an error as that of a try: what fails a check may be a slip of the server."""
    return error if isinstance(error, _TryError) else _TryError(error.reason, error.fault, url)


def _require_room(ledger: Ledger, typical: Mapping[str, int]) -> None:
    need = sum(
        known + unknown * typical.get(kind, 0) for kind, (known, unknown) in ledger.outstanding().items()
    )
    free = shutil.disk_usage(ledger.folder).free
    if need + _SPARE_ROOM > free:
        raise StoreError(
            f"what is still to come takes about {_bytes(need)}, its disk has {_bytes(free)} left",
            path=ledger.folder,
            remedy="make room, or ask for fewer files or for a folder on another disk",
        )


def _target(folder: Path, wanted: Wanted) -> Path:
    """Return where a file goes: within `folder`, whatever its name says, but for links that lie there.

    Raises
    ------
    _TryError
        ``unsafe-path``.
    """
    path = wanted.path
    parts = path.split("/")
    windows = PureWindowsPath(path)
    if windows.drive or windows.root or "\\" in path or not path.isprintable():
        raise _unsafe(wanted, "its name is no relative path")
    # A leading dot is for part files, and the ledger's own files lie beside the downloads.
    if any(not part or part.startswith(".") for part in parts) or parts[0].lower().startswith(NAME):
        raise _unsafe(wanted, "its name holds '..', a hidden part or the ledger's name")
    return folder.joinpath(*parts)


def _size(path: Path, wanted: Wanted) -> int | None:
    """Return the bytes of a file, or None where there is none.

    Raises
    ------
    _TryError
        ``unsafe-path``: something else lies there.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise _unsafe(wanted, "a link or a folder lies in its place")
    return found.st_size


def _told(error: urllib3.exceptions.HTTPError) -> str:
    """Return what went wrong on a connection, in the words of the first who noticed."""
    inner = error.args[1] if len(error.args) > 1 else None
    words = f"{error.args[0]} {inner}" if isinstance(inner, Exception) else str(error)
    return printable(words)[:300]


def _too_slow(span: str, url: str) -> _TryError:
    return _TryError("too-slow", f"under {LEAST_RATE:.0f} bytes a second came in {span}", url)


def _too_large(most: int, url: str) -> _TryError:
    return _TryError("too-large", f"it has over {most} bytes", url, final=True)


def _unsafe(wanted: Wanted, fault: str) -> _TryError:
    return _TryError("unsafe-path", f"{fault}: {wanted.path!a}", wanted.url, final=True)


def _origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address; ValueError where it is none that we speak to.

    Read by the parser of those who connect, so that no address means one host here and another there.
    """
    parts = urllib3.util.parse_url(url)
    if parts.scheme not in _PORTS or not parts.host or parts.auth is not None:
        raise ValueError(f"no address of a server: {url!r}")
    return parts.scheme, parts.host, parts.port or _PORTS[parts.scheme]


def _total(response: urllib3.BaseHTTPResponse, have: int, url: str) -> int | None:
    """Return the size of the whole file as a response tells it.

    Raises
    ------
    _TryError
        ``bad-range``: bytes come from another place than asked for. ``bad-length``: as `_length`.
    """
    length = _length(response, url)
    if response.status == 200:
        return length
    given = re.fullmatch(
        r"bytes (?:(\d{1,18})-\d+|\*)/(\d{1,18}|\*)", response.headers.get("Content-Range", "")
    )
    if response.status == 206 and (not given or given[1] is None or int(given[1]) != have):
        raise _TryError("bad-range", f"the server sends other bytes than those from {have} on", url)
    return int(given[2]) if given and given[2] != "*" else None


def _length(response: urllib3.BaseHTTPResponse, url: str) -> int | None:
    """Return the length of a content as its headers tell it, or None where they do not.

    Raises
    ------
    _TryError
        ``bad-length``: it is no number of bytes, so that nobody could tell a whole content from one that was
        cut (RFC 9112, section 6.3).
    """
    length = response.headers.get("Content-Length")
    if length is None or "Transfer-Encoding" in response.headers:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", length):
        raise _TryError("bad-length", f"its length is {printable(length)[:40]!r}", url)
    return int(length)


def _require_plain(response: urllib3.BaseHTTPResponse, url: str, *, gzip: bool = False) -> None:
    """Require the coding that was asked for, none; a file that is compressed itself may be told to be so."""
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if coding not in ("", "identity", *(("gzip", "x-gzip") if gzip else ())):
        raise _TryError("bad-coding", f"it comes coded as {printable(coding)[:40]!r}", url)


def _require_same(response: urllib3.BaseHTTPResponse, part: str | None, have: int, url: str) -> None:
    """Require that bytes to go on with are there, and are of the file that the part file is of.

    Raises
    ------
    _TryError
        ``bad-range``.
    """
    if response.status == 416:
        raise _TryError("bad-range", f"the server has no bytes from {have} on", url)
    if response.status == 206 and _validator(response.headers) not in (None, part):
        raise _TryError("bad-range", f"the server has another file than that of the first {have} bytes", url)


def _validator(headers: Mapping[str, str]) -> str | None:
    """Return what If-Range may name: a strong ETag, else the date (RFC 9110, section 13.1.5)."""
    tag = headers.get("ETag", "")
    found = tag if tag.startswith('"') else headers.get("Last-Modified", "")
    return found if _sendable(found) else None


def _sendable(text: str | None) -> bool:
    """Tell whether a text can be sent back in a header."""
    return bool(text) and text is not None and text.isascii() and text.isprintable()


def _retry_after(headers: Mapping[str, str]) -> float:
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


def _bytes(size: float) -> str:
    """Write bytes as people read them."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
