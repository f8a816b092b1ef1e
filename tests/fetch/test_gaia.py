import csv
import io
from urllib.parse import parse_qs

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord

from skyfuse.errors import DataError, UsageError
from skyfuse.fetch import gaia
from skyfuse.fetch.archives import Archives
from skyfuse.fetch.client import Client
from skyfuse.fetch.gaia import Choice, Gaia
from skyfuse.fetch.sql import Clock
from skyfuse.sphere import Cone

# The bases of GaiaXPy leave files open, and set an option that pandas 3 has given up.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*chained_assignment"),
    pytest.mark.filterwarnings("ignore:.*float_precision"),
]


def quiet(done, total, what):
    """Nobody looks at the progress."""


@pytest.fixture
def ask(serve):
    """Return a function that gets sources from a stand-in with the given caps."""

    def get(choice, page=None, **options):
        _, server = serve(**options)
        archives = Archives(base=server.url)
        file = io.StringIO(newline="")
        with Client(archives.hosts) as client:
            service = Gaia(client, archives, clock=Clock(sleep=lambda _: None))
            service.page = page or service.page
            (group,) = gaia.write(service, choice, file, quiet)
        return group, list(csv.DictReader(io.StringIO(file.getvalue())))

    return get


@pytest.fixture(scope="module")
def galaxies(sky_folder):
    truth = pd.read_parquet(sky_folder / "truth.parquet")
    return truth[truth["kind"] == "GALAXY"]


@pytest.mark.parametrize("options", [{}, {"gaia_cap": 7}, {"page": 5}], ids=str)
def test_every_source_of_a_query_comes_whatever_the_cap(ask, galaxies, options):
    query = "SELECT source_id, redshift_ugc AS redshift FROM gaiadr3.galaxy_candidates"
    group, rows = ask(Choice(adql=query), **options)
    assert {int(row["source_id"]): float(row["redshift"]) for row in rows} == dict(
        zip(galaxies["source_id"], galaxies["z"], strict=True)
    )
    assert group.rows == len(rows) == len(galaxies)


def test_a_cone(ask, galaxies):
    _, rows = ask(Choice(cone=Cone.degrees(150.1, 0.1, 0.05)))
    place = SkyCoord(galaxies["ra"], galaxies["dec"], unit="deg")
    inside = place.separation(SkyCoord(150.1, 0.1, unit="deg")).deg <= 0.05
    assert sorted(int(row["source_id"]) for row in rows) == sorted(galaxies["source_id"][inside])
    assert set(rows[0]) == set(gaia.COLUMNS)


def test_a_cross_match_with_a_table_of_the_users(ask, galaxies, tmp_path, monkeypatch):
    # Twice each, moved by half an arcsec, and one that is nowhere; in several uploads.
    moved = galaxies[["ra", "dec"]].assign(dec=galaxies["dec"] + 0.5 / 3600)
    table = pd.concat([moved, moved, pd.DataFrame({"ra": [10.0], "dec": [80.0]})], ignore_index=True)
    table.to_csv(tmp_path / "t.csv", index=False)
    monkeypatch.setattr(gaia, "UPLOADED", 23)
    group, rows = ask(Choice(match=tmp_path / "t.csv"), page=6)
    assert group.remark == f"for {len(table)} rows of t.csv"
    n = len(galaxies)
    own = list(galaxies["source_id"])
    pairs = [(int(row["match_row"]), int(row["source_id"])) for row in rows]
    close = [pair for pair, row in zip(pairs, rows, strict=True) if float(row["separation"]) < 0.51]
    assert sorted(close) == [(k, own[k % n]) for k in range(2 * n)]
    assert all(float(row["separation"]) <= 1 for row in rows)


