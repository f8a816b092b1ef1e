import json
import re
import resource

import pandas as pd
import pytest

from skyfuse.cli import main
from skyfuse.cube.build import build
from skyfuse.cube.query import Cube
from tests.fetch.standin import Standin, spectra

# The bases of GaiaXPy leave files open, and set an option that pandas 3 has given up.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*chained_assignment"),
    pytest.mark.filterwarnings("ignore:.*float_precision"),
]


@pytest.fixture
def fetch(monkeypatch, capsys, tmp_path):
    """Return a function that runs ``skyfuse fetch`` in an empty folder: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.sleep", lambda _: None)

    def call(*words):
        monkeypatch.setattr("sys.argv", ["skyfuse", "fetch", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        done = capsys.readouterr()
        return end.value.code, done.out, done.err

    return call


def test_balanced_spectra_come_and_build(fetch, serve, tmp_path):
    _, server = serve(cap=9)
    words = ("sdss", "spectra", "sky", "--per-class", 12, "--archive", server.url)
    code, out, _ = fetch(*words)
    assert code == 0
    assert "36 asked = 36 received + 0 rejected + 0 waiting" in out
    table = pd.read_csv(next((tmp_path / "sky" / "catalogue").glob("spectra-*.csv")))
    assert table["class"].value_counts().to_dict() == {"GALAXY": 12, "QSO": 12, "STAR": 12}
    build([tmp_path / "sky"], tmp_path / "sky.cube", workers=1)
    held = Cube.open(tmp_path / "sky.cube").spectra
    assert set(zip(held["plate"], held["fiberid"], strict=True)) == set(
        zip(table["plate"], table["fiberID"], strict=True)
    )

    # The same again asks for nothing.
    before = {path: count.requests for path, count in server.counts().items()}
    code, again, _ = fetch(*words)
    assert (code, again) == (0, out)
    assert {path: count.requests for path, count in server.counts().items()} == before

    code, out, _ = fetch("status", "sky", "--json")
    told = json.loads(out)
    assert (code, told["asked"], told["received"], told["missing"]) == (0, 36, 36, [])
    assert {query["name"]: query["rows"] for query in told["queries"]} == {
        "GALAXY": 12,
        "QSO": 12,
        "STAR": 12,
    }


def test_a_dry_run_shows_the_queries_and_writes_nothing(fetch, serve, tmp_path):
    _, server = serve()
    code, out, _ = fetch("sdss", "spectra", "sky", "--per-class", 35, "--dry-run", "--archive", server.url)
    assert code == 0
    assert out.count("SELECT TOP") == 3
    assert re.search(r"STAR +\d+ of \d+: asked 35, there are \d+", out)
    number = int(re.search(r"would come +(\d+) files, about", out)[1])
    told = [int(n) for n in re.findall(r"^(?:GALAXY|QSO|STAR) +(\d+) of", out, re.MULTILINE)]
    assert number == sum(told)
    assert not list(tmp_path.iterdir())
    assert all("/sas/" not in path for path in server.counts())


def test_names_that_lead_outside_are_refused_and_the_others_come(fetch, serve, tmp_path):
    _, server = serve(hostile=True)
    code, out, _ = fetch("sdss", "spectra", "sky/deep", "--cone", "150.05 0.1 1", "--archive", server.url)
    assert code == 1
    rejected = int(re.search(r"\+ (\d+) rejected", out)[1])
    assert rejected == int(re.search(r"rejected: unsafe-path +(\d+)", out)[1]) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["sky"]
    assert [path.name for path in (tmp_path / "sky").iterdir()] == ["deep"]
    assert not any("outside" in path for path in server.counts())
    code, out, _ = fetch("status", "sky/deep")
    assert code == 0
    assert out.count(": unsafe-path: ") == rejected
    asked, received = (int(n) for n in re.search(r"(\d+) asked = (\d+) received", out).groups())
    assert asked == received + rejected


def test_faults_on_the_way_leave_nothing_missing(fetch, serve, soon):
    faults = {"500": 0.1, "dropped": 0.1, "cut": 0.1, "html": 0.1, "short": 0.1, "other": 0.1}
    _, server = serve(faults=faults)
    code, out, _ = fetch("sdss", "spectra", "sky", "--per-class", 8, "--archive", server.url)
    assert "24 asked = 24 received" in out
    assert code == 0


def test_frames_tables_images_and_gaia(fetch, serve, tmp_path):
    sky, server = serve()
    sky.prepare_spectra()
    n = int((sky.truth["kind"] == "GALAXY").sum())
    where = ("--archive", server.url, "--json")
    code, out, _ = fetch("sdss", "frames", "sky", "--cone", "150.05 0.1 0.01", "--bands", "r", *where)
    assert (code, json.loads(out)["tally"]["received"]) == (0, 1)
    code, out, _ = fetch("sfr", "sky", *where)
    assert (code, json.loads(out)["tally"]["received"]) == (0, 3)
    code, out, _ = fetch("galaxyzoo", "sky", "--images", 3, *where)
    assert (code, json.loads(out)["tally"]["received"]) == (0, 8)
    (tmp_path / "q.adql").write_text("SELECT source_id FROM gaiadr3.galaxy_candidates")
    code, out, _ = fetch("gaia", "xp", "sky", "--adql", "q.adql", *where)
    assert (code, json.loads(out)["tally"]["received"]) == (0, 9)
    assert json.loads(out)["remarks"] == [f"{n} of {n} sources have a spectrum in the folder"]
    code, out, _ = fetch("gaia", "sources", "sky", "--cone", "150.05 0.1 1", "--dry-run", *where)
    assert (code, json.loads(out)["groups"][0]["available"]) == (0, n)


def test_sources_without_a_spectrum_are_listed(fetch, serve, tmp_path):
    sky, server = serve()
    sky.prepare_spectra()
    n = int((sky.truth["kind"] == "GALAXY").sum())
    sky.database.execute("INSERT INTO gaiadr3.galaxy_candidates VALUES (17, 0.1)")
    (tmp_path / "q.adql").write_text("SELECT source_id FROM gaiadr3.galaxy_candidates")
    code, out, _ = fetch("gaia", "xp", "sky", "--adql", "q.adql", "--archive", server.url)
    assert code == 0
    assert f"{n} of {n + 1} sources have a spectrum" in out
    assert (tmp_path / "sky" / "gaia" / "missing.csv").read_text() == "source_id\n17\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sdss", "spectra", "x"), "every spectrum of the survey"),
        (("sdss", "spectra", "x", "--list", "no.csv"), "does not exist"),
        (("sdss", "spectra", "x", "--list", "a", "--per-class", 3), "--list was given with another choice"),
        (("sdss", "spectra", "x", "--cone", "1 2"), "'1 2' is no region of the sky"),
        (("sdss", "spectra", "x", "--cone", "1 2 3", "--box", "1 2 3 4"), "given together"),
        (("sdss", "spectra", "x", "--sql", "no.sql"), "cannot be read as a query"),
        (("sdss", "spectra", "x", "--release", "dr99", "--per-class", 3), "is no data release"),
        (("sdss", "frames", "x", "--run", 1, "--camcol", 1, "--field", "3-1"), "are no fields"),
        (("sdss", "frames", "x", "--stripe", 82, "--bands", "x"), "are no bands"),
        (("gaia", "xp", "x"), "no way to choose sources"),
        (("galaxyzoo", "x", "--size", 3), "64 to 2048"),
        (("status", "nowhere"), "nothing was fetched into it"),
        (("sfr", "x", "--archive", "nowhere"), "is no address"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_call_gets_one_line_and_a_remedy(fetch, words, message):
    code, out, err = fetch(*words)
    assert code in (1, 2)
    assert message in err
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize(
    "verb",
    [
        "sdss spectra",
        "sdss frames",
        "sdss catalogue",
        "gaia sources",
        "gaia xp",
        "sfr",
        "galaxyzoo",
        "status",
    ],
)
def test_help_has_an_example(fetch, verb):
    code, out, _ = fetch(*verb.split(), "--help")
    assert code == 0
    assert f"Example: skyfuse fetch {verb} " in " ".join(out.split())


def test_a_full_disk_is_told_in_a_line_harms_nothing_and_the_same_command_goes_on(fetch, tmp_path, model):
    """No file may grow beyond a limit, which stands for a disk that is full at so many moments."""
    table = tmp_path / "list.csv"
    rows = [",".join(map(str, (*spectra.identity(number), 26))) for number in range(5)]
    table.write_text("\n".join(["plate,mjd,fiberid,run2d", *rows, ""]))
    large = spectra.template(pixels=4000)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    with Standin(spectra.handler(large)) as server:
        words = ("sdss", "spectra", "sky", "--list", table, "--archive", server.url)
        before = {}
        # The last is no limit, so that all comes, and one more lets nothing come to what is there.
        for size in [*range(0, 76_000, 4000), 1 << 30, 0]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            try:
                code, _, told = fetch(*words)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            if code:
                assert code == 1
                assert "Traceback" not in told
                # Beside the progress.
                (line,) = (line for line in told.splitlines() if line.startswith("skyfuse:"))
                assert "sky" in line.removeprefix("skyfuse:")
                assert "the same command" in line
                assert " go" in line
            now = {path: path.read_bytes() for path in (tmp_path / "sky").rglob("spec-*.fits")}
            assert all(now[path] == content for path, content in before.items())
            before = now
        assert len(before) == 5
        assert all(spectra.true(path, large) for path in before)
