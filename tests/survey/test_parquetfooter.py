"""The footer of Parquet files: pyarrow's own numbers, and damage that pyarrow does not survive."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skyfuse.errors import SkyfuseError
from skyfuse.survey.parquetfooter import values_told
from skyfuse.survey.tables import read_table


@pytest.fixture
def nested(tmp_path):
    lists = [None if k % 5 == 4 else list(range(k % 4)) for k in range(50)]
    table = pa.table({"id": np.arange(50), "f": lists, "on": [k % 2 == 0 for k in range(50)]})
    table = table.append_column("deep", pa.array([[[k], []] for k in range(50)]))
    pq.write_table(table, tmp_path / "n.parquet", row_group_size=20)
    return tmp_path / "n.parquet"


def test_values_are_those_that_pyarrow_tells(nested):
    told = pq.read_metadata(nested)
    expected = [
        [told.row_group(i).column(k).num_values for k in range(told.num_columns)]
        for i in range(told.num_row_groups)
    ]
    assert len(expected) == 3
    assert len(expected[0]) == 4
    assert expected[0][1] > 20
    assert values_told(nested) == expected


def test_lists_on_whose_notes_pyarrow_aborts_are_refused(nested):
    content = nested.read_bytes()
    # That the list may be missing, in the schema; the notes on its levels count one more then.
    assert content.count(b"\x35\x02\x18\x01f") == 1
    nested.write_bytes(content.replace(b"\x35\x02\x18\x01f", b"\x35\x00\x18\x01f"))
    ask = "import pyarrow.parquet as pq, sys; pq.read_metadata(sys.argv[1]).row_group(0).column(1)"
    asked = subprocess.run([sys.executable, "-c", ask, nested], capture_output=True, check=False)
    assert asked.returncode == -6
    with pytest.raises(SkyfuseError, match=r"n\.parquet"):
        read_table(nested)


def test_a_damaged_footer_gives_numbers_or_one_error(nested):
    content = nested.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    refused = 0
    for k in range(start, len(content) - 8):
        nested.write_bytes(content[:k] + bytes([content[k] ^ 1 << k % 8]) + content[k + 1 :])
        try:
            values_told(nested)
        except ValueError:
            refused += 1
    assert refused > 100
