"""Every bound of a transfer: how long anything is waited for, and how much may come.

Times are of the monotonic clock, so that a clock set back or forward changes none of them. The system's
look-up of a host's name has a time limit of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD = 1 << 18
"""Bytes that may come before the content: the status line and headers, interim answers (1xx) among them."""

LEAST_RATE = 1000.0
"""Bytes a second below which a connection is stuck, though it never falls silent."""

MOST = {"spectrum": 1 << 28, "frame": 1 << 28, "image": 1 << 26, "table": 1 << 33, "xp": 1 << 30}
"""Bytes by kind that no honest file has, compressed or not: many times the largest that there is."""

REDIRECTS = 5
"""Redirects that one request may bring."""

WORDS = 2000
"""Bytes of an error page that are read for what it says."""

ANSWER = 1 << 29
"""Bytes of an answer to a query."""

LINES = 1_000_000
"""Lines of an answer to a query, twenty times the rows that one is asked for."""

LINE = 1 << 20
"""Bytes of one line of an answer to a query."""

ROWS = 300_000_000
"""Rows that the pages of one query may give together: more than Gaia has spectra."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Times, in seconds.

    Attributes
    ----------
    connect : float
        To open a connection to one address; as long again for TLS, and for sending, with `LEAST_RATE` for
        what is sent.
    file, query : float
        From a request that is sent to the end of the answer's headers. Services let a query compute for
        minutes before the first byte.
    silence : float
        From one piece of the content to the next.
    window : float
        In each such span the content comes at `LEAST_RATE`.
    content : float
        From the headers to the end of the content of one answer. A file is gone on with where a try ended.
    words : float
        For what an error page says.
    first_wait, longest_wait : float
        After a failed try: the first wait doubles up to the longest, unless the server asks for more.
    patience : float
        That a server may ask us to wait, and that a query's waits may take in all; and how long nothing at
        all may come before a download ends.
    job : float
        Of a query that the service runs as a job, from its start to its end. Gaia's own limit is two hours.
    """

    connect: float = 30.0
    file: float = 60.0
    query: float = 600.0
    silence: float = 60.0
    window: float = 60.0
    content: float = 10_800.0
    words: float = 10.0
    first_wait: float = 0.5
    longest_wait: float = 30.0
    patience: float = 900.0
    job: float = 10_800.0


BOUNDS = Bounds()
"""Those of every transfer but a test's."""
