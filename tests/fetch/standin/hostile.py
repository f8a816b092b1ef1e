"""Servers that misbehave, each in one way and on a port of its own; all end with the ``with`` block."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from skyfuse.errors import SkyfuseError
from skyfuse.fetch.archives import Archives
from skyfuse.fetch.bounds import Bounds
from skyfuse.fetch.client import Client
from skyfuse.fetch.download import download
from skyfuse.fetch.gaia import Gaia
from skyfuse.fetch.ledger import NAME, Ledger, Tally, Wanted
from skyfuse.fetch.skyserver import SkyServer
from skyfuse.fetch.sql import Selection

Behaviour = Callable[[str, int], AsyncIterator[bytes]]
"""From a request's head and the number of requests before it to the bytes that answer it, in pieces."""

GARBAGE = bytes(range(256)) * 8
_ROWS = b"n,row_end\n" + b"7,.\n"
_PHASES = re.compile(r"/async/1/phase")


def _head(status: str = "200 OK", *lines: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


def _answer(body: bytes, status: str = "200 OK", *lines: str) -> bytes:
    return _head(status, f"Content-Length: {len(body)}", "Connection: close", *lines) + body


def _then(content: bytes) -> Behaviour:
    """Answer every request with the same bytes."""

    async def behave(head: str, number: int) -> AsyncIterator[bytes]:
        yield content

    return behave


def _endless(first: bytes, piece: bytes, pause: float = 0.0) -> Behaviour:
    """Answer with some bytes, and then a piece again and again."""

    async def behave(head: str, number: int) -> AsyncIterator[bytes]:
        yield first
        while True:
            yield piece
            await asyncio.sleep(pause)

    return behave


def _trickle(first: bytes, content: bytes, pause: float = 0.1) -> Behaviour:
    """Answer with some bytes, and then byte by byte."""

    async def behave(head: str, number: int) -> AsyncIterator[bytes]:
        yield first
        for byte in content:
            yield bytes([byte])
            await asyncio.sleep(pause)

    return behave


async def _silent(head: str, number: int) -> AsyncIterator[bytes]:
    await asyncio.sleep(3600)
    yield b""


async def _closes(head: str, number: int) -> AsyncIterator[bytes]:
    return
    yield b""


async def _resets(head: str, number: int) -> AsyncIterator[bytes]:
    raise ConnectionResetError
    yield b""


async def _resets_within(head: str, number: int) -> AsyncIterator[bytes]:
    yield _head("200 OK", "Content-Length: 100000") + bytes(1000)
    await asyncio.sleep(0.05)
    raise ConnectionResetError


async def _from_the_start(head: str, number: int) -> AsyncIterator[bytes]:
    """Ignore ranges, and break off behind more bytes than count as progress."""
    yield _head("200 OK", "Content-Length: 900000", 'ETag: "a"') + bytes(300_000)


async def _other_tag(head: str, number: int) -> AsyncIterator[bytes]:
    yield _head("200 OK", "Content-Length: 900000", f'ETag: "{number}"') + bytes(300_000)


async def _joins_another(head: str, number: int) -> AsyncIterator[bytes]:
    """Go on with the bytes of another file, which its tag tells."""
    asked = re.search(r"Range: bytes=(\d+)-", head)
    if asked:
        at = int(asked[1])
        length = f"Content-Length: {900_000 - at}"
        yield _head("206 Partial", length, f"Content-Range: bytes {at}-899999/900000", 'ETag: "b"')
        yield b"b" * (900_000 - at)
    else:
        yield _head("200 OK", "Content-Length: 900000", 'ETag: "a"') + b"a" * 300_000


async def _wrong_range(head: str, number: int) -> AsyncIterator[bytes]:
    if "Range:" in head:
        yield _answer(bytes(10), "206 Partial", "Content-Range: bytes 5-14/900000")
    else:
        yield _head("200 OK", "Content-Length: 900000", 'ETag: "a"') + bytes(300_000)


async def _never_a_range(head: str, number: int) -> AsyncIterator[bytes]:
    if "Range:" in head:
        yield _answer(b"", "416 No", "Content-Range: bytes */7")
    else:
        yield _head("200 OK", "Content-Length: 900000", 'ETag: "a"') + bytes(300_000)


async def _chain(head: str, number: int) -> AsyncIterator[bytes]:
    yield _answer(b"", "302 Found", f"Location: /{number}")


async def _job(head: str, number: int) -> AsyncIterator[bytes]:
    """Start a job that runs for ever."""
    if head.startswith("POST"):
        yield _answer(b"", "303 See Other", "Location: /tap-server/tap/async/1")
    else:
        yield _answer(b"EXECUTING" if _PHASES.search(head) else b"")


_CHUNKED = _head("200 OK", "Transfer-Encoding: chunked")
_BOMB = gzip.compress(bytes(50_000_000), 9)

FILES: dict[str, tuple[Behaviour, tuple[str, ...]]] = {
    "slow status line": (_trickle(b"", b"HTTP/1.1 200 OK" * 1000), ("no-answer",)),
    "slow headers": (_trickle(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1000), ("no-answer",)),
    "endless headers": (_endless(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 100), ("no-answer",)),
    "a header of 10 MB": (_then(_head("200 OK", "A: " + "b" * 10_000_000)), ("no-answer",)),
    "a million headers": (_then(_head("200 OK", *["A: b"] * 1_000_000)), ("no-answer",)),
    "endless 100": (_endless(b"", _head("100 Continue")), ("no-answer",)),
    "slow 100": (_endless(b"", _head("100 Continue"), 0.05), ("no-answer",)),
    "endless 102": (_endless(b"", _head("102 Processing")), ("no-answer",)),
    "endless 103": (_endless(b"", _head("103 Early Hints", "Link: </a>")), ("no-answer",)),
    "101": (_then(_head("101 Switching", "Upgrade: x", "Connection: upgrade")), ("http-101",)),
    "silent": (_silent, ("no-answer",)),
    "closes": (_closes, ("no-answer",)),
    "resets": (_resets, ("no-answer",)),
    "resets within": (_resets_within, ("cut-off",)),
    "closes within": (_then(_head("200 OK", "Content-Length: 5000") + bytes(1000)), ("cut-off",)),
    "silent within": (_trickle(_head("200 OK", "Content-Length: 5000") + bytes(9), b"x", 99), ("too-slow",)),
    "length negative": (_then(_head("200 OK", "Content-Length: -5") + b"12345"), ("bad-length",)),
    "length of words": (_then(_head("200 OK", "Content-Length: many") + b"12345"), ("bad-length",)),
    "two lengths": (
        _then(_head("200 OK", "Content-Length: 5", "Content-Length: 4") + b"12345"),
        ("no-answer", "bad-length"),
    ),
    "length of 10^18": (_then(_head("200 OK", "Content-Length: 1" + "0" * 17) + b"12345"), ("too-large",)),
    "length of 10^5000": (_then(_head("200 OK", "Content-Length: 1" + "0" * 5000) + b"1"), ("bad-length",)),
    "endless content": (_endless(_head(), bytes(65536)), ("too-large",)),
    "endless chunks": (_endless(_CHUNKED, b"10000\r\n" + bytes(65536) + b"\r\n"), ("too-large",)),
    "chunk of 2^63": (_endless(_CHUNKED + b"8000000000000000\r\n", bytes(65536)), ("too-large",)),
    "chunk of no size": (_then(_CHUNKED + b"many\r\n12345\r\n0\r\n\r\n"), ("cut-off",)),
    "chunk below zero": (_then(_CHUNKED + b"-5\r\n12345\r\n0\r\n\r\n"), ("cut-off",)),
    "slow chunk size": (_trickle(_CHUNKED, b"0" * 10_000), ("too-slow",)),
    "slow trailer": (_trickle(_CHUNKED + b"1\r\na\r\n0\r\n", b"A: b\r\n" * 1000), ("too-slow",)),
    "endless trailers": (_endless(_CHUNKED + b"1\r\na\r\n0\r\n", b"A: b\r\n" * 100), ("cut-off", "too-slow")),
    "long chunk extensions": (
        _endless(_CHUNKED, b"1;" + b"a" * 60_000 + b"\r\na\r\n"),
        ("too-slow", "cut-off"),
    ),
    "bomb": (_then(_answer(_BOMB, "200 OK", "Content-Encoding: gzip")), ("bad-coding",)),
    "bomb of a file": (_then(_answer(_BOMB)), ("too-large",)),
    "unknown coding": (_then(_answer(b"12345", "200 OK", "Content-Encoding: x-none")), ("bad-coding",)),
    "a page": (_then(_answer(b"<html><body>log in</body></html>")), ("html-page",)),
    "empty": (_then(_answer(b"")), ("empty",)),
    "204": (_then(_head("204 No Content")), ("http-204",)),
    "206 unasked": (_then(_answer(b"1", "206 Partial", "Content-Range: bytes 0-0/9")), ("http-206",)),
    "wrong range": (_wrong_range, ("cut-off", "bad-range")),
    "another file's range": (_joins_another, ("cut-off", "bad-range")),
    "never a range": (_never_a_range, ("cut-off", "bad-range")),
    "always from the start": (_from_the_start, ("cut-off",)),
    "always another tag": (_other_tag, ("cut-off",)),
    "odd date": (
        _then(_head("200 OK", "Content-Length: 9", "Last-Modified: never \xff, 99 Zzz") + b"1"),
        ("cut-off",),
    ),
    "redirect loop": (_then(_answer(b"", "302 Found", "Location: /a")), ("redirects",)),
    "redirect chain": (_chain, ("redirects",)),
    "redirect to a file": (_then(_answer(b"", "302 Found", "Location: file:///etc/passwd")), ("other-host",)),
    "redirect to a port": (_then(_answer(b"", "307 No", "Location: http://127.0.0.1:1/a")), ("other-host",)),
    "redirect nowhere": (_then(_answer(b"", "302 Found")), ("http-302",)),
    "401": (_then(_answer(b"no", "401 No", "WWW-Authenticate: Basic")), ("http-401",)),
    "403": (_then(_answer(b"no", "403 No")), ("http-403",)),
    "404": (_then(_answer(b"no", "404 No")), ("http-404",)),
    "410": (_then(_answer(b"no", "410 No")), ("http-410",)),
    "500": (_then(_answer(b"no", "500 No")), ("http-500",)),
    "slow error page": (_trickle(_head("500 No", "Content-Length: 5000"), b"no" * 1000), ("http-500",)),
    "endless error page": (_endless(_head("503 No"), b"no " * 1000), ("http-503",)),
    "huge error page": (
        _endless(_head("500 No", "Content-Length: 1" + "0" * 17), bytes(65536)),
        ("http-500",),
    ),
    "slow rest of an error page": (
        _trickle(_head("500 No", "Content-Length: 9000") + b"n" * 2500, b"no" * 1000),
        ("http-500",),
    ),
    "TLS on a plain port": (_then(b"\x15\x03\x01\x00\x02\x02\x46"), ("no-answer",)),
    "HTTP/0.9": (_then(b"<html>hello</html>"), ("no-answer",)),
    "HTTP/2": (_then(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100)), ("no-answer",)),
    "HTTP/9": (_then(b"HTTP/9.9 200 OK\r\n\r\n"), ("no-answer",)),
    "status of words": (_then(b"HTTP/1.1 many OK\r\n\r\n"), ("no-answer",)),
    "garbage": (_then(GARBAGE), ("no-answer",)),
    "drip": (_endless(_head("200 OK", "Content-Length: 500000"), b"x" * 5, 0.05), ("too-slow",)),
    "drip without an end": (_endless(_head(), b"x" * 200, 0.01), ("too-slow",)),
    "a quick start, then a drip": (
        _trickle(_head("200 OK", "Content-Length: 900000") + bytes(200_000), b"x" * 10_000, 0.05),
        ("too-slow",),
    ),
    **{
        f"Retry-After {value}": (_then(_answer(b"no", "503 No", f"Retry-After: {value}", *more)), reasons)
        for value, reasons, *more in (
            ("-5", ("http-503",)),
            ("soon", ("http-503",)),
            ("1e9", ("http-503",)),
            (
                "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
                ("http-503",),
                "Date: Mon, 01 Jan 2001 00:00:00 GMT",
            ),
            ("Mon, 01 Jan 3000 00:00:00 GMT", ("http-503",)),
        )
    },
}
"""Behaviours by name, and the reasons of the tries that fail by them: two where time or size may be first."""

