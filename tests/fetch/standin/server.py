"""An HTTP/1.1 server in a thread, with latency, and with faults at stated rates.

Keep-alive, HEAD, ETag, Range and If-Range as RFC 9110 has them. What is served comes from one handler; how it
goes wrong is decided here, by chance, so that the client under test meets faults as it would on the way to
any archive.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np

FAULTS = {
    "slow": "the body trickles",
    "500": "500 Internal Server Error",
    "503": "503 with Retry-After as an HTTP date",
    "429": "429 with Retry-After in seconds",
    "dropped": "the connection closes before a reply",
    "cut": "the connection closes within the body",
    "short": "the first half of the body, with that half's length as Content-Length",
    "long": "Content-Length says more than is sent",
    "html": "an error page with status 200",
    "other": "the file of another path, with status 200",
}
"""What can go wrong, by name."""

COUNTS = "/-/counts"
"""Path that answers what was served so far, for a server that runs in a process of its own."""

_PAGE = b"<!DOCTYPE html>\n<html><head><title>Error</title></head><body>Something went wrong.</body></html>\n"
_TRICKLES = 10
_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Request:
    """What the client asked; `path` is percent-decoded and without the query, header names are lower-case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def form(self) -> dict[str, str]:
        """Return the fields of a url-encoded body."""
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler answers. Length, ETag and ranges are the server's work."""

    body: bytes | Path = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    type: str = "application/octet-stream"


@dataclass(slots=True)
class Count:
    """What happened on one path: requests, true bodies read whole by a client, bytes sent, faults by name."""

    requests: int = 0
    whole: int = 0
    bytes: int = 0
    faults: dict[str, int] = field(default_factory=dict)


Handler = Callable[[Request], Reply | None]


