"""Tables as the command line writes them."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from pandas.testing import assert_frame_equal
from typer.testing import CliRunner

from skyfuse.survey.tables import read_table
from skyfuse.terminal import grouped, progress_bars, say, write_table

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


def test_json_is_strict_and_keeps_whole_numbers(capsys):
    say("", True, {
        "path": Path("a/b"),
        "holes": [float("nan"), float("-inf"), pd.NA, pd.NaT, None],
        "id": np.int64(2**62 + 1),
        "row": [{"x": np.float32(0.5), "ok": np.bool_(True), "list": np.arange(2)}],
    })  # fmt: skip

    def refuse(name):
        raise AssertionError(name)

    assert json.loads(capsys.readouterr().out, parse_constant=refuse) == {
        "path": "a/b",
        "holes": [None] * 5,
        "id": 2**62 + 1,
        "row": [{"x": 0.5, "ok": True, "list": [0, 1]}],
    }


def test_progress_without_a_terminal_is_a_line_when_work_begins_and_at_each_tenth(capsys):
    with progress_bars() as progress:
        progress(0, 200, "files")
        assert capsys.readouterr().err.split() == ["0", "s", "0/200", "files"]
        for done in range(1, 201):
            progress(done, 200, "files")
        progress(1, 3, "tiles")
    shown = [line.split()[2] for line in capsys.readouterr().err.splitlines()]
    assert shown == [*(f"{k}/200" for k in range(20, 201, 20)), "1/3"]


def test_progress_between_two_tenths_is_told_after_a_while(capsys, monkeypatch):
    monkeypatch.setattr("skyfuse.terminal._QUIET", 0.05)
    with progress_bars() as progress:
        progress(0, 200, "files")
        progress(1, 200, "the long one")
        for _ in range(100):
            time.sleep(0.05)
            if "the long one" in (said := capsys.readouterr().err):
                break
        assert said.count("the long one") == 1


@dataclass(frozen=True)
class Size:
    wide: Annotated[int, typer.Option("--wide", help="Columns.")] = 1
    high: Annotated[int, typer.Option(help="Rows.", min=1)] = 2


def test_a_group_of_options_is_as_if_each_stood_in_the_command():
    app, seen = typer.Typer(), []

    @app.command()
    @grouped
    def draw(name: Annotated[str, typer.Argument()], size: Size, bold: bool = False) -> None:
        """Draw it."""
        seen.append((name, size, bold))

    run = CliRunner().invoke
    assert run(app, ["a"]).exit_code == 0
    assert run(app, ["--high", "5", "b", "--wide", "3", "--bold"]).exit_code == 0
    assert seen == [("a", Size(1, 2), False), ("b", Size(3, 5), True)]
    assert run(app, ["a", "--high", "0"]).exit_code == 2
    shown = run(app, ["--help"]).output
    assert all(word in shown for word in ("Draw it.", "--wide", "Columns.", "--high", "Rows.", "--bold"))
    assert "--size" not in shown
