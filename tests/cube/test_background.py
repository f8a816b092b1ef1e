from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skyfuse.cube.background import background
from skyfuse.cube.build import build
from skyfuse.cube.query import Cube
from skyfuse.study.describe import describe
from tests.survey.files import write_frame

# nanomaggies: calib · sqrt(sky / gain + dark variance), of camera column 4.
SIGMA = {"r": 0.005 * np.sqrt(100 / 4.76 + 1.3225), "g": 0.005 * np.sqrt(100 / 3.995 + 1.96)}
PATCHES = 0.02


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build two frames with a bright source: r of noise alone, g also of coarse patches."""
    folder = tmp_path_factory.mktemp("background")
    (folder / "in").mkdir()
    rng = np.random.default_rng(4)
    for band, frame, patches in (("r", 30, 0.0), ("g", 38, PATCHES)):
        image = rng.normal(0, SIGMA[band], (800, 800))
        image += patches * np.kron(rng.normal(0, 1, (50, 50)), np.ones((16, 16)))
        image[100:180, 200:280] += 5.0
        write_frame(folder / "in" / f"frame-{band}.fits", image, FILTER=band, FRAME=frame)
    return build([folder / "in"], folder / "a.cube", workers=1).out


def test_noise_alone_scatters_by_its_sigma(cube: Path) -> None:
    told = background(Cube.open(cube), "sdss")
    assert list(told) == ["g", "r"]
    np.testing.assert_allclose(told["r"]["over_sigma"], 1, atol=0.06)
    assert told["r"]["beyond_sigma"][:3] == [0, 0, 0]


def test_what_does_not_average_out_is_told_apart(cube: Path) -> None:
    told = background(Cube.open(cube), "sdss")["g"]
    np.testing.assert_allclose(told["beyond_sigma"], PATCHES, rtol=0.12)
    expected = [np.hypot(1, PATCHES * 2**zoom / SIGMA["g"]) for zoom in range(5)]
    np.testing.assert_allclose(told["over_sigma"], expected, rtol=0.12)


def test_info_tells_it(cube: Path) -> None:
    said = describe(cube)
    assert said["background.sdss.g.over_sigma"] == background(Cube.open(cube), "sdss")["g"]["over_sigma"]
