"""Cross-match: a million with a million rows in memory, and HATS catalogues partition by partition.

``pairs``: positions over the whole sky, a tenth of them crowded at the poles, on the meridian 0 and on
borders of HEALPix cells; B is A moved by 0.4″ in each direction, shuffled. Ours and
`astropy.coordinates.search_around_sky` take turns on one core, the best round of each counts, and all their
pairs must be equal. Brute force (all of B for a sample of A, half of it from the crowded places) must give
the same pairs too. For scale: the unbalanced k-d tree of scipy, and the floor, which is to sort both
catalogues once by one number and to put their positions in that order.

``hats``: catalogues of two sizes, one four times the other, in partitions of at most 25,000 rows, are
matched in a process each. The pairs must be those of the match in memory, of the smaller ones also those of
LSDB's own cross-match with a margin; memory is the greatest resident size.

Example: python benchmarks/match.py pairs
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from astropy import units
from astropy.coordinates import SkyCoord, search_around_sky
from cdshealpix.nested import vertices
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skyfuse.cube.grid import healpix29
from skyfuse.dataset.groups import chord, unit_vectors
from skyfuse.dataset.match import MODES, find_pairs, match
from skyfuse.dataset.match_files import match_files

RADIUS = 1.0
SIGMA = 0.4
PART = 25_000
PAYLOAD = 20
MEMORY_BOUND = 1.2

Positions = tuple[NDArray[np.float64], NDArray[np.float64]]


def move(
    ra: NDArray[np.float64], dec: NDArray[np.float64], sigma: float, random: np.random.Generator
) -> Positions:
    """Move positions by a normal deviate (arcsec) in two directions, across the poles too."""
    v = unit_vectors(ra, dec)
    v += random.normal(0, np.radians(sigma / 3600), v.shape)
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    return np.degrees(np.arctan2(v[:, 1], v[:, 0])) % 360, np.degrees(
        np.arctan2(v[:, 2], np.hypot(v[:, 0], v[:, 1]))
    )


def sky(n: int, random: np.random.Generator) -> tuple[Positions, Positions, NDArray[np.int64]]:
    """Return A, B, and the rows of A that lie where positions are nasty."""
    ra, dec = random.uniform(0, 360, n), np.degrees(np.arcsin(random.uniform(-1, 1, n)))
    odd = np.arange(n // 10)
    kind = odd % 4
    lon, lat = (side.deg.ravel() for side in vertices(np.arange(12 * 4**3, dtype=np.uint64), 3, 8))
    at = random.integers(0, len(lon), len(odd))
    ra[odd] = np.choose(kind, [random.uniform(0, 360, len(odd)), np.zeros(len(odd)), lon[at], lon[at]])
    pole = np.where(random.uniform(size=len(odd)) < 0.5, 90.0, -90.0)
    dec[odd] = np.choose(kind, [pole, dec[odd], lat[at], lat[at]])
    ra[odd], dec[odd] = move(ra[odd], dec[odd], 20.0, random)
    moved = move(ra, dec, SIGMA, random)
    order = random.permutation(n)
    return (ra, dec), (moved[0][order], moved[1][order]), odd


def best(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the least time (s) of each, taken in turns."""
    times = dict.fromkeys(work, np.inf)
    for _ in range(rounds):
        for name, call in work.items():
            started = time.perf_counter()
            call()
            times[name] = min(times[name], time.perf_counter() - started)
    return times