WHOLE: Behaviour = _then(_answer(bytes(range(256)) * 4000))
"""A file of a megabyte as it should be."""

STOPS: dict[str, Behaviour] = {
    "429 for 1e9 s": _then(_answer(b"no", "429 No", "Retry-After: 1000000000")),
    "503 until the year 3000": _then(
        _answer(
            b"no",
            "503 No",
            "Retry-After: Mon, 01 Jan 3000 00:00:00 GMT",
            "Date: Mon, 01 Jan 2001 00:00:00 GMT",
        )
    ),
    "503 for 5000 digits": _then(_answer(b"no", "503 No", "Retry-After: " + "9" * 5000)),
}
"""Behaviours that end a run, since the server wants us gone."""

QUERIES: dict[str, tuple[Behaviour, str]] = {
    "endless rows": (_endless(_head() + _ROWS, b"7,.\n" * 10_000), "over .* lines"),
    "endless row": (_endless(_head() + b"n,row_end\n", b"7" * 65536), "bytes in one line"),
    "slow rows": (_endless(_head() + _ROWS, b"7,.\n", 0.05), "bytes a second"),
    "slow headers": (_trickle(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1000), "no answer came within"),
    "silent": (_silent, "no answer came within"),
    "endless 100": (_endless(b"", _head("100 Continue")), "gives no answer"),
    "cut rows": (_then(_answer(_ROWS + b"7,.\n8")), "breaks off within a row"),
    "no mark": (_then(_answer(b"n\n7\n")), "no whole table came"),
    "nothing": (_then(_answer(b"")), "no whole table came"),
    "words for a count": (_then(_answer(b"n,row_end\nmany,.\n")), "'many' where a whole number belongs"),
    "huge count": (_then(_answer(b"n,row_end\n1" + b"0" * 30 + b",.\n")), "where a whole number belongs"),
    "columns too many": (_then(_answer(b"a,n,row_end\n1,7,.\n")), "has 2 columns, 1 were asked for"),
    "depth bomb": (_then(_answer(b"[" * 1_000_000)), "no whole table came"),
    "huge field": (_then(_answer(b"n,row_end\n" + b"7" * 200_000 + b",.\n")), "field larger than"),
    "bomb": (_then(_answer(_BOMB, "200 OK", "Content-Encoding: gzip")), "comes coded as 'gzip'"),
    "two bytes of a longer answer": (_then(_head("200 OK", "Content-Length: 9000") + _ROWS), "broke off"),
    "endless error page": (_endless(_head("500 No"), b"no " * 1000), "answers 500"),
    "slow error page": (_trickle(_head("500 No", "Content-Length: 900"), b"no" * 450), "answers 500"),
    "away for 1e9 s": (_then(_answer(b"", "429 No", "Retry-After: 1000000000")), "answers 429"),
    "redirect loop": (_then(_answer(b"", "302 Found", "Location: /a")), "redirects"),
    "JSON": (_then(_answer(json.dumps([{"n": 7}]).encode())), "no whole table came"),
}
"""Behaviours towards a query that counts, and what the user is told."""


