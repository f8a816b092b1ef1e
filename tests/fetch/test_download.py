from __future__ import annotations

import fcntl
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path

import pytest

from skyfuse.errors import DataError, StoreError
from skyfuse.fetch import bounds
from skyfuse.fetch.client import Client
from skyfuse.fetch.download import download
from skyfuse.fetch.ledger import NAME, Ledger, Tally, Wanted
from tests.fetch.standin import FAULTS, Reply, Request, Standin, served, spectra

ROOT = Path(__file__).parents[2]
CLIENT = """
import sys
from skyfuse.fetch.client import Client
from skyfuse.fetch.download import download
from skyfuse.fetch.ledger import Ledger
from tests.fetch.standin import spectra
with Ledger.open(sys.argv[1]) as ledger, Client([sys.argv[2]], connections=8) as client:
    ledger.add(spectra.wanted(sys.argv[2], range(int(sys.argv[3]))))
    download(client, ledger)
"""


def fetch(folder: Path, wanted: Iterable[Wanted], base: str, **options: int) -> Tally:
    with Ledger.open(folder) as ledger, Client([base], **options) as client:
        ledger.add(wanted)
        tally = download(client, ledger)
    assert tally.asked == tally.received + tally.rejected + tally.waiting
    return tally


def rejected(folder: Path) -> dict[str, tuple[str, str]]:
    with Ledger.open(folder) as ledger:
        return {path: (reason, remark) for path, reason, remark in ledger.rejected()}


