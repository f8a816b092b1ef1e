"""Cutouts of 64 px in five bands at five zooms with uncertainties, from a built cube, on one core.

Ours: `Cube.cutouts` at random places of the frames. Baseline, for scale: `astropy.nddata.Cutout2D` with a
position on the sky out of one open frame, value alone, one band, no zooms.

Example: python benchmarks/cutouts.py stripe.cube
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.nddata import Cutout2D

from skyfuse.cube.cutout import frame_wcs
from skyfuse.cube.layout import map_array, tile_path
from skyfuse.cube.query import Cube

BOUND = 1000.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cube", type=Path)
    parser.add_argument("--objects", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cube = Cube.open(arguments.cube)
    frames = cube.frames[cube.frames["band"] == "r"]
    random = np.random.default_rng(0)
    rows = random.integers(0, len(frames), arguments.objects)
    ra, dec = np.empty(arguments.objects), np.empty(arguments.objects)
    for i in np.unique(rows):
        frame, mine = frames.iloc[i], rows == i
        x, y = (
            random.uniform(40, frame["nx"] - 40, mine.sum()),
            random.uniform(40, frame["ny"] - 40, mine.sum()),
        )
        ra[mine], dec[mine] = frame_wcs(frame["wcs"]).wcs_pix2world(x, y, 0)
    cube.cutouts(ra[:2], dec[:2], zooms=range(5))
    best = np.inf
    for _ in range(arguments.rounds):
        started = time.perf_counter()
        cut = cube.cutouts(ra, dec, zooms=range(5))
        best = min(best, time.perf_counter() - started)
    assert np.isfinite(cut[4].value).mean() > 0.5
    frame = frames.iloc[rows[0]]
    image = map_array(tile_path(cube.path, frame["tile"]), "/frames/sdss/0/value")[frame["row"]]
    positions = SkyCoord(ra[rows == rows[0]][:50], dec[rows == rows[0]][:50], unit="deg")
    wcs = frame_wcs(frame["wcs"])
    started = time.perf_counter()
    for position in positions:
        Cutout2D(image, position, 64, wcs=wcs)
    plain = len(positions) / (time.perf_counter() - started)
    rate = arguments.objects / best
    print(
        f"{rate:.0f} objects/s in five bands and five zooms (bound {BOUND:.0f}); "
        f"Cutout2D, one band, no zooms: {plain:.0f} cutouts/s"
    )
    return 0 if rate >= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
