"""The checks pass what is right, each fault is found by them, and the tiny sky is what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyfuse.errors import FileError
from skyfuse.models import MODELS, registry
from skyfuse.models.classic import Linear
from skyfuse.models.registry import register_model
from skyfuse.survey.desi import CoaddReader
from skyfuse.survey.lamost import SpectrumReader as LamostReader
from skyfuse.survey.reader import Refused
from skyfuse.survey.sdss.frames import FrameReader
from skyfuse.survey.sdss.spectra import SpectrumReader
from skyfuse.testing import (
    TinyReader,
    check_instrument,
    check_model,
    check_reader,
    tiny_arrays,
    tiny_cube,
    tiny_dataset,
    tiny_sky,
)
from tests.cube.sky import make_frame, make_spectrum

DATA = Path(__file__).parents[2] / "shared" / "data"
real = pytest.mark.skipif(not DATA.is_dir(), reason="the real files are not here")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(tiny_sky(tmp_path_factory.mktemp("tiny")).iterdir())


def test_readers_of_our_own_pass(files: list[Path], tmp_path: Path) -> None:
    check_reader(TinyReader(), files)
    check_reader(FrameReader(), [make_frame(tmp_path, 0, band) for band in "gr"])
    check_reader(SpectrumReader(), [make_spectrum(tmp_path, fiber, 10.0, 5.0) for fiber in (1, 2)])


@real
def test_readers_of_our_own_pass_on_real_files() -> None:
    check_reader(LamostReader(), sorted((DATA / "lamost_dr1_spectra").rglob("*.fits*"))[:2])
    smallest = min((DATA / "desi").rglob("coadd*.fits*"), key=lambda path: path.stat().st_size)
    check_reader(CoaddReader(), [smallest])


@real
def test_a_shipped_instrument_passes_on_a_real_file() -> None:
    check_instrument("unwise", sorted((DATA / "imaging_other").rglob("unwise-3460p121-w1-img-m.fits*"))[:1])


class Changed(TinyReader):
    """A reader with one fault."""

    def __init__(self, fault: str) -> None:
        self.fault, self.count = fault, 0

    @property
    def name(self) -> str:  # type: ignore[override]
        return "tiny sky" if self.fault == "name" else "tiny"

    def recognises(self, file: Any) -> bool:
        if self.fault == "all":
            return True
        return super().recognises(file)

    def records(self, file: Any) -> Any:
        found = super().records(file)
        if self.fault == "none":
            return []
        if self.fault == "twice":
            return [*found, found[0]]
        if self.fault == "instrument":
            return [replace(one, instrument="other") for one in found]
        if self.fault == "key":
            return [*found, Refused(found[0].key, "bad-values", "it is bad")]
        if self.fault == "sky":
            return [replace(one, dec=95.0) for one in found]
        if self.fault == "partner":
            return [replace(one, partners=("nowhere.fits",)) for one in found]
        if self.fault == "changing":
            self.count += 1
            return found[self.count % 2 :] or [Refused("", "bad-values", "")]
        return found

    def read(self, path: Path, key: str, options: Any) -> Any:
        try:
            read = super().read(path, key, options)
        except FileError:
            if self.fault == "raises":
                raise ValueError("a bug") from None
            raise
        changes: dict[str, Any] = {
            "zero": {"sigma": read.sigma * 0},
            "double": {"sigma": read.sigma.astype(np.float64)},
            "hole": {"sigma": np.ones_like(read.sigma)},
            "hash": {"sha256": "no"},
            "random": {"sigma": read.sigma * np.float32(np.random.default_rng().uniform(1, 2))},
        }
        return replace(read, **changes.get(self.fault, {}))


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        ("name", "is of letters, digits and -"),
        ("all", "whose header says nothing is not recognised"),
        ("none", "holds records"),
        ("twice", "has a key of its own"),
        ("instrument", "one of the reader's instruments"),
        ("key", "has a key of its own"),
        ("sky", "lies on the sky"),
        ("partner", "partners of"),
        ("changing", "the same records whenever"),
        ("zero", "finite and above 0"),
        ("double", "is float32"),
        ("hole", "NaN in value and sigma together"),
        ("hash", "sha256"),
        ("random", "in whatever order"),
    ],
)
def test_each_fault_of_a_reader_is_found(files: list[Path], fault: str, match: str) -> None:
    with pytest.raises(AssertionError, match=match):
        check_reader(Changed(fault), files)


def test_a_reader_that_raises_its_own_errors_is_found(files: list[Path]) -> None:
    with pytest.raises((AssertionError, ValueError), match=r"FileError alone|a bug"):
        check_reader(Changed("raises"), files)


@pytest.mark.parametrize("name", ["linear", "tree", "logistic", "forest", "lightgbm"])
def test_models_of_our_own_pass(name: str) -> None:
    check_model(MODELS[name])


def test_models_of_images_and_spectra_pass() -> None:
    check_model(MODELS["pca"], ("spectrum",), latent=3)
    check_model(MODELS["image-ff"], ("image",), max_epochs=2)


class Forgetful(Linear):
    """Comes back from its files as another."""

    name = "forgetful"

    def _predict(self, x: Any) -> Any:
        return super()._predict(x) + (0.0 if hasattr(self, "kept") else 1.0)

    def _fit(self, lesson: Any) -> Any:
        self.kept = True
        return super()._fit(lesson)


class Moody(Linear):
    """Answers by the company that an object is in."""

    name = "moody"

    def _predict(self, x: Any) -> Any:
        return super()._predict(x) + len(next(iter(x.values())))


class Restless(Linear):
    """Answers differently each time."""

    name = "restless"

    def _predict(self, x: Any) -> Any:
        return super()._predict(x) + np.random.default_rng().normal()


class Holey(Linear):
    """Does not know what it does not know."""

    name = "holey"

    def _predict(self, x: Any) -> Any:
        return np.where(np.isnan(x["table"]).any(axis=1), np.nan, super()._predict(x))


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (Forgetful, "bring back the model as it was"),
        (Moody, "predicts one object as among others"),
        (Restless, "of one seed and data is one model"),
        (Holey, "predicts finite values"),
    ],
)
def test_each_fault_of_a_model_is_found(
    monkeypatch: pytest.MonkeyPatch, model: type[Linear], match: str
) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    with pytest.raises(AssertionError, match=f"{model.name} is registered or installed"):
        check_model(model)
    register_model(model)
    with pytest.raises(AssertionError, match=match):
        check_model(model)


def test_the_tiny_cube_and_dataset_are_what_they_say(tmp_path: Path) -> None:
    data = tiny_dataset(tmp_path, seed=3)
    cube = tiny_cube(tmp_path, seed=3)
    assert len(data) == len(cube.objects) == 144
    images, spectra = (cube.gather(kind, 0, range(144)) for kind in ("image", "spectrum"))
    assert images.value.shape == (144, 2, 16, 16)
    assert spectra.value.shape == (144, 501)
    assert 0 < np.isnan(images.value).mean() < 0.03
    # What is bright is far away: the label can be learned from either.
    z = cube.objects["z"].to_numpy()
    for light in (np.nanmean(images.value, axis=(1, 2, 3)), np.nanmean(spectra.value, axis=1)):
        assert np.corrcoef(light, z)[0, 1] > 0.9
    arrays, y = tiny_arrays(50, ("table",))
    assert arrays["table"].shape == (50, 4)
    assert np.corrcoef(np.nanmean(arrays["table"], axis=1), y)[0, 1] > 0.9