def files(folder: Path) -> dict[str, bytes]:
    """Return what lies in a folder, the ledger aside."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(NAME)
    }


def expected(model: bytes, number: int) -> dict[str, bytes]:
    names = map(spectra.identity, range(number))
    return {spectra.PATH.format(*name): spectra.spectrum(model, *name) for name in names}


def data(server: Standin, name: str = "a", **more: object) -> Wanted:
    return Wanted(f"{name}.dat", f"{server.url}/{name}", "table", **more)


def test_all_come_once_with_their_content_over_few_connections(tmp_path: Path, model: bytes) -> None:
    with Standin(spectra.handler(model)) as server:
        tally = fetch(tmp_path, spectra.wanted(server.url, range(120)), server.url, connections=5)
        again = fetch(tmp_path, spectra.wanted(server.url, range(120)), server.url, connections=5)
    assert (tally.asked, tally.received, tally.faults) == (120, 120, {})
    assert again == tally
    assert tally.bytes == 120 * len(model)
    assert files(tmp_path) == expected(model, 120)
    assert {count.requests for count in server.counts().values()} == {1}
    assert server.connections <= 5


@pytest.mark.usefixtures("soon")
def test_all_come_through_every_fault(tmp_path: Path, model: bytes) -> None:
    with Standin(spectra.handler(model), faults=0.05, retry_after=0, seed=3) as server:
        tally = fetch(tmp_path, spectra.wanted(server.url, range(150)), server.url)
    assert (tally.asked, tally.received, tally.rejected) == (150, 150, 0)
    assert files(tmp_path) == expected(model, 150)
    made = {name for count in server.counts().values() for name in count.faults}
    assert made == set(FAULTS)
    told = {"http-500", "http-503", "http-429", "no-answer", "cut-off", "html-page", "wrong-object"}
    assert told <= set(tally.faults)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("fault", "reason", "pixels"),
    [
        ("html", "html-page", 200),
        ("other", "wrong-object", 200),
        ("short", "truncated", 1000),
        # Half of it ends exactly between two HDUs.
        ("short", "wrong-hdus", 200),
        ("500", "http-500", 200),
        ("dropped", "no-answer", 200),
    ],
)
def test_what_always_lies_or_fails_is_rejected_with_its_reason(
    tmp_path: Path, fault: str, reason: str, pixels: int
) -> None:
    with Standin(spectra.handler(spectra.template(pixels))) as server:
        first, *rest = spectra.wanted(server.url, range(4))
        if fault == "other":
            fetch(tmp_path, [first], server.url)
        server.faults = {fault: 1.0}
        tally = fetch(tmp_path, rest, server.url, tries=3, connections=4)
        told = rejected(tmp_path)
    assert tally.rejected == 3
    assert tally.faults == {reason: 9}
    assert {line[0] for line in told.values()} == {reason}
    assert all(server.url in line[1] and "\n" not in line[1] for line in told.values())
    assert set(files(tmp_path)) <= {first.path}


def test_a_rejected_file_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    with served(a=[Reply(status=404), Reply(b"good")]) as server:
        tally = fetch(tmp_path, [data(server)], server.url)
        assert (tally.rejected, tally.reasons) == (1, {"http-404": 1})
        assert len(server.seen) == 1
        assert fetch(tmp_path, [], server.url).received == 1
    assert files(tmp_path) == {"a.dat": b"good"}


@pytest.mark.usefixtures("soon")
def test_a_broken_body_is_resumed_where_it_broke(tmp_path: Path) -> None:
    body = os.urandom(400_000)
    with served(a=Reply(body)) as server:
        server.faults = {"cut": 1.0}
        assert fetch(tmp_path, [data(server)], server.url, tries=1).reasons == {"cut-off": 1}
        assert files(tmp_path) == {".a.dat.part": body[:200_000]}
        server.faults = {}
        fetch(tmp_path, [], server.url)
        headers = server.seen[-1].headers
    assert files(tmp_path) == {"a.dat": body}
    assert server.counts()["/a"].bytes == 400_000
    assert headers["range"] == "bytes=200000-"
    assert headers["if-range"].startswith('"')


@pytest.mark.usefixtures("soon")
def test_a_length_that_promises_too_much_costs_no_second_body(tmp_path: Path) -> None:
    body = os.urandom(1000)
    with served(a=Reply(body)) as server:
        server.faults = {"long": 1.0}
        assert fetch(tmp_path, [data(server)], server.url, tries=2).faults == {"cut-off": 1}
    assert files(tmp_path) == {"a.dat": body}
    assert server.counts()["/a"].bytes == 1000


@pytest.mark.usefixtures("soon")
def test_tries_that_bring_much_do_not_count_against_a_large_file(tmp_path: Path) -> None:
    body = os.urandom(3_200_000)
    with served(a=Reply(body)) as server:
        server.faults = {"cut": 1.0}
        tally = fetch(tmp_path, [data(server)], server.url, tries=1)
    # 1.6 MB, 0.8 MB and 0.4 MB are progress, 0.2 MB are under a quarter of a megabyte.
    assert tally.reasons == {"cut-off": 1}
    assert server.counts()["/a"].requests == 4
    assert files(tmp_path) == {".a.dat.part": body[:3_000_000]}


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("change", ["content", "ranges"])
def test_what_cannot_be_resumed_begins_again(tmp_path: Path, change: str) -> None:
    old, new = os.urandom(300_000), os.urandom(300_000)
    replies = {"a": Reply(old)}
    with Standin(lambda request: replies["a"], faults={"cut": 1.0}) as server:
        fetch(tmp_path, [data(server)], server.url, tries=1)
        assert ".a.dat.part" in files(tmp_path)
        server.faults = {}
        if change == "content":
            replies["a"] = Reply(new)
        else:
            server.ranges = False
        fetch(tmp_path, [], server.url)
    assert files(tmp_path) == {"a.dat": new if change == "content" else old}


def test_a_whole_part_left_by_a_kill_is_not_asked_for_again(tmp_path: Path) -> None:
    body = os.urandom(1000)
    with served(a=Reply(body), b=Reply(body)) as server:
        with Ledger.open(tmp_path) as ledger:
            ledger.add([data(server), data(server, "b")])
            ledger.began(1, '"x"', 1000)
        (tmp_path / ".a.dat.part").write_bytes(body)
        # Killed between its rename and the ledger's row.
        (tmp_path / "b.dat").write_bytes(body)
        assert fetch(tmp_path, [], server.url).received == 2
        assert server.seen == []
    assert files(tmp_path) == {"a.dat": body, "b.dat": body}


def test_what_was_damaged_since_is_fetched_again(tmp_path: Path) -> None:
    with served(a=Reply(b"good"), b=Reply(b"good")) as server:
        fetch(tmp_path, [data(server), data(server, "b")], server.url)
        # Nothing in the content of such a table tells that it was cut.
        (tmp_path / "a.dat").write_bytes(b"goo")
        (tmp_path / "b.dat").unlink()
        assert fetch(tmp_path, [], server.url).received == 2
    assert files(tmp_path) == {"a.dat": b"good", "b.dat": b"good"}


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(tmp_path: Path, form: str) -> None:
    times = []

    def handler(request: Request) -> Reply:
        times.append(time.time())
        # A date has whole seconds: the next but one is more than one second away.
        value = "1" if form == "seconds" else formatdate(int(time.time()) + 2, usegmt=True)
        return Reply(status=429, headers={"Retry-After": value}) if len(times) == 1 else Reply(b"good")

    with Standin(handler) as server:
        assert fetch(tmp_path, [data(server)], server.url).received == 1
    ((first, second),) = pairwise(times)
    assert second - first > 0.99


@pytest.mark.usefixtures("soon")
def test_a_clock_that_is_set_back_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 1e9 - 3600.0 * next(hours))
    with served(a=[Reply(status=500), Reply(status=500), Reply(b"good")]) as server:
        with Ledger.open(tmp_path) as ledger:
            # As a run left it that was killed while it waited, by a clock that was years ahead.
            ledger.add([data(server)])
            ledger.failed(1, "http-500", "out of order", 0, due=1e12)
        began = time.monotonic()
        assert fetch(tmp_path, [], server.url).received == 1
        assert time.monotonic() - began < 10
    assert files(tmp_path) == {"a.dat": b"good"}


def test_a_server_that_sends_us_away_for_long_stops_the_run(tmp_path: Path) -> None:
    with served(a=Reply(status=503, headers={"Retry-After": "7200"})) as server:
        with pytest.raises(DataError, match=r"does not serve us now: .*503.*; what has come is kept"):
            fetch(tmp_path, [data(server)], server.url)
        with Ledger.open(tmp_path) as ledger:
            assert ledger.tally().waiting == 1


@pytest.mark.usefixtures("soon")
def test_a_server_that_is_down_stops_the_run_and_rejects_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "BOUNDS", replace(bounds.BOUNDS, patience=0.1))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DataError, match="does not serve us now"):
            fetch(tmp_path, spectra.wanted(base, range(100)), base, connections=4)
    with Ledger.open(tmp_path) as ledger:
        assert ledger.tally().waiting == 100


HOSTILE = [
    "../out.dat",
    "a/../../out.dat",
    "/usr/out.dat",
    "C:/out.dat",
    "C:out.dat",
    "\\\\host\\out.dat",
    "a\\..\\out.dat",
    "",
    ".",
    "a//b",
    "a/",
    ".a.dat.part",
    "a/.hidden/b",
    "a\0b",
    "a\nb",
    "a\u202eb",
    "x" * 251,
    "ledger.sqlite",
    "Ledger.SQLite-wal",
    "link/out.dat",
    "end",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_a_hostile_name_is_refused_in_a_line(tmp_path: Path, path: str) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    outside.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "end").symlink_to(outside / "out.dat")
    with served(a=Reply(b"bad"), b=Reply(b"good")) as server:
        wanted = [Wanted(path, f"{server.url}/a", "table"), data(server, "b")]
        tally = fetch(folder, wanted, server.url)
        asked = [request.path for request in server.seen]
    assert (tally.received, tally.rejected) == (1, 1)
    ((reason, remark),) = rejected(folder).values()
    assert reason == "unsafe-path"
    assert remark.isprintable()
    assert asked == ["/b"] or len(path) > 250
    assert not list(outside.iterdir())
    assert sorted(place.name for place in tmp_path.iterdir()) == ["in", "out"]
    assert files(folder) == {"b.dat": b"good"}


def test_a_part_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / ".a.dat.part").symlink_to(tmp_path / "out.dat")
    with served(a=Reply(b"bad")) as server:
        assert fetch(folder, [data(server)], server.url).reasons == {"unsafe-path": 1}
    assert not (tmp_path / "out.dat").exists()


def test_a_name_that_is_another_files_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.dat").mkdir()
    with served(a=Reply(b"bad")) as server:
        assert fetch(tmp_path, [data(server)], server.url).reasons == {"unsafe-path": 1}


@pytest.mark.parametrize(
    "place",
    [
        "http://localhost:{port}/a",
        "http://127.0.0.1:1/a",
        "https://127.0.0.1:{port}/a",
        "//other.example/a",
        "file:///etc/passwd",
        "http://127.0.0.1:{port}@other.example/a",
        "http://user@127.0.0.1:{port}/a",
        "http://127.0.0.1:port/a",
        "http://[bad/a",
        "http://other.example\\@127.0.0.1:{port}/a",
    ],
)
def test_a_redirect_to_another_host_is_refused_in_a_line(tmp_path: Path, place: str) -> None:
    with served(b=Reply(b"bad")) as server, served() as archive:
        port = server.url.rpartition(":")[2]
        reply = Reply(status=302, headers={"Location": place.format(port=port)})
        archive.handler = lambda request: reply
        tally = fetch(tmp_path, [data(archive)], archive.url)
        assert server.seen == []
    assert tally.reasons == {"other-host": 1}
    ((_, remark),) = rejected(tmp_path).values()
    assert "is not of this archive" in remark
    assert files(tmp_path) == {}


def test_redirects_within_the_archive_are_followed_but_not_for_ever(tmp_path: Path) -> None:
    with served(
        a=Reply(status=302, headers={"Location": "/b"}),
        b=Reply(b"good"),
        c=Reply(status=301, headers={"Location": "c"}),
    ) as server:
        tally = fetch(tmp_path, [data(server), data(server, "c")], server.url)
    assert (tally.received, tally.reasons) == (1, {"redirects": 1})
    assert files(tmp_path) == {"a.dat": b"good"}


def test_a_body_beyond_all_sense_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bounds.MOST, "table", 1000)
    with served(a=Reply(bytes(5000))) as server:
        assert fetch(tmp_path, [data(server)], server.url).reasons == {"too-large": 1}
    assert files(tmp_path) == {}


def test_no_room_on_the_disk_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    with served(a=Reply(b"good")) as server:
        with pytest.raises(StoreError, match=r"takes about 1e\+06 TB, its disk has .* left; make room"):
            fetch(tmp_path, [data(server, bytes=10**18)], server.url)
        with Ledger.open(tmp_path / "b") as ledger, Client([server.url]) as client:
            ledger.add([data(server)])
            with pytest.raises(StoreError, match="takes about"):
                download(client, ledger, typical={"table": 10**18})
        assert server.seen == []


def test_one_run_at_a_time_in_a_folder(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(StoreError, match="another download writes this folder"):
        fetch(tmp_path, [], "http://127.0.0.1:1")
    os.close(descriptor)
    assert fetch(tmp_path, [], "http://127.0.0.1:1").asked == 0


def test_a_file_may_be_the_answer_to_a_form(tmp_path: Path) -> None:
    with served(a=Reply(b"good")) as server:
        assert fetch(tmp_path, [data(server, data="ID=1&ID=2")], server.url).received == 1
        (request,) = server.seen
    assert (request.method, request.body) == ("POST", b"ID=1&ID=2")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"


def test_progress_ends_with_all_files_and_bytes(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    with (
        served(a=Reply(bytes(1_500_000)), b=Reply(status=404)) as server,
        Ledger.open(tmp_path) as ledger,
        Client([server.url]) as client,
    ):
        ledger.add([data(server), data(server, "b")])
        download(client, ledger, progress=lambda *what: told.append(what))
    assert told[-1][:2] == (2, 2)
    assert told[-1][2].startswith("1.5 MB, ")


def test_killed_and_gone_on_with_nothing_is_fetched_twice(tmp_path: Path, model: bytes) -> None:
    number = 300
    held: set[str] = set()
    before: dict[str, int] = {}
    with Standin(spectra.handler(model), latency=0.02) as server:
        for kill in (0.15, 0.3, None):
            stood = len(files(tmp_path)) if tmp_path.exists() else 0
            command = [sys.executable, "-c", CLIENT, str(tmp_path), server.url, str(number)]
            process = subprocess.Popen(command, cwd=ROOT)
            if kill:
                while len(files(tmp_path)) == stood and process.poll() is None:
                    time.sleep(0.02)
                time.sleep(kill)
                process.send_signal(signal.SIGKILL)
            process.wait()
            now = {path: count.bytes for path, count in server.counts().items()}
            sent = {path.strip("/") for path in now if now[path] > before.get(path, 0)}
            assert not sent & held
            before = now
            whole = expected(model, number)
            held = {
                path.replace("/.", "/").removesuffix(".part")
                for path, content in files(tmp_path).items()
                if content == whole[path.replace("/.", "/").removesuffix(".part")]
            }
    assert process.returncode == 0
    assert files(tmp_path) == expected(model, number)


def test_interrupted_it_ends_at_once_and_keeps_its_parts(tmp_path: Path) -> None:
    body = os.urandom(1_000_000)
    with served(a=Reply(body)) as server:
        server.faults = {"slow": 1.0}

        def interrupt() -> None:
            while not any(name.endswith(".part") for name in files(tmp_path)):
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            fetch(tmp_path, [data(server)], server.url)
        thread.join()
        (part,) = files(tmp_path)
        assert part == ".a.dat.part"
        with Ledger.open(tmp_path) as ledger:
            assert ledger.tally().waiting == 1
        server.faults = {}
        assert fetch(tmp_path, [], server.url).received == 1
    assert files(tmp_path) == {"a.dat": body}


def test_many_files_take_no_more_memory(tmp_path: Path) -> None:
    again = CLIENT.replace("import sys\n", "")
    peak = "print([line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line][0])"
    program = f"import sys\n{again}\n{peak}\nsys.argv[3] = 1200\n{again}\n{peak}"
    with Standin(spectra.handler(spectra.template(pixels=20))) as server:
        command = [sys.executable, "-c", program, str(tmp_path), server.url, "200"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    first, last = map(int, done.stdout.split())
    # A thousand files more; 4 MB for what an allocator may keep.
    assert len(files(tmp_path)) == 1200
    assert last < first + 4096
