"""Getting the files that a ledger wants: over many connections, resumed, checked, renamed when whole."""

from __future__ import annotations

import os
import queue
import shutil
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from skyfuse.disk import locked, writing
from skyfuse.errors import DataError, FileError, StoreError
from skyfuse.fetch.answers import require_plain, require_same, sendable, total_of, validator_of
from skyfuse.fetch.bounds import MOST
from skyfuse.fetch.checks import check
from skyfuse.fetch.client import CHUNK, FORM, Client
from skyfuse.fetch.ledger import Ledger, Row, Tally, Wanted
from skyfuse.fetch.places import BAD_NAME, size_of, target_of, unsafe
from skyfuse.fetch.tries import TryError, failed_try
from skyfuse.words import Progress

_SPARE_ROOM = 1 << 28
_PART = ".{}.part"


class _Stopped(BaseException):
    """The run ends; what is under way stays as it is. No error, as KeyboardInterrupt is none."""


def download(
    client: Client,
    ledger: Ledger,
    *,
    typical: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Tally:
    """Get all that waits in a ledger into its folder; what was rejected is tried again.

    Parameters
    ----------
    client : Client
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
        return _Run(client, ledger, progress or (lambda done, total, what: None)).run()


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
            fault = failed_try(error, url)
        except OSError as error:
            if error.errno not in BAD_NAME:
                raise
            fault = unsafe(row.wanted, f"that name cannot be ({error.strerror})")
        else:
            self._ledger.received(row.id, size, digest)
            self._count(done=1)
            return 0.0
        if self._stop.is_set():
            raise _Stopped
        # A large file over a bad line comes piece by piece: a try that brought much is none that failed.
        tries = row.tries + (fault.gained < CHUNK)
        given_up = fault.final or tries >= self._client.tries
        due = None if given_up else time.monotonic() + max(fault.wait, self._client.backoff(tries))
        self._ledger.failed(row.id, fault.reason, str(fault), tries, due)
        self._count(done=given_up)
        return max(fault.wait, self._rest_after(fault))

    def _rest_after(self, fault: TryError) -> float:
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
        target = target_of(self._folder, wanted)
        self._make(target.parent, wanted)
        size = size_of(target, wanted)
        if size is not None:
            # Only whole files get their name: a kill came before the ledger's row, or the ledger is new. One
            # that the ledger had must still be the same.
            with suppress(FileError):
                digest = check(target, wanted)
                if row.digest in (None, digest):
                    return size, digest
        part = target.with_name(_PART.format(target.name))
        have = size_of(part, wanted) or 0
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
        TryError
            ``unsafe-path``.
        """
        if folder in self._folders:
            return
        if not folder.resolve().is_relative_to(self._folder):
            raise unsafe(wanted, "a link on its path leads elsewhere")
        folder.mkdir(parents=True, exist_ok=True)
        self._folders.add(folder)

    def _transfer(self, row: Row, part: Path, have: int) -> None:
        """Bring a part file to its whole length, from the `have` bytes on that it has where that is possible.

        Part files grow by what arrives, so that a killed run loses next to nothing (RFC 9110, section 14:
        Range; section 13.1.5: If-Range with the validator under which the part came).
        """
        wanted, client, before = row.wanted, self._client, have
        method, headers, body = _request(row, have)
        response, url = client.ask(
            method,
            wanted.url,
            headers,
            body,
            timeout=client.bounds.file,
            ok=(200, 206, 416) if "Range" in headers else (200,),
        )
        try:
            try:
                total = total_of(response, have, url)
                if response.status == 416 and total == have:
                    response.close()
                    return
                require_same(response, row.part, have, url)
            except TryError as error:
                # The file has changed, or the server knows no ranges: from the beginning, next time.
                if error.reason == "bad-range":
                    part.unlink()
                raise
            require_plain(response, url, gzip=PurePosixPath(wanted.path).suffix.lower() == ".gz")
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
                self._ledger.began(row.id, validator_of(response.headers), total)
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
                    raise TryError("cut-off", f"{have} of {total} bytes came", url)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException as error:
            # What is left on the connection is not the next answer.
            response.close()
            if isinstance(error, TryError) and error.reason in ("cut-off", "too-slow"):
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
        return "POST", {"Content-Type": FORM}, row.wanted.data.encode()
    if have and row.part and sendable(row.part):
        return "GET", {"Range": f"bytes={have}-", "If-Range": row.part}, None
    return "GET", {}, None


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


def _too_large(most: int, url: str) -> TryError:
    return TryError("too-large", f"it has over {most} bytes", url, final=True)


def _bytes(size: float) -> str:
    """Write bytes as people read them."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
