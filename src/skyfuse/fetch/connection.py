"""Connections whose waits end: each has a deadline and a number of bytes for what it is doing.

A time limit of a socket holds for one read. A server that sends a byte now and then, or interim answers for
ever, keeps all of them; so here each read is given what is left of the time, and what comes is counted.
"""

from __future__ import annotations

import http.client
import math
import socket
import ssl
import time
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from skyfuse.fetch.bounds import HEAD, LEAST_RATE


class _TooMuchError(OSError):
    """More bytes came than may be."""


class Limit:
    """What one connection may still take: time and bytes, each from the last `allow` on."""

    def __init__(self) -> None:
        self._end, self._left = math.inf, 0

    def allow(self, seconds: float, size: int) -> None:
        """Let so much time pass and so many bytes come from now on."""
        self._end, self._left = time.monotonic() + seconds, size

    def rest(self) -> float:
        """Return the seconds that are left; TimeoutError where none are."""
        rest = self._end - time.monotonic()
        if rest <= 0:
            raise TimeoutError("timed out")
        return rest

    def count(self, size: int) -> None:
        """Take so many bytes off; OSError where there are more than may come."""
        self._left -= size
        if self._left < 0:
            raise _TooMuchError("too many bytes came that are no content")


class _Bounded(socket.socket):
    """A socket under a limit."""

    limit = Limit()

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        self.settimeout(self.limit.rest())
        size = super().recv_into(buffer, nbytes or len(buffer), flags)
        self.limit.count(size)
        return size

    def recv(self, bufsize: int = 1024, flags: int = 0) -> bytes:
        self.settimeout(self.limit.rest())
        data = super().recv(bufsize, flags)
        self.limit.count(len(data))
        return data

    def send(self, data: Any, flags: int = 0) -> int:
        self.settimeout(self.limit.rest())
        return super().send(data, flags)

    def sendall(self, data: Any, flags: int = 0) -> None:
        self.settimeout(self.limit.rest())
        super().sendall(data, flags)


class _BoundedTLS(_Bounded, ssl.SSLSocket):
    """A socket with TLS under a limit."""


class _Answer(http.client.HTTPResponse):
    """An answer that passes over interim ones (RFC 9110, section 15.2); `http.client` knows 100 alone."""

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]  # typeshed leaves it out
            if not 101 < status < 200:
                return version, status, reason
            http.client.parse_headers(self.fp)


class _Limited(HTTPConnection):
    """A connection with a limit for what it is doing."""

    response_class = _Answer

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.limit = Limit()
        super().__init__(*arguments, **options)

    def _new_conn(self) -> socket.socket:
        plain = super()._new_conn()
        bounded = _Bounded(plain.family, plain.type, plain.proto, plain.detach())
        bounded.settimeout(_seconds(self.timeout))
        bounded.limit = self.limit
        # For greeting a proxy.
        self.limit.allow(_seconds(self.timeout), HEAD)
        return bounded

    def connect(self) -> None:
        super().connect()
        # TLS within the TLS of a proxy is no socket, but holds one.
        held = getattr(self.sock, "socket", self.sock)
        if isinstance(held, _Bounded):
            held.limit = self.limit

    def request(self, method: str, url: str, body: Any = None, *arguments: Any, **options: Any) -> None:
        if self.sock is None:
            self.connect()
        self.limit.allow(_seconds(self.timeout) + len(body or b"") / LEAST_RATE, HEAD)
        super().request(method, url, body, *arguments, **options)

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as in urllib3
        self.limit.allow(_seconds(self.timeout), HEAD)
        return super().getresponse()


class _LimitedTLS(_Limited, HTTPSConnection):
    """A connection by TLS with a limit for what it is doing."""


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Limited


class _PoolTLS(urllib3.HTTPSConnectionPool):
    ConnectionCls = _LimitedTLS


def _seconds(timeout: Any) -> float:
    return float(timeout) if isinstance(timeout, (int, float)) else math.inf


def manager(scheme: str, connections: int, proxy: str) -> urllib3.PoolManager:
    """Return a manager of limited connections.

    Parameters
    ----------
    scheme : str
        ``http`` or ``https``.
    connections : int
        To keep open to a host.
    proxy : str
        Address of the proxy; empty for none.
    """
    options: dict[str, Any] = {"maxsize": connections}
    if "https" in (scheme, proxy.partition(":")[0]):
        # Once for all connections: reading the certificates takes longer than a request.
        context = urllib3.util.ssl_.create_urllib3_context()
        context.load_default_certs()
        context.sslsocket_class = _BoundedTLS
        options["ssl_context"] = context
    if proxy:
        login = urllib3.make_headers(proxy_basic_auth=urllib3.util.parse_url(proxy).auth)
        made: urllib3.PoolManager = urllib3.ProxyManager(proxy, proxy_headers=login, **options)
    else:
        made = urllib3.PoolManager(**options)
    made.pool_classes_by_scheme = {"http": _Pool, "https": _PoolTLS}
    return made


def limit_of(response: urllib3.BaseHTTPResponse) -> Limit:
    """Return the limit of the connection that an answer comes by; until it is released."""
    connection = response.connection
    if not isinstance(connection, _Limited):
        raise TypeError("no connection of a manager from here")
    return connection.limit
