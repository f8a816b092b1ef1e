"""Packages that bring the same name twice, or what cannot be imported, are told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

from skyfuse import entrypoints
from skyfuse.errors import UsageError
from skyfuse.survey import registry

GROUP = "skyfuse.readers"


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    registry._installed.cache_clear()


def bring(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    found = [EntryPoint(name, value, GROUP) for name, value in points]
    monkeypatch.setattr(entrypoints, "entry_points", lambda group: found)
    registry._installed.cache_clear()


def test_installed_readers_come_before_the_built_in_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    bring(monkeypatch, ("tiny", "skyfuse.testing:TinyReader"), ("tiny", "skyfuse.testing:TinyReader"))
    assert registry.readers()[0].name == "tiny"
    assert registry.reader_named("tiny").instruments[0].name == "tiny"


@pytest.mark.parametrize(
    ("points", "match"),
    [
        ([("a", "one:Reader"), ("a", "two:Reader")], "the installed one:Reader and two:Reader are both"),
        ([("a", "no.such.place:Reader")], r"no\.such\.place:Reader cannot be imported \(ModuleNotFound"),
        ([("a", "pathlib:no_such_thing")], r"cannot be imported \(AttributeError"),
        ([("a", "math:pi")], r"3\.14\d+ is no reader"),
        ([(name, "skyfuse.testing:TinyReader") for name in "ab"], "is a reader 'tiny', as another"),
    ],
)
def test_packages_that_are_wrong(
    monkeypatch: pytest.MonkeyPatch, points: list[tuple[str, str]], match: str
) -> None:
    bring(monkeypatch, *points)
    with pytest.raises(UsageError, match=match):
        registry.readers()
