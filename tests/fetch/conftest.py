"""Fixtures of the download tests: what the stand-ins serve, and short waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from skyfuse.fetch import bounds
from tests.fetch.standin import Standin, spectra
from tests.fetch.standin.sky import Sky, make_sky


@pytest.fixture(scope="session")
def model() -> bytes:
    """Return the file that each served spectrum is made of."""
    return spectra.template()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is tried again be tried at once, nearly."""
    monkeypatch.setattr(bounds, "BOUNDS", replace(bounds.BOUNDS, first_wait=0.01, longest_wait=0.05))


@pytest.fixture(scope="session")
def sky_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one field and 100 objects: some 40 galaxies, 30 quasars and 30 stars."""
    return make_sky(tmp_path_factory.mktemp("archive") / "sky", objects=100)


@pytest.fixture
def serve(sky_folder: Path) -> Iterator[Callable[..., tuple[Sky, Standin]]]:
    """Return a function that starts a stand-in; its arguments are those of `Sky`, and `faults`."""
    with ExitStack() as stack:

        def start(faults: Any = 0.0, **options: Any) -> tuple[Sky, Standin]:
            sky = Sky(sky_folder, **options)
            return sky, stack.enter_context(Standin(sky, faults=faults))

        yield start
