"""The guides of CONTRIBUTING.md, run: a package outside brings a reader, an instrument and a model."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

import skyfuse
from skyfuse.cube.query import Cube

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

ALL = """
import json, runpy, sys
from skyfuse.cli import app

for program, *words in json.loads(sys.argv[1]):
    print(program, *words, flush=True)
    if program == "skyfuse":
        app(words, prog_name=program, standalone_mode=False)
        continue
    sys.argv = words[words[0] == "-m":]
    try:
        (runpy.run_module if words[0] == "-m" else runpy.run_path)(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""
"""Runs the lines of the guides, one after the other."""


class Workshop:
    """A folder in which the guides are followed, with a place for packages that the next process sees."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.packages = folder, folder / "packages"
        places = [str(self.packages), str(Path(skyfuse.__file__).parents[1])]
        self.environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "COLUMNS": "200"}
        lines = []
        for language, text in BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
            if language == "sh":
                lines += [shlex.split(line) for line in text.splitlines()]
            else:
                path = folder / text.splitlines()[0].removeprefix("# ")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
                if path.parent.name == path.parents[1].name:
                    (path.parent / "__init__.py").touch()
        (program, *install), *others, last = lines
        assert program == "pip"
        # What differs from a user's is that nothing is asked of the network.
        offline = ["--no-deps", "--no-build-isolation", "--no-index", "-q", "--target", str(self.packages)]
        self.run("-m", "pip", *install, *offline)
        # One process for nearly all of them, since each takes seconds to start.
        self.run("-c", ALL, json.dumps(others))
        self.run("-m", *last)

    def run(self, *arguments: str) -> None:
        """Run Python in the folder."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    shop = Workshop(tmp_path_factory.mktemp("workshop"))
    # What worked must be what was installed, not the source beside it.
    assert (shop.packages / "outside" / "nights.py").is_file()
    return shop


def test_the_cube_holds_what_the_package_reads(workshop: Workshop) -> None:
    cube = Cube.open(workshop.folder / "roof.cube")
    assert cube.frames["instrument"].tolist() == ["rooftop-camera"] * 2
    assert set(cube.spectra["instrument"]) == {"rooftop"}
    assert len(cube.objects) == 144
    with fits.open(workshop.folder / "sky" / "camera-r.fits") as file:
        value, weight = file["SCI"].data, file["WHT"].data
    # Objects stand 32 pixels apart from pixel 16 on; a cutout of 16 begins 8 before its object, or, where the
    # position comes out a little higher, 7.
    found = cube.gather("image", 0, [0])
    starts = [start for place in range(16, 384, 32) for start in (place - 8, place - 7)]
    cuts = [np.s_[y : y + 16, x : x + 16] for y in starts for x in starts]
    (cut,) = [cut for cut in cuts if np.array_equal(value[cut], found.value[0, 1], equal_nan=True)]
    good = weight[cut] > 0
    np.testing.assert_allclose(found.sigma[0, 1][good], weight[cut][good] ** -0.5, rtol=1e-6)
    assert np.isnan(found.sigma[0, 1][~good]).all()


def test_the_study_compares_its_model_and_the_report_calls_it_by_its_title(workshop: Workshop) -> None:
    study = workshop.folder / "study" / "study"
    results = pd.read_parquet(study / "results.parquet")
    own = results[results["model"] == "light"]
    assert set(own["fusion"]) >= {"image", "spectrum", "early"}
    assert own["test_r2"].max() > 0.7
    assert "Mean light" in (study / "report.html").read_text(encoding="utf-8")


def test_the_prediction_is_one_for_each_spectrum_of_the_next_night(workshop: Workshop) -> None:
    with np.load(workshop.folder / "tonight" / "night-1.npz") as night:
        truth = pd.Series(night["z"].astype(np.float64), [f"rooftop-{name}" for name in night["name"]])
    for name in ("tonight.csv", "by-light.csv"):
        told = pd.read_csv(workshop.folder / name).set_index("spectrum_id")
        assert len(told) == len(truth) == 144
        assert (told["status"] == "answered").all()
        assert np.corrcoef(told["z"], truth[told.index])[0, 1] > 0.8


def test_a_model_of_a_package_that_is_gone_is_told(workshop: Workshop) -> None:
    folder = workshop.folder / "study" / "study" / "cells" / "light-early-i0-s2" / "model"
    code = "import sys, skyfuse; skyfuse.load_model(sys.argv[1])"
    places = {"PYTHONPATH": str(Path(skyfuse.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code, folder],
        env=os.environ | places,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "names the unknown model 'light'; install the package that brings it" in done.stderr
