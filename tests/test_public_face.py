"""`import skyfuse` is quick, and what it offers is there."""

from __future__ import annotations

import subprocess
import sys

import skyfuse


def test_every_name_resolves_and_the_list_is_sorted():
    assert skyfuse.__all__ == sorted(skyfuse.__all__)
    for name in skyfuse.__all__:
        assert getattr(skyfuse, name).__name__ == name


def test_import_brings_in_nothing_heavy():
    code = "import sys, skyfuse, skyfuse.cli; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"astropy", "galsim", "h5py", "lightgbm", "numba", "numpy", "pandas", "torch"}
    assert not heavy & set(run.stdout.split())
