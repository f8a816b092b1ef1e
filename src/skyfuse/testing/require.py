"""The one statement of all checks."""

from __future__ import annotations


def require(holds: object, asked: str) -> None:
    """Raise AssertionError with what is asked for, unless it holds; also where Python runs with ``-O``."""
    if not holds:
        raise AssertionError(asked)
