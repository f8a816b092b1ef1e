import bz2
import csv
import hashlib
import io

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from skyfuse.errors import DataError, UsageError
from skyfuse.fetch import sdss
from skyfuse.fetch.archives import Archives
from skyfuse.fetch.client import Client
from skyfuse.fetch.plan import Answered
from skyfuse.fetch.sdss import Choice, Fields
from skyfuse.fetch.skyserver import SkyServer
from skyfuse.fetch.sql import Clock
from skyfuse.sphere import Box, Cone


def quiet(done, total, what):
    """Nobody looks at the progress."""


@pytest.fixture
def ask(serve):
    """Return a function that gets a table from a stand-in with the given caps."""

    def get(write, *arguments, **options):
        _, server = serve(**options)
        archives = Archives(base=server.url)
        file = io.StringIO(newline="")
        with Client(archives.hosts) as client:
            service = SkyServer(client, archives, clock=Clock(sleep=lambda _: None))
            if isinstance(arguments[0], Choice):
                arguments = (sdss.strata(service, arguments[0]),)
            groups = list(write(service, *arguments, file, *([] if write is sdss.write_list else [quiet])))
        return groups, list(csv.DictReader(io.StringIO(file.getvalue())))

    return get


@pytest.fixture(scope="module")
def truth(sky_folder):
    """Return every spectrum of the sky as its own file tells it."""
    rows = []
    for path in sorted(sky_folder.glob("spectro/redux/26/spectra/lite/*/*.fits")):
        record = fits.getdata(path, 2)[0]
        names = ("SPECOBJID", "CLASS", "SUBCLASS", "ZWARNING", "PLUG_RA", "PLUG_DEC", "OBJTYPE")
        rows.append({name: str(record[name]).strip() for name in names})
    table = pd.DataFrame(rows)
    for name in ("ZWARNING", "PLUG_RA", "PLUG_DEC"):
        table[name] = table[name].astype(float)
    return table[(table["OBJTYPE"] != "SKY") & (table["ZWARNING"] == 0)]


def drawn(truth, name, number, seed=7):
    ids = truth["SPECOBJID"][truth["CLASS"] == name]
    return sorted(ids, key=lambda i: hashlib.md5(f"{seed}:{i}".encode()).hexdigest())[:number]


@pytest.mark.parametrize("options", [{}, {"cap": 7}, {"cap": 11, "silent": True}], ids=str)
def test_as_many_of_each_class_as_asked_or_all_there_are(ask, truth, options):
    groups, rows = ask(sdss.write, Choice(per_class=40), **options)
    there = truth["CLASS"].value_counts()
    for group in groups:
        expected = drawn(truth, group.name, 40)
        assert [row["specObjID"] for row in rows if row["class"] == group.name] == expected
        assert (group.available, group.rows) == (there[group.name], min(40, there[group.name]))
        assert group.remark == ("" if there[group.name] >= 40 else f"asked 40, there are {there[group.name]}")
    assert {group.name for group in groups} == {"GALAXY", "QSO", "STAR"}


def test_a_smaller_choice_is_part_of_a_larger_one_and_the_seed_says_which(ask):
    def ids(number, seed):
        return {row["specObjID"] for row in ask(sdss.write, Choice(per_class=number, seed=seed))[1]}

    assert ids(5, 7) < ids(12, 7)
    assert ids(5, 8) != ids(5, 7)


def test_subclasses_are_balanced_too(ask, truth):
    groups, rows = ask(sdss.write, Choice(("galaxy",), per_subclass=2))
    there = truth[truth["CLASS"] == "GALAXY"]["SUBCLASS"].value_counts()
    assert {group.name: group.available for group in groups} == {f"GALAXY [{n}]": k for n, k in there.items()}
    assert {n: sum(row["subClass"] == n for row in rows) for n in there.index} == there.clip(
        upper=2
    ).to_dict()


