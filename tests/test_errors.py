"""Errors carry the fault, the place and the remedy, and survive the way between processes."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from unicodedata import category

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfuse.errors import DataError, FileError, SkyfuseError, StoreError, UsageError


@pytest.mark.parametrize("kind", [SkyfuseError, UsageError, DataError, StoreError])
def test_message_names_place_fault_and_remedy(kind):
    error = kind("has no rows", path="a/b.csv", remedy="give a table with rows")
    assert str(error) == "a/b.csv: has no rows; give a table with rows"


def test_message_without_a_path():
    assert str(DataError("nothing matches", remedy="widen the radius")) == "nothing matches; widen the radius"


def test_exit_codes_tell_a_wrong_call_from_failed_work():
    assert UsageError("x", remedy="y").exit_code == 2
    assert {kind("x", remedy="y").exit_code for kind in (SkyfuseError, DataError, StoreError)} == {1}


def _raise(_):
    raise FileError("ends early", reason="truncated", path="spec.fits", remedy="fetch it again")


def test_an_error_keeps_its_parts_between_processes():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool, pytest.raises(FileError) as caught:
        pool.submit(_raise, None).result()
    assert caught.value.reason == "truncated"
    assert str(caught.value) == "spec.fits: ends early; fetch it again"


LETTERS = st.text(st.characters(codec=None, exclude_categories=()), max_size=8)


@given(path=LETTERS, fault=LETTERS, remedy=LETTERS)
@settings(derandomize=True, max_examples=300, deadline=None)
def test_every_message_is_one_line_that_can_be_written(path, fault, remedy):
    message = str(SkyfuseError(f"a{fault}b", remedy=f"c{remedy}d", path=f"e{path}f"))
    message.encode("utf-8")
    assert len(message.splitlines()) == 1
    assert not any(category(letter) in ("Cc", "Cs") for letter in message)


def test_breaks_are_blanks_in_a_message_and_codes_in_a_path():
    error = SkyfuseError("line 3,\n  column 4:\r\nbad\x1b[2J", remedy="mend it\n", path="a\nb\t\udcff.csv")
    assert str(error) == r"a\nb\t\udcff.csv: line 3, column 4: bad\x1b[2J; mend it"
    assert str(SkyfuseError("5\N{NO-BREAK SPACE}Å is é", remedy="x")) == "5\N{NO-BREAK SPACE}Å is é; x"
