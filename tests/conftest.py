"""Fixtures for every test: the real survey files, where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A loaded machine is no fault: how long an example takes says nothing in tests.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

REAL_DATA = Path(os.environ.get("SKYFUSE_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real survey files; skip where it is absent."""
    if not (REAL_DATA / "MANIFEST.tsv").exists():
        pytest.skip(f"real survey files are not at {REAL_DATA} (set SKYFUSE_REAL_DATA to their folder)")
    return REAL_DATA


@pytest.fixture(scope="session")
def small_sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small mock sky: one field, sixty objects."""
    from skyfuse.mock import write_mock

    out = tmp_path_factory.mktemp("sky") / "sky"
    write_mock(out, fields=1, objects=60, seed=11)
    return out


@pytest.fixture(scope="session")
def small_cube(small_sky: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cube of the small sky, to be read only."""
    from skyfuse.cube.build import build

    out = tmp_path_factory.mktemp("cube") / "sky.cube"
    build([small_sky], out, workers=1)
    return out


@pytest.fixture(autouse=True)
def _signals_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave signals alone where the command line is called within the tests' own process."""
    monkeypatch.setattr("skyfuse.stop.listen", lambda: None)