def test_a_class_that_is_not_there_is_told(ask):
    groups, _ = ask(sdss.write, Choice(("STAR", "COMET"), per_class=1))
    assert [(group.name, group.remark) for group in groups] == [
        ("COMET", "asked 1, there are 0"),
        ("STAR", ""),
    ]


@pytest.mark.parametrize("name", ["STAR'--", "STAR' OR 'a'='a", "a;b"])
def test_a_class_cannot_become_sql(ask, name):
    with pytest.raises(UsageError, match="cannot be a name in a query"):
        ask(sdss.write, Choice((name,), per_class=1))


def test_a_cone_holds_what_lies_within(ask, truth):
    ra, dec, radius = 150.1, 0.1, 0.05
    _, rows = ask(sdss.write, Choice(region=Cone.degrees(ra, dec, radius)))
    place = SkyCoord(truth["PLUG_RA"], truth["PLUG_DEC"], unit="deg")
    inside = place.separation(SkyCoord(ra, dec, unit="deg")).deg <= radius
    assert 0 < inside.sum() < len(truth)
    assert sorted(row["specObjID"] for row in rows) == sorted(truth["SPECOBJID"][inside])


def test_magnitudes_come_with_the_spectra(ask, sky_folder):
    _, rows = ask(sdss.write, Choice(per_class=3))
    catalogue = pd.read_csv(sky_folder / "catalogue.csv").set_index(["plate", "mjd", "fiberid"])
    for row in rows:
        key = tuple(int(row[name]) for name in ("plate", "mjd", "fiberID"))
        assert float(row["modelMag_r"]) == catalogue.loc[key, "r"]
        assert float(row["modelMagErr_u"]) == catalogue.loc[key, "err_u"]


def test_repeated_and_doubtful_spectra_are_got_when_asked_for(ask, sky_folder, truth):
    _, rows = ask(sdss.write, Choice(classes=("GALAXY", "QSO", "STAR"), repeats=True))
    files = list(sky_folder.glob("spectro/redux/26/spectra/lite/*/*.fits"))
    assert len(rows) == len(files) > len(truth)
    # Sky fibres have no photometry, and keep their rows.
    assert any(row["modelMag_r"] == "" for row in rows)


def test_a_query_of_the_users(ask, truth):
    query = "SELECT plate, mjd, fiberID, run2d, specObjID FROM SpecObjAll WHERE class = 'star' -- all\n;"
    groups, rows = ask(sdss.write, Choice(sql=query), cap=9)
    assert len(rows) == groups[0].rows == groups[0].available
    assert {row["specObjID"] for row in rows} >= set(truth["SPECOBJID"][truth["CLASS"] == "STAR"])
    with pytest.raises(DataError, match="add one of specobjid"):
        ask(sdss.write, Choice(sql="SELECT plate, mjd, fiberID FROM SpecObjAll"), cap=9)
    with pytest.raises(DataError, match="no such column"):
        ask(sdss.write, Choice(sql="SELECT nonsense FROM SpecObjAll"))
    with pytest.raises(DataError, match="nothing of what was asked"):
        ask(sdss.write, Choice(sql="SELECT specObjID FROM SpecObjAll WHERE z > 100"))


@pytest.mark.parametrize(
    "wrong",
    [{}, {"per_class": 1, "per_subclass": 1}, {"per_class": 1, "sql": "SELECT 1"}],
    ids=str,
)
def test_unclear_choices_are_refused(wrong):
    with pytest.raises(UsageError):
        Choice(**wrong)


