"""Downloads from the stand-in archive: faults, speed, kills, memory.

The client is the command line, ``skyfuse fetch sdss spectra --list``, in a process of its own, and so is the
server. Each spectrum is a mock's file with an identity and numbers of its own, so that no file under a wrong
name can pass.

- ``faults``: at each request, each of the ten faults of the stand-in with a probability of 5 %.
- ``speed``: files per second, the command's start included, against one request at a time on a new connection
  each, which is how astroquery's `SDSS.get_spectra` gets its files (each address is opened by itself); also
  with a handshake that costs one round trip more, as on any real way.
- ``kills``: one download, killed (SIGKILL) at random moments and gone on with. What lay whole on the disk at
  a kill must never be sent again; what the kill catches between network and disk has to be, and is counted.
- ``memory``: resident size of the client while it gets many small files.
- ``hostile``: servers that misbehave, each in its own way, against the bounds as they are; but for the three
  hours that a content may take and a job may run, of which a part is taken.

Example: python benchmarks/fetch.py speed --files 2000
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.fetch.standin import FAULTS, spectra
from tests.fetch.standin.hostile import meet_all
from tests.fetch.standin.server import COUNTS, options, run

from skyfuse.fetch.bounds import BOUNDS
from skyfuse.fetch.ledger import Ledger
from skyfuse.mock import write_mock

SPEED_BOUND = 15.0
MEMORY_BOUND = 300 * 2**20


@contextmanager
def served(model: Path, *arguments: str) -> Iterator[str]:
    """Serve spectra in a process of its own; yield its base URL."""
    # The arguments are this file's own.
    server = subprocess.Popen(
        [sys.executable, __file__, "serve", str(model), *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        yield server.stdout.readline().strip()
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def counts(base: str) -> dict[str, dict[str, int]]:
    with urllib.request.urlopen(base + COUNTS) as reply:  # noqa: S310 - our own server
        return json.load(reply)


def start(folder: Path, base: str, files: int) -> subprocess.Popen[bytes]:
    """Start the command that asks for a list of spectra and gets them."""
    table = folder.with_name("list.csv")
    rows = (",".join(map(str, (*spectra.identity(number), 26))) for number in range(files))
    table.write_text("\n".join(["plate,mjd,fiberid,run2d", *rows, ""]))
    program = [sys.executable, "-c", "from skyfuse.cli import main; main()", "fetch", "sdss", "spectra"]
    command = [*program, str(folder), "--list", str(table), "--archive", base]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def get(folder: Path, base: str, files: int) -> None:
    if start(folder, base, files).wait() != 0:
        raise SystemExit("the download failed")


def found(folder: Path) -> list[Path]:
    """Return the spectra in a folder, part files among them."""
    return [path for path in folder.rglob("*") if "spec-" in path.name and path.is_file()]


def sizes(pid: int) -> tuple[int, int]:
    """Return the resident size of a process now and at its greatest, bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return tuple(int(re.search(rf"{name}:\s+(\d+)", text)[1]) * 1024 for name in ("VmRSS", "VmHWM"))


def faults(model: Path, folder: Path, arguments: argparse.Namespace) -> bool:
    files = arguments.files or 5000
    with served(model, "--latency", "0.01", "--faults", "0.05", "--seed", str(arguments.seed)) as base:
        began = time.perf_counter()
        get(folder, base, files)
        spent = time.perf_counter() - began
        seen = counts(base)
    with Ledger.open(folder) as ledger:
        tally = ledger.tally()
    made = {name: sum(count["faults"].get(name, 0) for count in seen.values()) for name in FAULTS}
    had, truth = found(folder), model.read_bytes()
    equal = sum(spectra.true(path, truth) for path in had)
    print(f"{files} spectra in {spent:.0f} s, {sum(count['requests'] for count in seen.values())} requests")
    print(f"faults made: {made}")
    print(f"failed tries by the ledger: {tally.faults}")
    print(
        f"asked {tally.asked} = received {tally.received} + rejected {tally.rejected} (waiting "
        f"{tally.waiting}); {len(had)} files in the folder, {equal} equal to the truth"
    )
    return files == tally.asked == tally.received == len(had) == equal


def speed(model: Path, folder: Path, arguments: argparse.Namespace) -> bool:
    files = arguments.files or 3000
    ratios = []
    folder.mkdir()
    for handshake in ("0", "0.05"):
        with served(model, "--latency", "0.05", "--handshake", handshake) as base:
            urls = [file.url for file in spectra.wanted(base, range(200))]
            began = time.perf_counter()
            for number, url in enumerate(urls):
                with urllib.request.urlopen(url) as reply:  # noqa: S310 - our own server
                    (folder / f"{number}.fits").write_bytes(reply.read())
            one = len(urls) / (time.perf_counter() - began)
            began = time.perf_counter()
            get(folder / handshake, base, files)
            many = files / (time.perf_counter() - began)
        ratios.append(many / one)
        print(
            f"{model.stat().st_size / 1e3:.0f} kB a file, 50 ms a request, {float(handshake) * 1e3:.0f} ms "
            f"more on a new connection: one at a time {one:.1f} files/s, skyfuse {many:.0f} files/s, "
            f"{many / one:.1f} times (bound {SPEED_BOUND})",
            flush=True,
        )
    return min(ratios) >= SPEED_BOUND


