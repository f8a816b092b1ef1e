"""Tables as the command line writes them."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal

from skyfuse.survey.tables import read_table
from skyfuse.terminal import write_table

TABLE = pd.DataFrame(
    {
        "id": pd.array([2**62 + 1, None, 2**62 + 3], "Int64"),
        "long": pd.array([None, 2**63 + 1, 2**64 - 1], "UInt64"),
        "ok": pd.array([True, None, False], "boolean"),
        "class": ["STAR", None, "GALAXY"],
        "z": [0.1, None, 1e-300],
    }
)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_whole_numbers_and_holes_come_back(tmp_path, name):
    write_table(TABLE, tmp_path / name)
    assert_frame_equal(read_table(tmp_path / name), TABLE)


def test_holes_are_empty_cells_and_nulls(tmp_path):
    write_table(TABLE, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines()[1:3] == [
        "4611686018427387905,,True,STAR,0.1",
        ",9223372036854775809,,,",
    ]
    write_table(TABLE, tmp_path / "t.parquet")
    schema = pq.read_schema(tmp_path / "t.parquet")
    assert schema.types[:3] == [pa.int64(), pa.uint64(), pa.bool_()]
    assert pq.read_table(tmp_path / "t.parquet")["id"].to_pylist() == [2**62 + 1, None, 2**62 + 3]
