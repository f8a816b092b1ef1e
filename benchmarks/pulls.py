"""Acceptance: pulls of a cube of the mock sky against its truth, at every zoom of frames and spectra.

A pull is (value − truth) / σ. The truth of a zoom is the plain mean of the noise-free expectation over the
same valid native samples. A σ that is estimated from the N electrons of the very sample it belongs to is low
where the sample is low, which brings a mean pull of −0.5/√N; that is taken off (N: variance in electrons).

    python benchmarks/pulls.py --fields 6 --objects 900
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits

from skyfuse.cube.build import build
from skyfuse.cube.layout import map_array, tile_path
from skyfuse.cube.query import Cube
from skyfuse.mock import write_mock
from skyfuse.mock.images import GAIN
from skyfuse.survey.sdss.instrument import BANDS


def block_sum(array: np.ndarray, zoom: int) -> np.ndarray:
    """Sum over 2^zoom × 2^zoom blocks of the last two axes, partial blocks at the end."""
    step = 2**zoom
    pad = [(0, -size % step) for size in array.shape]
    full = np.pad(array, pad)
    return full.reshape(full.shape[0] // step, step, full.shape[1] // step, step).sum(axis=(1, 3))


def beside(valid: np.ndarray) -> np.ndarray:
    """Return where valid samples have an invalid one among their neighbours."""
    padded = np.pad(valid, 1, constant_values=True)
    near = np.zeros(valid.shape, dtype=bool)
    steps = [slice(start, start + size) for size in valid.shape[:1] for start in range(3)]
    if valid.ndim == 1:
        for rows in steps:
            near |= ~padded[rows]
    else:
        columns = [slice(start, start + valid.shape[1]) for start in range(3)]
        for rows in steps:
            for cols in columns:
                near |= ~padded[rows, cols]
    return near & valid


def frame_pulls(
    cube: Cube, truth: Path, calib: dict[str, float], zooms: int
) -> Iterator[tuple[str, int, str, np.ndarray, np.ndarray]]:
    """Yield band, zoom, region, pulls, and the mean that the electrons' own σ brings."""
    for row in cube.frames.itertuples():
        name = f"frame-{row.band}-{row.run:06d}-{row.camcol}-{row.field:04d}.npy"
        expected = np.load(truth / name).astype(np.float64)
        file = tile_path(cube.path, row.tile)
        native = map_array(file, "/frames/sdss/0/value")[row.row][: row.ny, : row.nx]
        valid = np.isfinite(native)
        scale = (
            calib[name.removesuffix(".npy")] / GAIN[row.camcol][BANDS.index(row.band)]
        )  # nanomaggies an electron
        count = {z: block_sum(valid.astype(np.float64), z) for z in range(zooms)}
        for z in range(zooms):
            value, sigma = (
                map_array(file, f"/frames/sdss/{z}/{part}")[row.row].astype(np.float64)[
                    : count[z].shape[0], : count[z].shape[1]
                ]
                for part in ("value", "sigma")
            )
            n = count[z]
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = block_sum(np.where(valid, expected, 0), z) / n
                pull = (value - mean) / sigma
                own = -0.5 * scale / (n * sigma)
                # The source's electrons against the variance of an empty pixel, in electrons too.
                share = mean / scale / (row.sky_sigma / scale) ** 2
            good = np.isfinite(pull)
            near = beside(valid) if z == 0 else (n > 0) & (n < 4**z)
            for region, where in (("sky", share < 0.02), ("source", share > 0.5), ("beside masked", near)):
                chosen = good & where
                yield row.band, z, region, pull[chosen], own[chosen]


