"""Counts of values that the footer of a Parquet file tells, read without pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_TAIL = 8
# Numbers of the fields in Parquet's own definition (parquet.thrift).
_ROW_GROUPS, _COLUMNS, _META_DATA, _NUM_VALUES = 4, 1, 3, 5


def values_told(path: Path) -> list[list[int]]:
    """Return how many values each column has in each row group, those of lists one by one.

    pyarrow tells them too, but ends the process where a damaged note on a column contradicts itself.

    Parameters
    ----------
    path : Path
        A Parquet file.

    Returns
    -------
    list of list of int
        By row group, then by leaf column.

    Raises
    ------
    ValueError
        If the footer is damaged.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - _TAIL, 0))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(size - _TAIL - length, 0))
        content = file.read(length)
    try:
        groups = _Compact(content).struct()[_ROW_GROUPS]
        return [[column[_META_DATA][_NUM_VALUES] for column in group[_COLUMNS]] for group in groups]
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError("its footer is damaged") from error


class _Compact:
    """Reader of Thrift's compact protocol: structs become dicts by field number."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def struct(self) -> dict[int, Any]:
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            # The value of a truth value is its type.
            found[number] = head & 15 == 1 if head & 15 in (1, 2) else self._value(head & 15)
        return found

    def _byte(self) -> int:
        self.at += 1
        return self.content[self.at - 1]

    def _varint(self) -> int:
        found = shift = 0
        while (byte := self._byte()) & 128:
            found |= (byte & 127) << shift
            shift += 7
        return found | byte << shift

    def _signed(self) -> int:
        found = self._varint()
        return found >> 1 ^ -(found & 1)

    def _skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.content):
            raise LookupError(self.at)

    def _value(self, kind: int) -> Any:
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 7:
            return self._skip(8)
        if kind == 8:
            return self._skip(self._varint())
        if kind in (9, 10):
            head = self._byte()
            count = self._varint() if head >> 4 == 15 else head >> 4
            return [self._value(head & 15) for _ in range(count)]
        if kind == 12:
            return self.struct()
        # Parquet's footer has neither maps nor anything else.
        raise LookupError(kind)