def test_a_table_of_plate_mjd_and_fibre(ask, tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("PLATEID,mjd,fiber\n3001,53001,5\n3001,53001,6\n9999,53001,6\n")
    groups, rows = ask(sdss.write_list, path)
    assert [tuple(row.values()) for row in rows] == [
        ("3001", "53001", "5", "26"),
        ("3001", "53001", "6", "26"),
        ("9999", "53001", "6", "unknown"),
    ]
    assert groups[0].remark == "the archive does not know the plates of 1"
    path.write_text("plate,mjd,fiberid,run2d\n3001,53001,0005,26\n3001,,6,26\n3001,53001.0,7,\n")
    groups, rows = ask(sdss.write_list, path)
    assert [tuple(row.values()) for row in rows] == [
        ("3001", "53001", "5", "26"),
        ("3001", "53001", "7", "unknown"),
    ]
    assert (
        groups[0].remark == "the archive does not know the plates of 1; rows without plate, mjd or fibre: 1"
    )
    path.write_text("plate,mjd\n1,2\n")
    with pytest.raises(DataError, match="no column of fibre"):
        ask(sdss.write_list, path)
    path.write_text("plate,mjd,fiberid\n1,2,3.5\n")
    with pytest.raises(DataError, match="whole numbers"):
        ask(sdss.write_list, path)


def test_spectra_of_a_catalogue(tmp_path):
    table = tmp_path / "c.csv"
    table.write_text("plate,mjd,fiberID,run2d\n266,51602,2,26\n1,2,3,../../x\n")
    good, bad = sdss.wanted_spectra(Archives(), Answered(table), None, full=False)
    assert good.path == "spectro/redux/26/spectra/lite/0266/spec-0266-51602-0002.fits"
    assert good.expect == {"PLATEID": 266, "MJD": 51602, "FIBERID": 2}
    # It keeps its name, so that the ledger refuses and counts it; the address stays on its host.
    assert ".." in bad.path
    assert bad.url.startswith("https://data.sdss.org/sas/")


# ----------------------------------------------------------------------------------------------------- frames


@pytest.fixture(scope="module")
def tracks(real_data):
    """Return, of real frames in r, the astrometry along the scan and the world coordinates."""
    out = []
    for path in sorted((real_data / "sdss_frames").glob("frame-r-*.fits.bz2")):
        with fits.open(io.BytesIO(bz2.decompress(path.read_bytes()))) as hdus:
            track, header = hdus[3].data[0], hdus[0].header
            row, col = (sdss.FIELD_ROWS - 1) / 2, (sdss.FIELD_COLUMNS - 1) / 2
            mu = track["A"] + track["B"] * row + track["C"] * col
            nu = track["D"] + track["E"] * row + track["F"] * col
            wcs = WCS(naxis=2)
            wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
            wcs.wcs.crpix = [header["CRPIX1"], header["CRPIX2"]]
            wcs.wcs.crval = [header["CRVAL1"], header["CRVAL2"]]
            wcs.wcs.cd = [[header[f"CD{i}_{j}"] for j in (1, 2)] for i in (1, 2)]
            assert header["CTYPE1"] == "RA---TAN"
            out.append((np.array([[mu, nu, track["NODE"], track["INCL"]]]), wcs))
    return out


def test_what_real_frames_cover_is_known_from_their_tracks(tracks):
    rng = np.random.default_rng(5)
    assert len(tracks) == 2
    for place, wcs in tracks:
        x = rng.uniform(-600, sdss.FIELD_COLUMNS + 600, 4000)
        y = rng.uniform(-600, sdss.FIELD_ROWS + 600, 4000)
        ra, dec = wcs.all_pix2world(x, y, 0)
        out = np.hypot(
            np.maximum(np.maximum(-x, x - sdss.FIELD_COLUMNS), 0),
            np.maximum(np.maximum(-y, y - sdss.FIELD_ROWS), 0),
        )
        found = sdss.distance(place, ra, dec) * 3600 / sdss.PIXEL
        # As far outside as the pixels say, less the slack of 14 arcsec on each side.
        slack = 0.004 * 3600 / sdss.PIXEL
        assert (found[out == 0] == 0).all()
        assert np.abs(found - out).max() < np.sqrt(2) * slack + 3
        assert (found[out > 1.5 * slack + 5] > 0).all()


@pytest.mark.parametrize("many", [2, 2000])
def test_positions_are_covered_by_the_frames_that_hold_them(ask, tmp_path, monkeypatch, many):
    monkeypatch.setattr(sdss, "_MANY", many)
    path = tmp_path / "objects.csv"
    path.write_text("ra,dec\n150.05,0.1\n150.06,0.11\n150.05,0.1\n200,40\n")
    groups, rows = ask(sdss.write_fields, Fields(objects=path))
    assert len(rows) == 1
    assert groups[0].remark == "1 of 3 positions lie in no field"
    path.write_text("ra,dec\n200,40\n")
    with pytest.raises(DataError, match="no field there"):
        ask(sdss.write_fields, Fields(objects=path))


def test_objects_tell_their_own_field(ask, tmp_path):
    path = tmp_path / "objects.csv"
    path.write_text("objid\n1237661382772195474\n1237661382772195475\n587722984435351614\n")
    groups, rows = ask(sdss.write_fields, Fields(objects=path, primary=True))
    assert [tuple(row.values()) for row in rows] == [("3704", "301", "3", "91")]
    assert groups[0].remark == "1 numbers are none of DR8 and later"
    pd.DataFrame({"objid": [1.2376613827721955e18]}).to_csv(path, index=False)
    with pytest.raises(DataError, match="have lost their last digits"):
        ask(sdss.write_fields, Fields(objects=path, primary=True))


@pytest.mark.parametrize(
    ("chosen", "number"),
    [
        ({"region": Cone.degrees(150.05, 0.1, 0.01)}, 1),
        ({"region": Cone.degrees(150.3, 0.1, 0.01)}, 0),
        ({"region": Box(149.9, 150.2, 0.0, 0.2)}, 1),
        ({"region": Box(359.0, 1.0, 0.0, 0.2)}, 0),
        ({"run": 9001}, 1),
        ({"run": 9001, "camcol": 5}, 0),
        ({"stripe": 10}, 1),
        ({"run": 4, "camcol": 2, "numbers": (7, 8)}, 2),
    ],
    ids=str,
)
def test_fields_by_region_run_and_stripe(ask, chosen, number):
    if number:
        assert len(ask(sdss.write_fields, Fields(**chosen))[1]) == number
    else:
        with pytest.raises(DataError, match="no field there"):
            ask(sdss.write_fields, Fields(**chosen))


@pytest.mark.parametrize(
    "wrong",
    [{}, {"run": 1, "stripe": 82}, {"run": 1, "numbers": (1,)}, {"run": 1, "camcol": 7}, {"camcol": 2}],
    ids=str,
)
def test_unclear_fields_are_refused(wrong):
    with pytest.raises(UsageError):
        Fields(**wrong)


def test_frames_of_a_field(tmp_path):
    table = tmp_path / "f.csv"
    table.write_text("run,rerun,camcol,field\n2820,301,3,122\n")
    r, z = sdss.wanted_frames(Archives(), Answered(table), sdss.checked_bands("zr"))
    assert r.path == "photoObj/frames/301/2820/3/frame-r-002820-3-0122.fits.bz2"
    assert r.expect == {"RUN": 2820, "CAMCOL": 3, "FILTER": "r", "FRAME": 122}
    assert z.expect["FRAME"] == 128
    with pytest.raises(UsageError, match="are no bands"):
        sdss.checked_bands("rx")


def test_real_frames_are_what_is_expected_of_them(real_data, tmp_path):
    table = tmp_path / "f.csv"
    table.write_text("run,rerun,camcol,field\n2820,301,3,122\n4510,301,4,30\n")
    for wanted in sdss.wanted_frames(Archives(), Answered(table), "ugriz"):
        path = real_data / "sdss_frames" / wanted.path.rsplit("/", 1)[1]
        with bz2.open(path) as file:
            header = fits.Header.fromstring(file.read(2880 * 8), sep="")
        assert {key: header[key] for key in wanted.expect} == wanted.expect
