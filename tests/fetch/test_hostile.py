from __future__ import annotations

import re
import resource
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from skyfuse.fetch import bounds
from skyfuse.fetch.bounds import Bounds
from skyfuse.fetch.client import Client
from skyfuse.fetch.download import download
from skyfuse.fetch.ledger import Ledger, Wanted
from tests.fetch.standin.hostile import FILES, QUERIES, STOPS, WHOLE, Hostile, Outcome, meet_all

TRIES = 2
QUICK = Bounds(
    connect=0.5,
    file=0.6,
    query=0.6,
    silence=0.5,
    window=0.6,
    content=1.5,
    words=0.4,
    first_wait=0.01,
    longest_wait=0.05,
    patience=60.0,
    job=1.0,
)
# A try's own bounds, for all redirects and with the most that can come after the headers; twice that many
# seconds for a busy machine, on which fifty of these run at a time.
LONGEST = TRIES * (QUICK.connect + QUICK.file + max(QUICK.content, QUICK.words) + QUICK.longest_wait) * 2
MEMORY = 150 << 20


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Meet all behaviours at the same time."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bounds.MOST, "table", 1 << 20)
        patch.setattr(bounds, "ANSWER", 1 << 22)
        patch.setattr(bounds, "LINES", 50_000)
        done = meet_all(tmp_path_factory.mktemp("hostile"), QUICK, TRIES)
    done["memory"] = Outcome(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return done


REASONS = {name: reasons for name, (_, reasons) in FILES.items()} | dict.fromkeys(
    ("deaf", "garbage for TLS", "silence for TLS"), ("no-answer",)
)


@pytest.mark.parametrize("name", REASONS)
def test_a_file_is_rejected_within_the_bounds_and_for_its_reason(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    outcome = outcomes[f"file: {name}"]
    assert outcome.spent < LONGEST
    assert outcome.told == ""
    tally = outcome.tally
    assert tally is not None
    assert (tally.asked, tally.rejected) == (1, 1)
    assert set(tally.faults) <= set(REASONS[name])
    (remark,) = outcome.remarks
    assert remark.isprintable()
    assert len(remark) < 700
    # Nothing has its name; what came of it waits to be gone on with.
    assert set(outcome.left) <= {".a.dat.part"}


@pytest.mark.parametrize("name", STOPS)
def test_a_server_that_wants_us_gone_ends_the_run_in_a_line(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[f"stop: {name}"]
    assert outcome.spent < LONGEST
    assert "does not serve us now" in outcome.told
    assert outcome.tally is not None
    assert outcome.tally.waiting == 1


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_ends_within_the_bounds_in_a_line(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[f"query: {name}"]
    assert outcome.spent < LONGEST
    assert re.search(QUERIES[name][1], outcome.told), outcome.told
    assert "\n" not in outcome.told
    assert len(outcome.told) < 700


def test_a_job_that_never_ends_is_left(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["job: never ends"]
    assert "does not end the query within 1 s (EXECUTING)" in outcome.told
    assert outcome.spent < QUICK.job + 2 * LONGEST


def test_none_takes_memory(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["memory"].spent * 1024 < MEMORY


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_by_tls_all_comes_all_waits_end_and_strangers_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out own.pem -days 2 -subj /CN=own"
    command += " -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.pem", tmp_path / "key.pem")
    reasons: dict[str, dict[str, int]] = {}
    with Hostile() as hostile:
        for name in ("whole", "slow headers", "endless 100", "slow trailer", "stranger"):
            behaviour = FILES[name][0] if name in FILES else WHOLE
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem" if name != "stranger" else ""))
            base = hostile.serve(behaviour, context)
            with (
                Ledger.open(tmp_path / name) as ledger,
                Client([base], connections=1, tries=1, bounds=QUICK) as client,
            ):
                ledger.add([Wanted("a.dat", f"{base}/a", "table")])
                reasons[name] = download(client, ledger).reasons
    assert (tmp_path / "whole/a.dat").read_bytes() == bytes(range(256)) * 4000
    assert reasons == {
        "whole": {},
        "slow headers": {"no-answer": 1},
        "endless 100": {"no-answer": 1},
        "slow trailer": {"too-slow": 1},
        "stranger": {"no-answer": 1},
    }
