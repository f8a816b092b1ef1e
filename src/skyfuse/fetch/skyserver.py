"""SkyServer: SQL on the catalogues of SDSS.

What the service does to a query is written in its own procedure ``spExecuteSQL`` (SDSS, ``sqlLoader``,
``spWebSupport``): it takes one SELECT without semicolons, puts ``TOP <cap>`` into one that has no TOP, so
that an answer is cut without a word, and refuses a TOP above its cap with ``error: limit is top <cap>``.
Errors come with status 200 as a table of one column, ``error_message``; one of them says ``Maximum 60
queries allowed per minute``. CSV begins with a line ``#Table1`` from DR10 on; missing values are ``null``.
"""

from __future__ import annotations

import re
from collections import deque
from urllib.parse import urlencode

from skyfuse.errors import DataError
from skyfuse.fetch.archives import QUERIES_A_MINUTE, Archives
from skyfuse.fetch.client import Client
from skyfuse.fetch.sql import CLOCK, PAGE, Answer, Clock, Service, read

# A longer address is refused by many web servers; SkyServer's REST services take GET and POST alike.
_LONGEST_ADDRESS = 1800
_MINUTE = 60.0
_TRIES = 3
_TOO_MANY = re.compile(r"queries allowed per minute", re.IGNORECASE)
_NONE_FOUND = "no objects have been found"
_MESSAGES = (_NONE_FOUND, "error_message", "error:")


class SkyServer(Service):
    """SkyServer's SQL, asked no faster than it allows.

    Parameters
    ----------
    client : Client
    archives : Archives
    clock : Clock
    """

    def __init__(self, client: Client, archives: Archives, clock: Clock = CLOCK) -> None:
        super().__init__(client, archives, clock)
        self._asked: deque[float] = deque(maxlen=QUERIES_A_MINUTE)
        self.page = min(PAGE, archives.release.rows)

    def ask(self, query: str) -> Answer:
        """Ask one query.

        Raises
        ------
        DataError
            The service refuses it, or answers with something that is no table.
        """
        fields = {"cmd": query, **self._archives.release.parameters}
        message = None
        for _ in range(_TRIES):
            self._pace()
            if len(self._archives.sql) + len(urlencode(fields)) < _LONGEST_ADDRESS:
                answer = self._client.get(self._archives.sql, params=fields, accept=_accept)
            else:
                answer = self._client.post(self._archives.sql, data=fields, accept=_accept)
            content = answer.content.decode("utf-8", errors="replace")
            message = _message(content)
            if message is None:
                return read(content)
            if message.lower().startswith(_NONE_FOUND):
                return Answer([], iter(()))
            if not _TOO_MANY.search(message):
                break
            self._clock.sleep(_MINUTE)
        raise DataError(f"SkyServer refuses the query ({message})", remedy="change the query, or wait")

    def _pace(self) -> None:
        """Wait until one query more is within the service's limit."""
        if len(self._asked) == self._asked.maxlen:
            self._clock.sleep(max(0.0, self._asked[0] + _MINUTE - self._clock.now()))
        self._asked.append(self._clock.now())


def _message(content: str) -> str | None:
    """Return what the service says instead of a table, or None where it says nothing."""
    table = content.lstrip()
    if table.startswith("#"):
        table = table.partition("\n")[2]
    words = " ".join(table[:2000].split())[:200]
    return words if words.lower().startswith(_MESSAGES) else None


def _accept(content: bytes) -> None:
    """Refuse what is neither a whole table nor a message of the service."""
    told = content.decode("utf-8", errors="replace")
    if _message(told) is None:
        read(told)
