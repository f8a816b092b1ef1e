"""Worker processes do not run the caller's script again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from skyfuse.cube.query import Cube

SCRIPT = """
import sys
import skyfuse as sf
print("begun", flush=True)
sf.build([sys.argv[1]], sys.argv[2], workers=2)
"""


def test_a_script_without_a_main_guard_builds_once(small_sky: Path, tmp_path: Path) -> None:
    script = tmp_path / "way.py"
    script.write_text(SCRIPT)
    out = tmp_path / "a.cube"
    done = subprocess.run(
        [sys.executable, str(script), str(small_sky), str(out)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "begun\n", "")
    assert len(Cube.open(out).objects) == 60