def spectrum_pulls(
    cube: Cube, truth: Path, first: dict[str, int], zooms: int
) -> Iterator[tuple[int, str, np.ndarray]]:
    """Yield zoom, region and pulls; a spectrum's σ is the expected one, so nothing is taken off."""
    for row in cube.spectra.itertuples():
        name = f"spec-{row.plate:04d}-{row.mjd}-{row.fiberid:04d}"
        expected = np.load(truth / f"{name}.npy").astype(np.float64)
        file = tile_path(cube.path, row.tile)
        native = map_array(file, "/spectra/sdss/0/value")[row.row]
        offset = 35835 - first[name]
        flux = expected[offset : offset + native.size]
        valid = np.isfinite(native)
        for z in range(zooms):
            value, sigma = (
                map_array(file, f"/spectra/sdss/{z}/{part}")[row.row].astype(np.float64)
                for part in ("value", "sigma")
            )
            n = valid.reshape(-1, 2**z).sum(axis=1)
            with np.errstate(invalid="ignore", divide="ignore"):
                pull = (value - np.where(valid, flux, 0).reshape(-1, 2**z).sum(axis=1) / n) / sigma
            good = np.isfinite(pull)
            near = beside(valid) if z == 0 else (n > 0) & (n < 2**z)
            bright = row.sn_median > 10
            yield z, "source" if bright else "faint", pull[good & ~near]
            yield z, "beside masked", pull[good & near]


def table(parts: dict[tuple[object, ...], list[tuple[np.ndarray, np.ndarray]]]) -> pd.DataFrame:
    """Mean and standard deviation for each key."""
    rows = []
    for key, chunks in parts.items():
        pull = np.concatenate([chunk[0] for chunk in chunks])
        own = np.concatenate([chunk[1] for chunk in chunks])
        if pull.size < 2:
            continue
        rows.append(
            {
                "what": key[0], "zoom": key[1], "region": key[2], "n": pull.size, "std": pull.std(),
                "std_error": 1 / np.sqrt(2 * pull.size), "mean": (pull - own).mean(),
                "mean_error": 1 / np.sqrt(pull.size),
            }
        )  # fmt: skip
    return pd.DataFrame(rows).sort_values(["what", "region", "zoom"], ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fields", type=int, default=6)
    parser.add_argument("--objects", type=int, default=900)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        sky, out = Path(work) / "sky", Path(work) / "sky.cube"
        write_mock(sky, fields=options.fields, objects=options.objects, seed=options.seed, expected=True)
        build([sky / "photoObj", sky / "spectro"], out)
        cube = Cube.open(out)
        calib = {file.stem: float(fits.getdata(file, 1).mean()) for file in sky.rglob("frame-*.fits")}
        first = {file.stem: round(fits.getheader(file)["COEFF0"] * 1e4) for file in sky.rglob("spec-*.fits")}
        parts: dict[tuple[object, ...], list[tuple[np.ndarray, np.ndarray]]] = {}
        for band, zoom, region, pull, own in frame_pulls(cube, sky / "expected", calib, cube.imaging().zooms):
            for name in (f"frames {band}", "frames"):
                parts.setdefault((name, zoom, region), []).append((pull, own))
        for zoom, region, pull in spectrum_pulls(cube, sky / "expected", first, cube.imaging().zooms):
            parts.setdefault(("spectra", zoom, region), []).append((pull, np.zeros_like(pull)))
    result = table(parts)
    print(result.to_string(index=False, float_format="%.4f"))
    std_off, mean_off = (result["std"] - 1).abs() - 0.02, result["mean"].abs() - 0.02
    outside = (std_off > 0) | (mean_off > 0)
    # A row of few samples strays by its own error: it can neither meet the bound nor break it.
    broken = (std_off > 3 * result["std_error"]) | (mean_off > 3 * result["mean_error"])
    print("\nbound: std 1 ± 0.02, mean ± 0.02")
    for title, where in (
        ("outside, beyond 3 standard errors", broken),
        ("outside, but within 3 standard errors: take more fields", outside & ~broken),
    ):
        print(f"{title}:", "none" if not where.any() else "\n" + result[where].to_string(index=False))


if __name__ == "__main__":
    main()