class Hostile:
    """Listen for each behaviour on a port of its own while the ``with`` block runs."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: list[asyncio.Server] = []
        self._talks: set[asyncio.Task[None]] = set()
        self._held: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for held in self._held:
            held.close()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    def serve(self, behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> str:
        """Return the address of a server that behaves so, by TLS where a context for that is given."""
        numbers = itertools.count()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            talk = asyncio.current_task()
            assert talk is not None
            self._talks.add(talk)
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"Content-Length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                async for piece in behaviour(head, next(numbers)):
                    writer.write(piece)
                    await writer.drain()
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
                pass
            except ConnectionResetError:
                writer.transport.abort()
            except OSError:
                pass
            finally:
                self._talks.discard(talk)
                with suppress(RuntimeError):
                    writer.close()

        async def listen() -> int:
            server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
            self._servers.append(server)
            port: int = server.sockets[0].getsockname()[1]
            return port

        scheme = "http" if tls is None else "https"
        return f"{scheme}://127.0.0.1:{asyncio.run_coroutine_threadsafe(listen(), self._loop).result()}"

    def deaf(self) -> str:
        """Return the address of a port that has its queue full and accepts nobody."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self._held.append(listener)
        place = listener.getsockname()
        for _ in range(4):
            caller = socket.socket()
            caller.setblocking(False)
            with suppress(BlockingIOError):
                caller.connect(place)
            self._held.append(caller)
        return f"http://127.0.0.1:{place[1]}"


