"""Figure of the docs: one real object, 4238-55455-0037, in five bands and as a spectrum, at every zoom.

python docs/real_object.py ../shared/data docs/images/4238-55455-0037.png
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from skyfuse.cube.build import build
from skyfuse.cube.query import Cube
from skyfuse.survey.sdss.instrument import BANDS


def main(data: Path, output: Path) -> None:
    """Build the real fields and draw the object."""
    with tempfile.TemporaryDirectory() as work:
        build([data / "sdss_frames", data / "sdss_spectra"], Path(work) / "real.cube")
        cube = Cube.open(Path(work) / "real.cube")
        objects = cube.objects
        row = int(np.flatnonzero((objects["plate"] == 4238) & (objects["fiberid"] == 37))[0])
        this = objects.iloc[row]

        figure = plt.figure(figsize=(11, 14), layout="constrained")
        upper, lower = figure.subfigures(2, 1, height_ratios=(3, 2))
        grid = upper.subplots(cube.imaging().zooms, len(BANDS))
        for zoom in range(cube.imaging().zooms):
            samples = cube.gather("image", zoom, [row])
            for number, band in enumerate(BANDS):
                axes = grid[zoom, number]
                value, sigma = samples.value[0, number], samples.sigma[0, number]
                off = float(np.mean(samples.coverage[0, number] == 0))
                axes.imshow(value / np.nanmedian(sigma), origin="lower", cmap="viridis", vmin=-2, vmax=12)
                axes.set_facecolor("0.85")
                axes.set(xticks=[], yticks=[])
                axes.set_title(f"{band}, zoom {zoom}" + (f" ({off:.0%} off)" if off else ""), fontsize=9)
        upper.suptitle(
            f"{this['spectrum_id']}, z = {this['z']:.4f}: signal-to-noise at each zoom; grey: off the frame",
            fontsize=11,
        )
        rows = lower.subplots(cube.imaging().zooms, 1, sharex=True)
        for zoom, axes in enumerate(rows):
            samples = cube.gather("spectrum", zoom, [row])
            wavelength, value, sigma = (
                cube.spectroscopy().grid.centres(zoom),
                samples.value[0],
                samples.sigma[0],
            )
            axes.fill_between(
                wavelength, value - sigma, value + sigma, color="tab:blue", alpha=0.35, lw=0, label="± σ"
            )
            axes.plot(wavelength, value, color="black", lw=0.5)
            low, high = np.nanpercentile(value, [0.5, 99.5])
            axes.set_ylim(low - 0.3 * (high - low), high + 0.3 * (high - low))
            axes.set_title(f"zoom {zoom}: {len(value)} bins", fontsize=9, loc="left", pad=2)
        rows[0].legend(loc="upper right", frameon=False, fontsize=8)
        rows[-1].set_xlabel("vacuum wavelength (Å)")
        lower.supylabel("flux (1e-17 erg/s/cm²/Å)", fontsize=10)
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
