"""Which models there are: built in, registered, installed; and what is refused."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import skyfuse as sf
from skyfuse import entrypoints
from skyfuse.errors import StoreError, UsageError
from skyfuse.models import MODELS, Examples, load_model, registry
from skyfuse.models.base import Model
from skyfuse.models.registry import BUILT_IN, register_model


class Median(Model):
    """Predicts the median of the training labels."""

    name = "median"
    title = "The median"
    kinds = frozenset({"regression"})
    weights = ("median.txt",)

    def _fit(self, lesson: Any) -> Any:
        self.middle = float(np.median(lesson.y))
        return lesson.history(self._predict(lesson.train), self._predict(lesson.valid))

    def _predict(self, x: Any) -> Any:
        return np.full(len(next(iter(x.values()))), self.middle)

    def _write(self, folder: Path) -> dict[str, Any]:
        (folder / "median.txt").write_text(repr(self.middle))
        return {}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        self.middle = float((folder / "median.txt").read_text())


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget afterwards what a test registered."""
    monkeypatch.setattr(registry, "_registered", {})


def installed(monkeypatch: pytest.MonkeyPatch, **places: str) -> None:
    """Let packages name models as entry points."""
    points = [EntryPoint(name, value, registry.ENTRY_POINT) for name, value in places.items()]
    monkeypatch.setattr(entrypoints, "entry_points", lambda group: points)
    for kept in (registry._installed, registry._load):
        kept.cache_clear()


@pytest.fixture(autouse=True)
def forget() -> Any:
    yield
    for kept in (registry._installed, registry._load):
        kept.cache_clear()


def test_every_built_in_model_says_its_name_and_title() -> None:
    assert [model.name for model in MODELS.values()] == list(BUILT_IN) == list(MODELS)
    titles = [model.title for model in MODELS.values()]
    assert all(titles)
    assert len(set(titles)) == len(titles)


def test_a_registered_model_is_known_and_its_files_open(own: None, tmp_path: Path) -> None:
    assert sf.register(Median) is Median
    assert register_model(Median) is Median
    assert MODELS["median"] is Median
    assert list(MODELS)[-1] == "median"
    assert len(MODELS) == len(BUILT_IN) + 1
    model = Median()
    x = {"table": np.arange(8, dtype=np.float32)[:, None]}
    model.fit(Examples(x, np.arange(8.0)), Examples(x, np.arange(8.0)), seed=0)
    model.save(tmp_path / "m")
    np.testing.assert_array_equal(load_model(tmp_path / "m").predict(x).value, np.full(8, 3.5))


def test_a_model_file_brings_no_code(own: None, tmp_path: Path) -> None:
    register_model(Median)
    x = {"table": np.arange(8, dtype=np.float32)[:, None]}
    model = Median()
    model.fit(Examples(x, np.arange(8.0)), Examples(x, np.arange(8.0)), seed=0)
    model.save(tmp_path / "m")
    registry._registered.clear()
    with pytest.raises(StoreError, match=r"names the unknown model 'median'; install the package"):
        load_model(tmp_path / "m")


def test_an_installed_model_is_listed_unloaded_and_loaded_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, median=f"{__name__}:Median", broken="nowhere.to.be:found")
    assert "median" in MODELS
    assert "broken" in MODELS
    assert MODELS["median"] is Median
    with pytest.raises(UsageError, match=r"nowhere\.to\.be:found cannot be imported \(ModuleNotFoundError"):
        MODELS["broken"]


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("mean", f"{__name__}:Median", "'mean' leads to a model that calls itself 'median'"),
        ("tree", f"{__name__}:Median", "is called 'tree', as a model of Skyfuse's own"),
        ("path", "pathlib:Path", "is no model"),
    ],
)
def test_entry_points_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, match: str
) -> None:
    installed(monkeypatch, **{name: value})
    with pytest.raises(UsageError, match=match):
        MODELS["median" if name == "tree" else name]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"name": "tree"}, "there is a model 'tree' already"),
        ({"name": "My Model"}, r"has the name 'My Model'; give its attribute name letters"),
        ({"name": "a/../b"}, "has the name"),
        ({"name": None}, "has the name None"),
        ({"kinds": frozenset({"ranking"})}, "give its attribute kinds some of regression"),
        ({"kinds": frozenset()}, "has the kinds"),
    ],
)
def test_models_that_cannot_be_registered(own: None, change: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        sf.register(type("Changed", (Median,), change))
    assert list(MODELS) == list(BUILT_IN)


def test_what_is_neither_a_reader_nor_a_model(own: None) -> None:
    class Half(Model):
        name = "half"
        kinds = frozenset({"regression"})

    with pytest.raises(UsageError, match="Half lacks _fit, _predict"):
        sf.register(Half)
    for thing in (3, "tree", int, Median()):
        with pytest.raises(UsageError, match="neither a reader nor a class of models"):
            sf.register(thing)