@dataclass
class Outcome:
    """What one behaviour led to."""

    spent: float
    told: str = ""
    tally: Tally | None = None
    remarks: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def meet_all(root: Path, bounds: Bounds, tries: int) -> dict[str, Outcome]:
    """Meet all behaviours at the same time, each in a folder of its own."""
    with Hostile() as hostile, ThreadPoolExecutor(40) as pool:
        addresses = {f"file: {name}": hostile.serve(behaviour) for name, (behaviour, _) in FILES.items()}
        addresses |= {f"stop: {name}": hostile.serve(behaviour) for name, behaviour in STOPS.items()}
        addresses |= {f"query: {name}": hostile.serve(behaviour) for name, (behaviour, _) in QUERIES.items()}
        addresses |= {"file: deaf": hostile.deaf(), "job: never ends": hostile.serve(_job)}
        addresses["file: garbage for TLS"] = addresses["file: garbage"].replace("http:", "https:")
        addresses["file: silence for TLS"] = addresses["file: silent"].replace("http:", "https:")
        jobs = {
            name: pool.submit(_meet, root / str(number), name.partition(":")[0], address, bounds, tries)
            for number, (name, address) in enumerate(addresses.items())
        }
        return {name: job.result() for name, job in jobs.items()}


def _meet(folder: Path, kind: str, address: str, bounds: Bounds, tries: int) -> Outcome:
    began = time.monotonic()
    outcome = Outcome(0.0)
    with Client([address], connections=1, tries=tries, bounds=bounds) as client:
        try:
            if kind == "query":
                SkyServer(client, Archives(base=address)).count(Selection(("a",), "b"))
            elif kind == "job":
                Gaia(client, Archives(base=address)).ask("SELECT 1")
            else:
                with Ledger.open(folder) as ledger:
                    ledger.add([Wanted("a.dat", f"{address}/a", "table")])
                    try:
                        download(client, ledger)
                    finally:
                        outcome.tally = ledger.tally()
                        outcome.remarks = tuple(remark for _, _, remark in ledger.rejected())
        except SkyfuseError as error:
            outcome.told = str(error)
    outcome.spent = time.monotonic() - began
    if folder.exists():
        outcome.left = tuple(path.name for path in folder.iterdir() if not path.name.startswith(NAME))
    return outcome
