"""A small cube in memory: the attributes and the methods that a dataset takes from a cube."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skyfuse.cube.contents import CubeImaging, CubeSpectroscopy
from skyfuse.cube.grid import SpectralGrid
from skyfuse.survey.records import Samples
from skyfuse.survey.sdss.instrument import BANDS

GRID = SpectralGrid("test", (64, 32, 16), (4000.0, 8000.0))
SIZE = 16

_CARDS = "\n".join(
    [
        "CTYPE1  = 'RA---TAN'",
        "CTYPE2  = 'DEC--TAN'",
        "CRPIX1  =               1024.5",
        "CRPIX2  =                744.5",
        "CRVAL1  =                 10.0",
        "CRVAL2  =                  0.5",
        "CUNIT1  = 'deg     '",
        "CUNIT2  = 'deg     '",
        "CD1_1   =           -9.526E-05",
        "CD1_2   =            5.5E-05",
        "CD2_1   =            5.5E-05",
        "CD2_2   =            9.526E-05",
    ]
)


class MemoryCube:
    """Objects scattered over a field, each with arrays that tell its number."""

    def __init__(self, folder: Path, n: int = 60, seed: int = 0, spread: float = 0.2) -> None:
        rng = np.random.default_rng(seed)
        self.path = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cube.json").write_text(f'{{"n": {n}, "seed": {seed}}}')
        told = asdict(CubeImaging("sdss", tuple(BANDS), SIZE, 3, "nanomaggy", 0.396))
        self.instruments = {"sdss": {"image": told, "spectrum": {"grid": GRID.name}}}
        ra, dec = 10 + rng.uniform(-spread, spread, n), 0.5 + rng.uniform(-spread, spread, n)
        ids = [f"J{k:04d}" for k in range(n)]
        self.objects = pd.DataFrame(
            {
                "object_id": ids,
                "spectrum_id": [f"sdss-1-51000-{k + 1}" for k in range(n)],
                "ra": ra,
                "dec": dec,
                "plate": 1,
                "mjd": 51000,
                "fiberid": np.arange(1, n + 1),
                "survey": np.where(np.arange(n) % 3 == 0, "mock", "sdss"),
                "class": np.array(["GALAXY", "QSO", "STAR"])[np.arange(n) % 3],
                "zwarning": [4.0, np.nan] + [0.0] * (n - 2),
                "z": rng.uniform(0, 0.3, n),
                "tile": "6/1",
                "row": np.arange(n),
            }
            | {f"frame_sdss_{band}": f"f-{band}" for band in BANDS}
        )
        # The first object has a second, worse epoch.
        self.spectra = pd.concat(
            [
                self.objects.drop(columns=[f"frame_sdss_{band}" for band in BANDS]),
                pd.DataFrame(
                    {
                        "object_id": ["J0000"],
                        "spectrum_id": ["sdss-2-52000-7"],
                        "ra": ra[:1],
                        "dec": dec[:1],
                        "plate": [2],
                        "mjd": [52000],
                        "fiberid": [7],
                        "survey": ["mock"],
                        "class": ["GALAXY"],
                        "zwarning": [0.0],
                        "z": [0.1],
                        "tile": ["6/1"],
                        "row": [n],
                    }
                ),
            ],
            ignore_index=True,
        )
        self.objects["instrument"] = self.spectra["instrument"] = "sdss"
        self.frames = pd.DataFrame(
            {"frame_id": [f"f-{band}" for band in BANDS], "wcs": _CARDS, "instrument": "sdss"}
        )
        self._image = rng.normal(0, 1, (n, 5, SIZE, SIZE)).astype(np.float32)
        self._image[:, :, SIZE // 2, SIZE // 2] += 200
        self._spectrum = rng.normal(10, 1, (n + 1, GRID.sizes[0])).astype(np.float32)
        self.no_image = np.zeros(n, dtype=bool)

    def spoil(self, rows: NDArray[np.int64], bins: slice) -> None:
        """Make bins of some spectra invalid."""
        self._spectrum[rows, bins] = np.nan

    def instruments_with(self, kind: str) -> list[str]:
        return [name for name, told in self.instruments.items() if kind in told]

    def imaging(self, instrument: str | None = None) -> CubeImaging:
        return CubeImaging(**self.instruments["sdss"]["image"])

    def spectroscopy(self, instrument: str | None = None) -> CubeSpectroscopy:
        return CubeSpectroscopy("sdss", GRID, 3, "1e-17 erg s-1 cm-2 Angstrom-1", "model")

    def gather(self, kind: str, zoom: int, rows: NDArray[np.int64], instrument: str | None = None) -> Samples:
        if kind == "image":
            s = SIZE >> zoom
            value = self._image[rows].reshape(len(rows), 5, s, 1 << zoom, s, 1 << zoom).mean(axis=(3, 5))
            value[self.no_image[rows]] = np.nan
        else:
            return self.spectrum_samples(rows, zoom)
        return self._samples(value)

    def spectrum_samples(self, rows: NDArray[np.int64], zoom: int) -> Samples:
        return self._samples(self._spectrum[rows].reshape(len(rows), -1, 1 << zoom).mean(axis=2))

    @staticmethod
    def _samples(value: NDArray[np.float32]) -> Samples:
        sigma = np.where(np.isnan(value), np.nan, 1.0).astype(np.float32)
        return Samples(value, sigma, np.isfinite(value).astype(np.float16))