class Standin:
    """Serve in a thread while the ``with`` block runs.

    Parameters
    ----------
    handler : callable
        From a `Request` to a `Reply`, or None for 404. It runs on the server's thread.
    latency : float
        Seconds before each reply.
    handshake : float
        Seconds more before the first reply on each connection, as a round trip to open it takes.
    faults : float or mapping of str to float
        Probability of each fault of `FAULTS` at each request for a body (a GET or POST that the handler
        answers with 200); a number is the probability of every one.
    retry_after : int
        Seconds that 429 and 503 ask to wait.
    ranges : bool
        Whether Range is understood; a server that does not sends the whole.
    seed : int
        Of the faults.
    port : int
        0 takes a free one.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        latency: float = 0.0,
        handshake: float = 0.0,
        faults: float | Mapping[str, float] = 0.0,
        retry_after: int = 1,
        ranges: bool = True,
        seed: int = 1,
        port: int = 0,
    ) -> None:
        self.handler = handler
        self.latency = latency
        self.handshake = handshake
        self.faults = dict(faults) if isinstance(faults, Mapping) else dict.fromkeys(FAULTS, faults)
        self.retry_after = retry_after
        self.ranges = ranges
        self.connections = 0
        self.most_at_once = 0
        self._open = 0
        self._chance = np.random.default_rng(seed)
        self._counts: dict[str, Count] = {}
        self._last: dict[str, bytes] = {}
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        """Base URL, without a slash at its end."""
        return f"http://127.0.0.1:{self._port}"

    def counts(self) -> dict[str, Count]:
        """Return what happened so far, by path."""
        return dict(self._counts)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._talks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, backlog=512)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self._talks.add(talk)
        self.connections += 1
        self._open += 1
        self.most_at_once = max(self.most_at_once, self._open)
        # What was sent has been read once the client asks for more or closes in peace; the system of a client
        # that dies with bytes unread resets the connection.
        whole: Count | None = None
        try:
            await asyncio.sleep(self.handshake)
            stays = True
            while stays:
                request = await _read(reader)
                if whole:
                    whole.whole += 1
                whole = None
                whole, stays = await self._answer(request, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # The client has gone, or the server stops.
        except ConnectionError:
            whole = None
        finally:
            if whole:
                whole.whole += 1
            self._open -= 1
            self._talks.discard(talk)
            writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> tuple[Count | None, bool]:
        """Answer one request; return whose count a whole true body goes to, and if the connection stays."""
        await asyncio.sleep(self.latency)
        if request.path == COUNTS:
            told = {path: asdict(count) for path, count in self._counts.items()}
            _head(writer, 200, {"Content-Length": str(len(body := json.dumps(told).encode()))})
            writer.write(body)
            await writer.drain()
            return None, True
        count = self._counts.setdefault(request.path, Count())
        count.requests += 1
        reply = self.handler(request) or Reply(_PAGE, 404, type="text/html")
        truth = reply.body.read_bytes() if isinstance(reply.body, Path) else reply.body
        fault = self._draw() if reply.status == 200 else ""
        if fault == "other":
            others = [path for path in self._last if path != request.path]
            fault = fault if others else ""
        if fault:
            count.faults[fault] = count.faults.get(fault, 0) + 1
        if fault == "dropped":
            return None, False
        body, status, kind = truth, reply.status, reply.type
        headers = dict(reply.headers)
        if fault == "500":
            body, status, kind = _PAGE, 500, "text/html"
        elif fault in ("429", "503"):
            body, status, kind = b"", int(fault), "text/plain"
            # A date has whole seconds: rounded up, so that the wait is never shorter than asked.
            date = formatdate(int(time.time()) + 1 + self.retry_after, usegmt=True)
            headers["Retry-After"] = date if fault == "503" else str(self.retry_after)
        elif fault == "html":
            body, kind = _PAGE, "text/html"
        elif fault == "other":
            body = self._last[others[-1]]
        elif fault == "short":
            body = truth[: len(truth) // 2]
        first = 0
        if status == 200 and request.method == "GET" and not fault:
            self._remember(request.path, truth)
        if status == 200 and request.method == "GET" and fault in ("", "slow", "cut", "long"):
            headers["ETag"] = tag = f'"{len(truth):x}-{zlib.crc32(truth):08x}"'
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
            if self.ranges and asked and request.headers.get("if-range", tag) == tag:
                first, last = int(asked[1]), min(int(asked[2] or len(truth)), len(truth) - 1)
                if first >= len(truth):
                    body, status = b"", 416
                    headers["Content-Range"] = f"bytes */{len(truth)}"
                else:
                    body, status = truth[first : last + 1], 206
                    headers["Content-Range"] = f"bytes {first}-{last}/{len(truth)}"
        headers["Content-Type"] = kind
        headers["Content-Length"] = str(len(body) + (1000 if fault == "long" else 0))
        _head(writer, status, headers)
        if request.method == "HEAD":
            await writer.drain()
            return None, True
        if fault == "cut":
            body = body[: len(body) // 2]
        piece = max(1, len(body) // _TRICKLES) if fault == "slow" else _CHUNK
        for at in range(0, len(body), piece):
            writer.write(body[at : at + piece])
            await writer.drain()
            count.bytes += len(body[at : at + piece])
            if fault == "slow":
                await asyncio.sleep(0.1)
        stays = fault not in ("cut", "long") and request.headers.get("connection", "").lower() != "close"
        return count if status == 200 and body == truth else None, stays

    def _draw(self) -> str:
        """Draw what goes wrong with a reply, if anything."""
        at = self._chance.random()
        for name, probability in self.faults.items():
            at -= probability
            if at < 0:
                return name
        return ""

    def _remember(self, path: str, body: bytes) -> None:
        """Keep the last two bodies: what is sent in place of another's."""
        self._last.pop(path, None)
        self._last[path] = body
        if len(self._last) > 2:
            del self._last[next(iter(self._last))]


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    pairs = (line.split(":", 1) for line in head[1:] if line)
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Request(method, unquote(parts.path), query, headers, body)


@contextmanager
def served(**replies: Reply | list[Reply]) -> Iterator[Standin]:
    """Serve replies by the name in the path; of a list, one after the other."""

    def handler(request: Request) -> Reply | None:
        seen.append(request)
        reply = replies.get(request.path.strip("/"))
        return reply.pop(0) if isinstance(reply, list) else reply

    seen: list[Request] = []
    with Standin(handler) as server:
        server.seen = seen
        yield server


def _head(writer: asyncio.StreamWriter, status: int, headers: Mapping[str, str]) -> None:
    headers = {"Date": formatdate(usegmt=True), **headers}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a server that runs by itself."""
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each reply")
    parser.add_argument("--handshake", type=float, default=0.0, help="seconds more on a new connection")
    parser.add_argument("--faults", default="0", help="probability of every fault, or e.g. 500=0.05,html=0.1")
    parser.add_argument("--retry-after", type=int, default=1, help="seconds that 429 and 503 ask to wait")
    parser.add_argument("--seed", type=int, default=1)


def run(handler: Handler, arguments: argparse.Namespace) -> None:
    """Serve until standard input ends or Ctrl-C; the first line on standard output is the base URL."""
    pairs = [pair.split("=") for pair in arguments.faults.split(",")]
    faults = {pair[0]: float(pair[1]) for pair in pairs} if len(pairs[0]) == 2 else float(pairs[0][0])
    names = ("latency", "handshake", "retry_after", "seed", "port")
    with Standin(handler, faults=faults, **{name: getattr(arguments, name) for name in names}) as server:
        print(server.url, flush=True)  # noqa: T201 - what the caller reads
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
