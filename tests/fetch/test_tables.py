import gzip
import hashlib
import shutil
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest

from skyfuse.errors import DataError, UsageError
from skyfuse.fetch import tables
from skyfuse.fetch.archives import Archives
from skyfuse.survey.galaxyzoo import read_votes
from skyfuse.survey.mpajhu import read_sfr


@pytest.fixture
def folder(sky_folder, serve, tmp_path):
    """Return a folder with the tables as the archives serve them."""
    sky, _ = serve()
    for name in tables.SFR_TABLES:
        path = tmp_path / Archives().sfr(name)[0]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(sky.packed(sky_folder / "sfr" / name.removesuffix(".gz")).body)
    (tmp_path / "galaxyzoo").mkdir()
    (tmp_path / Archives().votes()[0]).write_bytes(sky.packed(sky_folder / "zoo" / "votes.csv").body)
    (tmp_path / Archives().sample()[0]).write_bytes(gzip.compress(sky.sample().encode()))
    return tmp_path


def test_the_readers_take_what_is_fetched(folder, sky_folder):
    pd.testing.assert_frame_equal(read_sfr(folder / "sfr"), read_sfr(sky_folder / "sfr"))
    votes = folder / Archives().votes()[0]
    pd.testing.assert_frame_equal(read_votes(votes), read_votes(sky_folder / "zoo" / "votes.csv"))


def test_images_are_chosen_by_their_numbers(folder, sky_folder):
    truth = pd.read_parquet(sky_folder / "truth.parquet")
    galaxies = truth[truth["kind"] == "GALAXY"].set_index("objid")
    chosen = tables.choose_images(folder, Archives(), 7, seed=5)
    order = sorted(galaxies.index, key=lambda i: hashlib.md5(f"5:{i}".encode()).hexdigest())
    assert list(chosen.table["objid"]) == order[:7]
    assert (chosen.available, chosen.without) == (len(galaxies), 0)
    for wanted, objid in zip(tables.wanted_images(Archives(), chosen, size=212), order, strict=False):
        assert wanted.path == f"galaxyzoo/images/{objid}.jpg"
        query = {key: float(value[0]) for key, value in parse_qs(urlsplit(wanted.url).query).items()}
        expected = 0.02 * galaxies.loc[objid, "petro_r90"] * 2
        assert query["scale"] == pytest.approx(expected, abs=1e-5)
        assert (query["width"], query["height"]) == (212, 212)
        assert query["ra"] == pytest.approx(galaxies.loc[objid, "ra"], abs=1e-6)


def test_galaxies_without_a_size_are_counted(folder):
    path = folder / Archives().sample()[0]
    sample = pd.read_csv(path)
    sample.loc[:3, "PETROR90_R"] = [-9999.0, 0.0, float("nan"), 3.0]
    sample.iloc[:-2].to_csv(path, index=False)
    chosen = tables.choose_images(folder, Archives(), 10**6, seed=1)
    assert (chosen.available, chosen.without) == (len(sample) - 5, 5)
    assert len(chosen.table) == chosen.available


def test_wrong_tables_are_told(folder):
    shutil.copy(folder / Archives().votes()[0], folder / Archives().sample()[0])
    with pytest.raises(DataError, match="has no column objid, petror90_r"):
        tables.choose_images(folder, Archives(), 1, seed=1)


@pytest.mark.parametrize("size", [0, 63, 2049])
def test_sizes_that_the_service_does_not_make(size):
    with pytest.raises(UsageError, match="64 to 2048"):
        tables.checked_size(size)
