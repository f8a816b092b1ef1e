"""Ctrl-C and SIGTERM end the program in one line, whenever they come."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SAID = {
    "mock": "skyfuse: interrupted; what is finished is kept, and the same command goes on where it stopped\n",
    "info": "skyfuse: interrupted; nothing was written; give the same command again\n",
}


def start(*words: str, folder: Path) -> subprocess.Popen[str]:
    """Start the program; it says when it listens, which is before anything heavy is loaded."""
    script = (
        "from skyfuse import stop; listen = stop.listen\n"
        "def heard():\n"
        "    listen(); print('listening', flush=True)\n"
        "stop.listen = heard\n"
        "from skyfuse.__main__ import main; main()"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", script, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "listening\n"
    return running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("wait", [0.0, 0.3])
def test_a_signal_while_modules_load_ends_in_one_line(tmp_path, number, wait):
    with start("mock", "sky", "--objects", "3000", folder=tmp_path) as running:
        time.sleep(wait)
        os.kill(running.pid, number)
        _, said = running.communicate(timeout=60)
    assert said == SAID["mock"]
    assert running.returncode == 128 + number


def test_a_stopped_mock_goes_on_to_the_same_files(tmp_path):
    words = ("mock", "sky", "--objects", "60", "--products", "spectra", "--seed", "3")
    with start(*words, folder=tmp_path) as running:
        assert running.stderr is not None
        # Lines of progress come at once though stderr is no terminal.
        assert running.stderr.readline().endswith(" spectra\n")
        running.terminate()
        said = running.stderr.readlines()
    assert said[-1] == SAID["mock"]
    assert running.returncode == 143
    with start(*words, folder=tmp_path) as running:
        out, _ = running.communicate(timeout=120)
    assert running.returncode == 0
    assert "spectra" in out


def test_what_writes_nothing_says_so(tmp_path):
    with start("info", "nowhere", folder=tmp_path) as running:
        running.terminate()
        _, said = running.communicate(timeout=60)
    assert said == SAID["info"]