def kills(model: Path, folder: Path, arguments: argparse.Namespace) -> bool:
    files = arguments.files or 5000
    chance = np.random.default_rng(arguments.seed)
    truth = model.read_bytes()
    held: set[str] = set()
    before: dict[str, dict[str, int]] = {}
    twice = 0
    with served(model, "--latency", "0.02") as base:
        for number in range(arguments.kills + 1):
            stood = len(found(folder))
            process = start(folder, base, files)
            if number < arguments.kills:
                # Every fourth dies at some moment of its start, the others once files come.
                while number % 4 and len(found(folder)) == stood and process.poll() is None:
                    time.sleep(0.05)
                time.sleep(chance.uniform(0.0, arguments.span))
                if process.poll() is not None:
                    raise SystemExit("the download ended before its last kill: ask for more --files")
                process.kill()
            process.wait()
            after = counts(base)
            sent = {
                Path(path).name
                for path, now in after.items()
                if now["bytes"] > before.get(path, {"bytes": 0})["bytes"]
            }
            twice += len(sent & held)
            had, before = found(folder), after
            held = {
                path.name.removeprefix(".").removesuffix(".part") for path in had if spectra.true(path, truth)
            }
            parts = sum(path.name.startswith(".") for path in had)
            print(f"run {number + 1}: {len(sent)} files sent; {len(held)} whole on the disk, {parts} parts")
    with Ledger.open(folder) as ledger:
        tally = ledger.tally()
    corrupt = sum(not spectra.true(path, truth) for path in had)
    again = sum(now["whole"] - 1 for now in after.values() if now["whole"] > 1)
    ratio = sum(now["bytes"] for now in after.values()) / len(truth) / files
    print(
        f"{arguments.kills} kills, {files} files: {twice} that lay whole on the disk were sent again, "
        f"{corrupt} corrupt, {files - len(had)} missing"
    )
    print(
        f"{again} bodies were read whole twice, caught between network and disk; bytes sent are {ratio:.4f} "
        "of the files'"
    )
    return twice == corrupt == 0 and files == len(had) == tally.received == tally.asked


def memory(model: Path, folder: Path, arguments: argparse.Namespace) -> bool:
    files = arguments.files or 100_000
    with served(model) as base:
        began = time.perf_counter()
        process = start(folder, base, files)
        highest, line = 0, []
        while process.poll() is None:
            now, highest = sizes(process.pid)
            line.append(now)
            time.sleep(0.5)
    spent = time.perf_counter() - began
    with Ledger.open(folder) as ledger:
        tally = ledger.tally()
    shown = ", ".join(f"{line[len(line) * tenth // 10] / 2**20:.0f}" for tenth in range(1, 10))
    print(f"{files} files of {model.stat().st_size / 1e3:.0f} kB in {spent:.0f} s, {tally.received} received")
    print(f"resident after each tenth of the time: {shown} MiB")
    print(f"greatest: {highest / 2**20:.0f} MiB (bound {MEMORY_BOUND / 2**20:.0f})")
    return highest <= MEMORY_BOUND and tally.received == files


def hostile(model: Path, folder: Path, arguments: argparse.Namespace) -> bool:
    bounds = replace(BOUNDS, content=arguments.part, job=arguments.part)
    own = {
        "query": bounds.connect + bounds.query + max(bounds.content, bounds.words),
        "job": bounds.job + bounds.connect + bounds.query,
    }
    usual = bounds.connect + bounds.file + max(bounds.content, bounds.words)
    late = 0
    for name, outcome in sorted(meet_all(folder, bounds, 1).items()):
        tally = outcome.tally
        # A try that brings much is not counted, and another follows.
        made = 1 if tally is None else max(1, sum(tally.faults.values()))
        bound = made * own.get(name.partition(":")[0], usual)
        late += outcome.spent > bound
        reasons = [] if tally is None else [*tally.faults, *(["waits"] if tally.waiting else [])]
        print(f"{name:45} {outcome.spent:7.1f} s of {bound:5.0f}  {' '.join(reasons) or outcome.told[:90]}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{late} over their bounds; greatest memory of servers and clients together {peak:.0f} MiB")
    return late == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    modes = {"faults": faults, "speed": speed, "kills": kills, "memory": memory, "hostile": hostile}
    parsers = parser.add_subparsers(dest="mode", required=True)
    for name in modes:
        mode = parsers.add_parser(name)
        mode.add_argument("--files", type=int, help="how many; by default as many as the bound names")
        mode.add_argument("--seed", type=int, default=1)
    parsers.choices["kills"].add_argument("--kills", type=int, default=20)
    parsers.choices["hostile"].add_argument(
        "--part", type=float, default=300.0, help="s that a content may take, and a job may run"
    )
    parsers.choices["kills"].add_argument(
        "--span", type=float, default=0.6, help="a kill comes within so many s"
    )
    server = parsers.add_parser("serve", help="the server by itself")
    server.add_argument("model", type=Path)
    options(server)
    arguments = parser.parse_args()
    if arguments.mode == "serve":
        run(spectra.handler(arguments.model.read_bytes()), arguments)
        return 0
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model.fits"
        if arguments.mode == "memory":
            model.write_bytes(spectra.template(pixels=20))
        else:
            write_mock(Path(name) / "sky", fields=1, objects=20, products=("spectra",))
            content = next((Path(name) / "sky").rglob("spec-*.fits")).read_bytes()
            # The mock stops before the SPZLINE that closes a real file.
            model.write_bytes(content + spectra.template()[-2 * 2880 :])
        return 0 if modes[arguments.mode](model, Path(name) / "got", arguments) else 1


if __name__ == "__main__":
    sys.exit(main())
