"""The scene folder: images and features in pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skyfuse.errors import DataError
from skyfuse.survey.scene import FEATURES, LABELS, read_scene


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(4):
        Image.fromarray(np.full((8, 8, 3), 51 * number, np.uint8)).save(
            tmp_path / "images" / f"a{number}.png"
        )
    rows = {"IMAGE": [f"images/a{k}.png" for k in (3, 1, 7)]}
    rows |= {name: np.arange(3.0) + k for k, name in enumerate(FEATURES)}
    rows |= {"CLASS1": ["INDOORS", "OUTDOORS", "OUTDOORS"], "CLASS2": ["CLASS", "FOREST", "BEACH"]}
    pd.DataFrame(rows).to_csv(tmp_path / "features.csv", index=False)
    return tmp_path


def test_pairs_and_what_has_no_partner(folder):
    scene = read_scene(folder, 4)
    assert scene.table["CLASS2"].tolist() == ["FOREST", "CLASS"]
    assert scene.table["MFCC_104"].tolist() == [104.0, 103.0]
    assert {*FEATURES, *LABELS, "image"} <= set(scene.table.columns)
    np.testing.assert_allclose(scene.images.load(scene.table["image"])[:, 0, 0, 0], [0.2, 0.6])
    assert scene.unpaired == {"images without features": 2, "features without an image": 1}


def test_folders_without_one_table_of_features_are_told(folder):
    (folder / "other.csv").write_text("a,b\n1,2\n")
    read_scene(folder, 4)
    (folder / "again.csv").write_bytes((folder / "features.csv").read_bytes())
    with pytest.raises(DataError, match="2 tables"):
        read_scene(folder, 4)
    (folder / "again.csv").unlink()
    (folder / "features.csv").unlink()
    with pytest.raises(DataError, match="0 tables"):
        read_scene(folder, 4)
