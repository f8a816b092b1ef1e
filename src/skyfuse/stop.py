"""Ctrl-C and SIGTERM: both end the work in the same way, with one line that says how to go on."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

_RESUMED = ("demo", "mock", "build", "study", "tune", "fetch")
"""Verbs that go on where they stopped; the others write one file, whole or not at all."""

_received: list[int] = []


def listen() -> None:
    """Raise KeyboardInterrupt at Ctrl-C and SIGTERM, and remember which it was."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A shell starts what shall outlive it with its signals ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, _frame: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt


def code() -> int | None:
    """Return the exit code of the signal that came, None if none did."""
    return 128 + _received[-1] if _received else None


def end(exit_code: int) -> NoReturn:
    """Say what is kept and how to go on, and end."""
    quiet()
    if len(sys.argv) > 1 and sys.argv[1] in _RESUMED:
        kept = "what is finished is kept, and the same command goes on where it stopped"
    else:
        kept = "nothing was written; give the same command again"
    sys.stderr.write(f"skyfuse: interrupted; {kept}\n")
    sys.exit(exit_code)


def quiet() -> None:
    """Let a signal end the process without a word: all is said."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_DFL)
