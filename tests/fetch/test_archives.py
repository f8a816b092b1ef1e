import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st

from skyfuse.errors import UsageError
from skyfuse.fetch.archives import RELEASES, Archives, field_of, release_name

WITH_FILES = [name for name, release in RELEASES.items() if release.spectra is not None]


@pytest.fixture(scope="module")
def links():
    """Return what astroquery, which is tested against the archive, gets for a row of a table."""
    sdss = pytest.importorskip("astroquery.sdss").SDSS

    def of(release: str, row: dict, images: bool = False) -> list[str]:
        method = sdss.get_images_async if images else sdss.get_spectra_async
        more = {"band": "ugriz"} if images else {}
        table = Table(rows=[row])
        return [one._target for one in method(matches=table, data_release=int(release[2:]), **more)]

    return of


@pytest.mark.parametrize("release", WITH_FILES)
@pytest.mark.parametrize(
    ("run2d", "plate"), [("26", 266), ("104", 2340), ("v5_13_2", 3586), ("v5_7_0", 11000)]
)
def test_full_spectra_are_where_astroquery_gets_them(links, release, run2d, plate):
    row = {"run2d": run2d, "plate": plate, "mjd": 55181, "fiberID": 7}
    path, url = Archives(release).spectrum(str(plate), "55181", "7", run2d, full=True)
    assert [url] == links(release, row)
    assert path.endswith(url.split(f"/redux/{run2d}/")[1])


@pytest.mark.parametrize("release", WITH_FILES)
def test_frames_are_where_astroquery_gets_them(links, release):
    row = {"run": 756, "rerun": 301, "camcol": 3, "field": 122}
    ours = [Archives(release).frame(756, 3, 122, band)[1] for band in "ugriz"]
    assert ours == links(release, row, images=True)


def test_lite_spectra_lie_beside_the_full_ones():
    path, url = Archives().spectrum("266", "51602", "2", "26")
    assert path == "spectro/redux/26/spectra/lite/0266/spec-0266-51602-0002.fits"
    assert url == f"https://data.sdss.org/sas/dr17/sdss/{path}"


def test_a_base_takes_the_place_of_every_host():
    archives = Archives("dr16", "http://127.0.0.1:8017")
    urls = [
        *(archives.sql, archives.tap, archives.datalink, archives.votes()[1], archives.sample()[1]),
        *(archives.sfr("a")[1], archives.frame(1, 1, 1, "g")[1], archives.cutout("1", 1, 1, 0.4, 64)[1]),
    ]
    assert all(url.startswith("http://127.0.0.1:8017/") for url in urls)
    assert archives.hosts == ("http://127.0.0.1:8017",)
    assert Archives().sql == "https://skyserver.sdss.org/dr17/SkyServerWS/SearchTools/SqlSearch"
    assert "https://gea.esac.esa.int" in Archives().hosts


@pytest.mark.parametrize("base", ["localhost", "ftp://x", "file:///etc", ""])
def test_a_base_that_is_no_address_is_refused(base):
    with pytest.raises(UsageError, match="is no address"):
        Archives(base=base)


def test_what_a_release_does_not_have_is_said():
    with pytest.raises(UsageError, match="dr7 has no frames"):
        Archives("dr7").frame(1, 1, 1, "g")
    with pytest.raises(UsageError, match="dr8 has no spectra"):
        Archives("dr8").spectrum("1", "1", "1", "26")
    with pytest.raises(UsageError, match="'dr99' is no data release"):
        Archives("dr99")


@pytest.mark.parametrize("text", ["17", "dr17", "DR17", " Dr17 "])
def test_releases_are_named_in_many_ways(text):
    assert release_name(text) == "dr17"


def test_the_field_of_a_known_object():
    # The example of pydl's sdss_objid: run 3704, camera column 3, field 91, object 146.
    assert field_of(1237661382772195474) == (301, 3704, 3, 91)
    assert field_of(587722984435351614) is None  # a number of DR7
    assert field_of(-1) is None


@given(
    run=st.integers(1, 2**16 - 1),
    camcol=st.integers(1, 6),
    number=st.integers(1, 2**12 - 1),
    obj=st.integers(0, 2**16 - 1),
)
def test_fields_are_found_in_numbers(run, camcol, number, obj):
    objid = np.int64((2 << 59) | (301 << 48) | (run << 32) | (camcol << 29) | (number << 16) | obj)
    assert field_of(int(objid)) == (301, run, camcol, number)