def test_sources_by_their_numbers(ask, galaxies, tmp_path):
    chosen = galaxies["source_id"].iloc[::3]
    pd.DataFrame({"SOURCE_ID": [*chosen, *chosen, 7]}).to_csv(tmp_path / "t.csv", index=False)
    group, rows = ask(Choice(ids=tmp_path / "t.csv", columns=("ra",)))
    assert sorted(int(row["source_id"]) for row in rows) == sorted(chosen)
    assert group.remark == f"for {len(chosen) + 1} rows of t.csv"
    # A blank, and designations beside numbers, change none of them.
    named = [*chosen.map("Gaia DR3 {}".format)[:5], *chosen[5:], ""]
    pd.DataFrame({"designation": named, "g": 1.0}).to_csv(tmp_path / "t.csv", index=False)
    group, rows = ask(Choice(ids=tmp_path / "t.csv", columns=("ra",)))
    assert sorted(int(row["source_id"]) for row in rows) == sorted(chosen)
    pd.DataFrame({"source_id": [*chosen, ""], "g": 1.0}).to_csv(tmp_path / "t.csv", index=False)
    group, rows = ask(Choice(ids=tmp_path / "t.csv", columns=("ra",)))
    assert sorted(int(row["source_id"]) for row in rows) == sorted(chosen)
    assert group.remark == f"for {len(chosen)} rows of t.csv, and 1 without a number"
    pd.DataFrame({"source_id": [3.8e18]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="have lost their last digits"):
        ask(Choice(ids=tmp_path / "t.csv"))
    pd.DataFrame({"id": [3]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="no column source_id"):
        ask(Choice(ids=tmp_path / "t.csv"))


def test_what_the_archive_says_of_a_wrong_query_is_told(ask):
    with pytest.raises(DataError, match=r"refuses the query \(no such table: gaiadr9\.x\)"):
        ask(Choice(adql="SELECT source_id FROM gaiadr9.x"))
    with pytest.raises(DataError, match="nothing of what was asked"):
        ask(Choice(adql="SELECT source_id FROM gaiadr3.gaia_source WHERE ra > 500"))


@pytest.mark.parametrize(
    "wrong",
    [{}, {"adql": "SELECT 1", "cone": Cone.degrees(1, 1, 1)}, {"adql": "SELECT 1", "radius": -1}],
    ids=str,
)
def test_unclear_choices_are_refused(wrong):
    with pytest.raises(UsageError):
        Choice(**wrong)


def test_columns_are_names_alone():
    with pytest.raises(UsageError, match="is no column"):
        gaia.selection(Choice(cone=Cone.degrees(1, 1, 1), columns=("ra, (SELECT 1)",)))


def test_no_call_names_more_sources_than_the_service_takes():
    files = list(gaia.wanted_xp(Archives(), range(12_001), chunk=10**6))
    asked = [parse_qs(wanted.data)["ID"][0].split(",") for wanted in files]
    assert [len(ids) for ids in asked] == [5000, 5000, 2001]
    assert [int(i) for ids in asked for i in ids] == list(range(12_001))
    assert len({wanted.path for wanted in files}) == 3
    assert parse_qs(files[0].data)["RETRIEVAL_TYPE"] == ["XP_CONTINUOUS"]


def test_sources_that_came_are_known_from_the_files(real_data):
    path = real_data / "gaia_xp" / "gaiaxpy_tests" / "xp_continuous__XP_CONTINUOUS_RAW.csv"
    expected = pd.read_csv(path)["source_id"]
    assert gaia.came([path]) == set(expected)
    assert len(expected) == 2


def test_fetched_spectra_are_those_of_the_sky(sky_folder, serve, tmp_path):
    from astropy.io import fits

    from skyfuse.survey.gaia import KEPT, read_xp
    from tests.fetch.standin.server import Request

    table = fits.getdata(sky_folder / "gaia" / "xp_sampled.fits", 1)
    numbers = sorted(int(number) for number in table["source_id"][:5])
    (wanted,) = gaia.wanted_xp(Archives(), numbers)
    sky, _ = serve()
    path = tmp_path / "xp.csv"
    path.write_bytes(sky(Request("POST", "/data-server/data", {}, {}, wanted.data.encode())).body)
    found = read_xp(path)
    assert sorted(found.table["source_id"]) == numbers
    for number, value, sigma in zip(
        found.table["source_id"], found.samples.value, found.samples.sigma, strict=True
    ):
        row = table[table["source_id"] == number][0]
        flux = np.concatenate([row["bp_flux"][KEPT["bp"]], row["rp_flux"][KEPT["rp"]]])
        # Fifty-five bases hold 120 noisy samples, but for part of their noise.
        assert np.median(np.abs(value - flux) / sigma) < 3