def pairs(rows: int, sample: int, rounds: int) -> bool:
    random = np.random.default_rng(0)
    a, b, odd = sky(rows, random)
    find_pairs(a[0][:10], a[1][:10], b[0][:10], b[1][:10], RADIUS)
    coordinates = [SkyCoord(*side, unit="deg") for side in (a, b)]

    def tree() -> object:
        trees = [cKDTree(unit_vectors(*side), balanced_tree=False, compact_nodes=False) for side in (a, b)]
        return trees[0].sparse_distance_matrix(trees[1], chord(RADIUS), output_type="ndarray")

    def floor() -> object:
        return [(ra[order], dec[order]) for ra, dec in (a, b) for order in (np.argsort(ra),)]

    times = best(
        {
            "ours": lambda: find_pairs(*a, *b, RADIUS),
            "search_around_sky": lambda: search_around_sky(*coordinates, RADIUS * units.arcsec),
            "k-d tree": tree,
            "floor": floor,
        },
        rounds,
    )
    found = find_pairs(*a, *b, RADIUS)
    theirs = search_around_sky(*coordinates, RADIUS * units.arcsec)
    order = np.lexsort((found.b, found.a))
    other = np.lexsort((theirs[1], theirs[0]))
    equal = np.array_equal(found.a[order], theirs[0][other]) and np.array_equal(
        found.b[order], theirs[1][other]
    )
    chosen = np.concatenate(
        [
            random.choice(odd, sample // 2, replace=False),
            random.choice(np.arange(len(odd), rows), sample // 2, False),
        ]
    )
    vectors, mine = unit_vectors(*b), unit_vectors(*a)[chosen]
    expected = {
        (int(row), int(hit))
        for row, one in zip(chosen, mine, strict=True)
        for hit in np.flatnonzero(((vectors - one) ** 2).sum(axis=1) <= chord(RADIUS) ** 2)
    }
    part = np.isin(found.a, chosen)
    sampled = set(zip(found.a[part].tolist(), found.b[part].tolist(), strict=True))
    print(
        f"{rows:,} × {rows:,} rows, {RADIUS:g}″: {len(found):,} pairs; "
        f"all equal to search_around_sky's: {equal}; brute force on {len(chosen):,} rows: "
        f"{len(expected):,} pairs, equal: {sampled == expected}"
    )
    for name, seconds in times.items():
        print(f"  {name:<20}{seconds:6.2f} s   {seconds / times['ours']:5.1f} × ours")
    return equal and sampled == expected and times["ours"] <= times["search_around_sky"]


def write_hats(folder: Path, place: Positions, name: str) -> Path:
    """Write positions with a payload as a HATS catalogue."""
    cells = healpix29(*place)
    order = np.argsort(cells, kind="stable")
    cells, ra, dec = cells[order], place[0][order], place[1][order]
    parts = [(0, pixel) for pixel in range(12)]
    lines, root = ["Norder,Npix"], folder / name
    while parts:
        level, pixel = parts.pop()
        begin, end = np.searchsorted(cells, [pixel << 2 * (29 - level), (pixel + 1) << 2 * (29 - level)])
        if end - begin > PART:
            parts += [(level + 1, 4 * pixel + k) for k in range(4)]
        elif end > begin:
            file = root / f"dataset/Norder={level}/Dir={pixel // 10000 * 10000}/Npix={pixel}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            columns = {
                "_healpix_29": cells[begin:end],
                "id": order[begin:end],
                "ra": ra[begin:end],
                "dec": dec[begin:end],
            }
            columns |= {f"{name}{k}": np.arange(begin, end) * 0.5 for k in range(PAYLOAD)}
            table = pa.table(columns)
            pq.write_table(table, file)
            lines.append(f"{level},{pixel}")
    pq.write_metadata(table.schema, root / "dataset/_common_metadata")
    (root / "partition_info.csv").write_text("\n".join(lines) + "\n")
    (root / "hats.properties").write_text(
        f"obs_collection={name}\ndataproduct_type=object\nhats_nrows={len(cells)}\nhats_col_ra=ra\nhats_col_dec=dec\n"
        "hats_col_healpix=_healpix_29\nhats_col_healpix_order=29\nhats_npix_suffix=.parquet\n"
    )
    return root


def one(folder: Path, mode: str) -> None:
    """Match the two catalogues of a folder; print the seconds and the greatest resident size (KiB)."""
    started = time.perf_counter()
    match_files(folder / "a", folder / "b", folder / f"{mode}.parquet", RADIUS, mode)
    seconds = time.perf_counter() - started
    # getrusage would count the pages of the process that started this one.
    status = Path("/proc/self/status").read_text()
    print(seconds, next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


def hats(rows: int) -> bool:
    good, peaks = True, {}
    with tempfile.TemporaryDirectory() as name:
        for n in (rows, 4 * rows):
            folder = Path(name) / str(n)
            a, b, _ = sky(n, np.random.default_rng(1))
            write_hats(folder, a, "a")
            write_hats(folder, b, "b")
            frames = [pd.DataFrame({"ra": s[0], "dec": s[1], "id": np.arange(n)}) for s in (a, b)]
            for mode in MODES:
                # The arguments are this file's own.
                done = subprocess.run(
                    [sys.executable, __file__, "one", "--folder", folder, "--mode", mode],
                    check=True, capture_output=True, text=True,
                )  # fmt: skip
                seconds, peak = map(float, done.stdout.split())
                peaks[n] = max(peaks.get(n, 0.0), peak)
                mine = pq.read_table(
                    folder / f"{mode}.parquet", columns=["id_a", "id_b", "separation"]
                ).to_pandas()
                theirs = match(*frames, RADIUS, mode).table[["id_a", "id_b", "separation"]]
                both = [t.sort_values(["id_a", "id_b"], ignore_index=True) for t in (mine, theirs)]
                equal = both[0].equals(both[1])
                good &= equal
                print(
                    f"{n:,} × {n:,} rows, {mode}: {len(mine):,} pairs, equal to memory: {equal}, "
                    f"{seconds:.1f} s, {peak / 1024:.0f} MiB"
                )
            if n == rows:
                good &= lsdb_agrees(folder, frames[1])
    more = peaks[4 * rows] / peaks[rows]
    print(f"four times the rows: {more:.2f} times the memory (bound {MEMORY_BOUND})")
    return good and more <= MEMORY_BOUND


def lsdb_agrees(folder: Path, b: pd.DataFrame) -> bool:
    with warnings.catch_warnings():
        # Deprecations inside Dask and LSDB; nothing of ours is in them.
        warnings.simplefilter("ignore")
        import lsdb

        right = lsdb.from_dataframe(b, margin_threshold=5 * RADIUS, partition_rows=10 * PART)
        left = lsdb.open_catalog(folder / "a", columns=["id", "ra", "dec"])
        theirs = left.crossmatch(right, radius_arcsec=RADIUS, suffixes=("_a", "_b")).compute(
            progress_bar=False
        )
    mine = pd.read_parquet(folder / "nearest.parquet", columns=["id_a", "id_b"])
    sets = [set(zip(t["id_a"].astype(int), t["id_b"].astype(int), strict=True)) for t in (mine, theirs)]
    print(f"  LSDB's own cross-match: {len(sets[1]):,} pairs, equal to ours (nearest): {sets[0] == sets[1]}")
    return sets[0] == sets[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["pairs", "hats", "one"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--mode", choices=MODES)
    arguments = parser.parse_args()
    if arguments.what == "one":
        one(arguments.folder, arguments.mode)
        return 0
    if arguments.what == "hats":
        return 0 if hats(arguments.rows) else 1
    return 0 if pairs(arguments.rows, arguments.sample, arguments.rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
