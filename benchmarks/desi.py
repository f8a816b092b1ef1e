"""DESI coadds of many targets: spectra a second on one core, and the memory that they take.

Simulated coadds with all that real ones hold (three arms, masks, resolution matrices) and their redshifts
are written. A process of its own reads each of them, target by target, onto the five zooms of the grid
``desi``; its processor time (opening, checking and hashing the whole file counted) and its peak memory are
told.

Example: python benchmarks/desi.py --targets 1000 4000
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from astropy.io import fits

from skyfuse.cube.grid import DESI
from skyfuse.cube.pyramid import spectrum_levels
from skyfuse.survey.desi import CoaddReader
from skyfuse.survey.reader import Options, SurveyFile

ARMS = {"B": (3600.0, 2751), "R": (5760.0, 2326), "Z": (7520.0, 2881)}


def write(folder: Path, count: int) -> Path:
    """Write a coadd whose fluxes say which target they are of."""
    random = np.random.default_rng(count)
    targets = 39_000_000_000_000_000 + np.arange(count)
    fibermap = [
        fits.Column("TARGETID", "K", array=targets),
        fits.Column("COADD_FIBERSTATUS", "J", array=np.zeros(count)),
        fits.Column("TARGET_RA", "D", array=random.uniform(150, 151, count)),
        fits.Column("TARGET_DEC", "D", array=random.uniform(2, 3, count)),
        fits.Column("OBJTYPE", "3A", array=np.full(count, "TGT")),
        fits.Column("FILL", "300B", array=np.zeros((count, 300))),
    ]
    exposures = [
        fits.Column("TARGETID", "K", array=np.repeat(targets, 4)),
        fits.Column("MJD", "D", array=np.full(4 * count, 59301.5)),
    ]
    redshifts = [
        fits.Column("TARGETID", "K", array=targets[::-1]),
        fits.Column("Z", "D", array=random.uniform(0, 2, count)),
        fits.Column("ZERR", "D", array=np.full(count, 1e-5)),
        fits.Column("ZWARN", "K", array=np.zeros(count)),
        fits.Column("SPECTYPE", "6A", array=np.full(count, "GALAXY")),
        fits.Column("SUBTYPE", "20A", array=np.full(count, "")),
    ]
    path = folder / f"coadd-main-dark-{count}.fits"
    primary = fits.PrimaryHDU()
    primary.header.update(SPGRP="healpix", SURVEY="main", PROGRAM="dark")
    primary.writeto(path)
    with fits.open(path, mode="append") as hdus:
        hdus.append(fits.BinTableHDU.from_columns(fibermap, name="FIBERMAP"))
        hdus.append(fits.BinTableHDU.from_columns(exposures, name="EXP_FIBERMAP"))
    for arm, (first, bins) in ARMS.items():
        shape = (count, bins)
        flux = (np.arange(count)[:, None] + random.normal(0, 0.1, shape)).astype(np.float32)
        parts = {
            "WAVELENGTH": first + 0.8 * np.arange(bins),
            "FLUX": flux,
            "IVAR": np.full(shape, 100, np.float32),
            "MASK": np.zeros(shape, np.int32),
            "RESOLUTION": np.ones((count, 11, bins), np.float32),
        }
        for part, array in parts.items():
            hdu = fits.ImageHDU(array, name=f"{arm}_{part}")
            hdu.add_checksum()
            with fits.open(path, mode="append") as hdus:
                hdus.append(hdu)
    table = fits.BinTableHDU.from_columns(redshifts, name="REDSHIFTS")
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(folder / f"redrock-main-dark-{count}.fits")
    return path


def measure(path: Path) -> None:
    """Read all targets of a coadd; print their number, seconds of processor time and MiB of peak memory."""
    reader = CoaddReader()

    def levels(key: str) -> float:
        return float(np.nanmean(spectrum_levels(reader.read(path, key, Options()), DESI)[4].value))

    # What is compiled and imported once is not told. Touched, the file is opened, checked and hashed again.
    levels("39000000000000000")
    path.touch()
    started = time.process_time()
    file = SurveyFile(path)
    assert reader.recognises(file)
    found = reader.records(file)
    means = [levels(info.key) for info in found]
    seconds = time.process_time() - started
    assert np.abs(means - np.arange(len(found))).max() < 0.1
    # What getrusage tells would begin with the memory of the process that started this one.
    status = Path("/proc/self/status").read_text()
    print(len(found), seconds, int(status.split("VmHWM:")[1].split()[0]) / 1024)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        measure(arguments.read)
        return 0
    slow, peaks = False, []
    for count in arguments.targets:
        with tempfile.TemporaryDirectory() as name:
            path = write(Path(name), count)
            size = path.stat().st_size / 2**20
            run = [sys.executable, __file__, "--read", str(path)]
            told = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()
        seconds, peak = float(told[1]), float(told[2])
        peaks.append(peak)
        slow |= count / seconds < 500
        print(
            f"{count} targets ({size:.0f} MiB): {count / seconds:.0f} spectra/s of processor time "
            f"(bound 500), peak {peak:.0f} MiB"
        )
    return int(slow or max(peaks) > 1.1 * min(peaks))


if __name__ == "__main__":
    sys.exit(main())
