"""Write a mock sky as the surveys' own files, with its truth beside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from skyfuse.disk import locked
from skyfuse.mock import (
    bound,
    catalogue,
    desi,
    gaia,
    images,
    infrared,
    lamost,
    scene,
    sdss,
    spectra,
    tables,
    truth,
    unwise,
    zoo,
)
from skyfuse.mock.files import npy_bytes, write_once
from skyfuse.mock.plan import IMAGED, Asked, Plan, plan_of
from skyfuse.mock.sky import SPAWN_SKY_FIBRE, SPAWN_SPECTRUM, Field, Sky, Source, generator
from skyfuse.mock.spectra import BANDS
from skyfuse.mock.tables import Batch
from skyfuse.processes import Context
from skyfuse.words import Progress

_CHUNK = 50
"""Objects that a process takes at a time."""


@dataclass(frozen=True, slots=True)
class MockSummary:
    """What was written.

    Attributes
    ----------
    path : Path
    counts : dict
        Numbers of what was written, and of targets by kind.
    products : tuple of str
    """

    path: Path
    counts: dict[str, int] = field(default_factory=dict)
    products: tuple[str, ...] = ()

    @property
    def truth(self) -> Path:
        """The truth table."""
        return self.path / "truth.parquet"

    @property
    def sfr(self) -> Path:
        """Folder of the star-formation tables."""
        return self.path / "sfr"

    def __str__(self) -> str:
        rows = [("folder", str(self.path)), *((name, f"{count:,}") for name, count in self.counts.items())]
        if self.products != ("scene",):
            rows.append(("truth", str(self.truth)))
        if "sfr" in self.products:
            rows.append(("star-formation tables", str(self.sfr)))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def write_mock(
    out: Path, *, workers: int | None = None, progress: Progress | None = None, **asked: Unpack[Asked]
) -> MockSummary:
    """Write a mock sky in the surveys' own formats, and its truth.

    Files are written whole or not at all. A run that was stopped goes on where it stopped when it is called
    with the same arguments; the bytes of each file depend on the arguments alone.

    Parameters
    ----------
    out : path
        Folder; made if it is not there.
    fields, objects : int
        Fields of five frames each, and objects with spectra.
    seed : int
        Not negative.
    products : sequence of str
        What is written, all of the same objects: ``frames``, ``spectra`` (SDSS), ``sfr`` (MPA-JHU tables),
        ``gaia`` (sampled BP/RP spectra of the galaxies), ``zoo`` (colour images and votes), ``lamost``
        (spectra of the stars), ``catalogue`` (a table of magnitudes and classes), ``infrared`` (coadds as
        unWISE's), ``desi`` (coadded spectra and redshifts as DESI's); and, of its own, ``scene`` (`objects`
        pictures with audio features). The default ones have the sky of the star-formation study; any other
        choice has every class of galaxy and star.
    z_max : float
        Largest redshift of galaxies. Up to 0.10, redshifts from 0.02 on in a shallow flux-limited sample;
        up to 0.6, those of the galaxies that Gaia sees.
    shares : sequence of three floats
        Shares of galaxies, quasars and stars among the objects.
    templates : path, optional
        Folder of SDSS pipeline eigentemplates (``spEigenGal-55740.fits`` and others): stars are drawn as
        its stars, galaxies' populations and quasars as their nearest combination of its eigenspectra.
    expected : bool
        Write the noise-free, sky-subtracted expectation of every frame and spectrum too, as
        ``expected/STEM.npy``.
    workers : int, optional
        Processes to write with; by default one for each processor, and none beside this one for a small sky.
    progress : callable, optional
        Called with (done, total, what).

    Returns
    -------
    MockSummary

    Raises
    ------
    UsageError
        An argument is out of range, a product is unknown, too many objects were asked for, templates are
        missing, or the folder holds something else, or another mock.
    StoreError
        Another process writes the folder.
    """
    out, plan = Path(out), plan_of(asked)
    bank = None if plan.templates is None else spectra.load_templates(plan.templates)
    sky = plan.draw()
    with locked(out, "mock"):
        plan.claim(out, None if bank is None else bank.name)
        writer = _Writer(out, plan, sky, bank)
        batches = _write_files(writer, workers, progress)
        counts = _counts(writer)
        if plan.of_sky:
            counts |= tables.write_tables(out, sky, plan.products, batches)
        return MockSummary(out, {name: n for name, n in counts.items() if n}, plan.products)


def _counts(writer: _Writer) -> dict[str, int]:
    """Return the numbers of files by what they hold."""
    plan = writer.plan
    return {
        "frames": plan.number(len(BANDS) * plan.fields, "frames"),
        "scenes": plan.number(plan.objects, "scene"),
        "infrared coadds": plan.number(len(infrared.BANDS) * plan.fields, "infrared"),
        "sky fibres": writer.sky_fibres,
        "DESI petals": writer.petals,
        "spectra": plan.number(len(writer.sky.targets), "spectra") + writer.sky_fibres,
    }


def _write_files(writer: _Writer, workers: int | None, progress: Progress | None) -> list[Batch]:
    """Write every file that is of some objects alone; return what these give to the tables of all."""
    plan, targets = writer.plan, len(writer.sky.targets)
    fields, scenes = plan.number(plan.fields, *IMAGED), plan.number(plan.objects, "scene")
    total = fields + writer.petals + targets + writer.sky_fibres + scenes
    done = 0

    def report(what: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, what)

    if workers is None:
        # Starting processes costs as much as some hundred spectra.
        workers = min(os.cpu_count() or 1, max(1, (targets + 100 * fields) // 400))
    batches: list[Batch] = []
    what = "spectra" if "spectra" in plan.products else "objects"
    with _mapping(writer, workers) as mapped:
        for _ in mapped(_Writer.field, range(fields)):
            report("frames" if "frames" in plan.products else "infrared coadds")
        for _ in mapped(_Writer.petal, range(writer.petals)):
            report("DESI petals")
        for batch in mapped(_Writer.targets, range(0, targets, _CHUNK)):
            batches.append(batch)
            for _ in batch.rows:
                report(what)
    for number in range(writer.sky_fibres):
        writer.sky_fibre(number)
        report("spectra")
    if scenes:
        scene.write_scene(writer.out, plan.seed, scenes, partial(report, "scenes"))
    return batches


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes one field, or some targets, of a sky at a time, in any order and any process."""

    out: Path
    plan: Plan
    sky: Sky
    bank: spectra.Populations | None

    @property
    def sky_fibres(self) -> int:
        """Number of spectra of empty sky."""
        return self.plan.number(max(2, self.plan.objects // 160), "spectra")

    @property
    def petals(self) -> int:
        """Number of petals that DESI sees the targets with."""
        return self.plan.number(desi.petals(len(self.sky.targets)), "desi")

    def field(self, index: int) -> None:
        """Write the images of a field."""
        where = self.sky.fields[index]
        if "frames" in self.plan.products:
            self._frames(where)
        if "infrared" in self.plan.products:
            self._coadd(where)

    def _frames(self, where: Field) -> None:
        paths = [self.out / sdss.frame_path(where, band) for band in BANDS]
        extra = [self.out / "expected" / f"{path.stem}.npy" for path in paths] if self.plan.expected else []
        if all(path.exists() for path in [*paths, *extra]):
            return
        observed = images.conditions(self.sky, where)
        for number, (conditions, light) in enumerate(
            zip(observed, images.render(self.sky, where, observed, self.bank), strict=True)
        ):
            if self.plan.expected:
                write_once(extra[number], partial(npy_bytes, light.astype(np.float32)))
            image = images.expose(light, conditions, images.noise_generator(self.sky, where, number))
            write_once(paths[number], partial(sdss.frame_bytes, where, conditions, image))

    def _coadd(self, where: Field) -> None:
        paths = {what: self.out / path for what, path in unwise.paths(where).items()}
        extra = {band: self.out / "expected" / f"{paths[f'image{band}'].stem}.npy" for band in infrared.BANDS}
        if all(path.exists() for path in [*paths.values(), *(extra.values() if self.plan.expected else ())]):
            return
        mask = np.zeros(unwise.SHAPE, np.int32)
        for seen in unwise.observe(self.sky, where):
            mask |= seen.mask
            if self.plan.expected:
                write_once(extra[seen.band], partial(npy_bytes, seen.expected))
            write_once(paths[f"image{seen.band}"], partial(unwise.file_bytes, where, seen.band, seen.image))
            write_once(paths[f"ivar{seen.band}"], partial(unwise.zipped, where, seen.band, seen.ivar))
        write_once(paths["mask"], partial(unwise.zipped, where, 1, mask))

    def petal(self, number: int) -> None:
        """Write the DESI spectra of a petal, and their redshifts."""
        coadd, redrock = (self.out / path for path in desi.paths(number))
        extra = self.out / "expected" / f"{coadd.stem}.npy"
        if all(path.exists() for path in (coadd, redrock, *([extra] if self.plan.expected else []))):
            return
        seen = desi.observe(self.sky, number, self.bank)
        if self.plan.expected:
            write_once(extra, partial(npy_bytes, seen.expected))
        write_once(redrock, partial(desi.redrock_bytes, seen))
        write_once(coadd, partial(desi.coadd_bytes, seen))

    def sky_fibre(self, number: int) -> None:
        """Write a spectrum of empty sky: noise about zero, and no object."""
        rng = generator(self.sky.seed, SPAWN_SKY_FIBRE, number)
        where = sdss.sky_fibre_of(number)
        field_ = self.sky.fields[int(rng.integers(len(self.sky.fields)))]
        ra, dec = field_.ra + rng.uniform(-0.07, 0.07), field_.dec + rng.uniform(-0.1, 0.1)
        seen = spectra.observe(np.zeros(spectra.N_BINS), rng)
        self._spectrum(where, ra, dec, seen, sdss.specobj(None, where, ra, dec, seen, rng))

    def targets(self, first: int) -> Batch:
        """Write the files of some targets, from one on, and return what the tables need."""
        sources = self.sky.targets[first : first + _CHUNK]
        seed = self.sky.seed
        rows, votes, fluxes, curves = [], [], [], []
        seen: list[zoo.Morphology | None] = []
        for source in sources:
            light = spectra.source_light(source, self.bank)
            flux = spectra.filter_weights() @ light.T
            seen.append(None if source.shape is None else zoo.look(seed, source, flux))
            row = truth.truth_row(seed, source, flux, seen[-1])
            if "infrared" in self.plan.products:
                w1, w2 = infrared.fluxes(seed, source).sum(axis=1)
                row |= {"flux_w1": float(w1), "flux_w2": float(w2)}
            if "desi" in self.plan.products:
                row["targetid"] = truth.target_id(seed, source.index)
                row["desi_fibre"] = "broken" if desi.is_broken(source.index) else "good"
            if "spectra" in self.plan.products:
                row |= self._target_spectrum(source, light)
            if "lamost" in self.plan.products and source.kind == "STAR":
                path = self.out / lamost.spectrum_path(source.index)
                write_once(path, partial(lamost.spectrum_bytes, seed, source, light[0]))
            curves.append(
                flux[2].sum() * catalogue.point_growth()
                if source.shape is None
                else catalogue.growth(flux[2][None], gaia.radii([source]))
            )
            rows.append(row)
            fluxes.append(flux)
        r50, r90 = catalogue.petrosian(np.concatenate(curves))
        for row, inner, outer in zip(rows, r50, r90, strict=True):
            row |= {"petro_r50": float(inner), "petro_r90": float(outer)}
        for source, row, flux, morphology in zip(sources, rows, fluxes, seen, strict=True):
            votes.append(None if morphology is None else zoo.vote(seed, source.index, morphology))
            if "zoo" in self.plan.products and morphology is not None:
                make = partial(zoo.render, seed, source, flux, morphology, row["petro_r90"])
                write_once(self.out / zoo.image_path(row["objid"]), make)
        return Batch(rows, np.array([flux.sum(axis=1) for flux in fluxes]), votes, self._gaia(sources, rows))

    def _gaia(self, sources: list[Source], rows: list[dict[str, Any]]) -> gaia.Observed | None:
        """Observe the galaxies with Gaia, and note in their rows what that can tell."""
        at = [i for i, source in enumerate(sources) if source.shape is not None]
        if "gaia" not in self.plan.products or not at:
            return None
        xp = gaia.observe(self.sky.seed, [sources[i] for i in at], self.plan.z_max, self.bank)
        for i, sigma in zip(at, xp.attainable, strict=True):
            rows[i]["attainable_z_xp"] = float(sigma)
        return xp

    def _target_spectrum(self, source: Source, light: NDArray[np.float64]) -> dict[str, float]:
        """Write a target's spectrum; return what follows from it for the truth."""
        parts = images.transforms(source, images.box_size(source))
        rng = generator(self.sky.seed, SPAWN_SPECTRUM, source.index)
        fibre_light = images.fibre_shares(parts) @ light
        seen = spectra.observe(fibre_light, rng)
        where = sdss.fibre_of(source.index)
        record = sdss.specobj(source, where, source.ra, source.dec, seen, rng)
        self._spectrum(where, source.ra, source.dec, seen, record)
        found = {"fibre_mag_r": float(22.5 - 2.5 * np.log10(spectra.filter_weights()[2] @ fibre_light))}
        if source.shape is not None:
            found["rate_variance"] = bound.rate_variance(source, light, parts, seen, self.bank)
        return found

    def _spectrum(
        self,
        where: tuple[int, int, int],
        ra: float,
        dec: float,
        seen: spectra.FibreSpectrum,
        record: NDArray[np.void],
    ) -> None:
        path = self.out / sdss.spectrum_path(*where)
        write_once(path, lambda: sdss.spectrum_bytes(seen, where, ra, dec, record))
        if self.plan.expected:
            extra = self.out / "expected" / f"{path.stem}.npy"
            write_once(extra, lambda: npy_bytes(seen.expected.astype(np.float32)))


# A worker process's writer: the sky is the same for every task, so it travels once a process.
_held: list[_Writer] = []


def _start_worker(writer: _Writer) -> None:
    _held.append(writer)


def _in_worker(task: Callable[[_Writer, int], Any], index: int) -> Any:
    return task(_held[0], index)


@contextmanager
def _mapping(writer: _Writer, workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a `map` of the writer's methods over indices: results in order, in this process or several."""
    if workers == 1:
        yield lambda task, indices: (task(writer, index) for index in indices)
        return
    with ProcessPoolExecutor(workers, Context(), initializer=_start_worker, initargs=(writer,)) as pool:
        try:
            yield lambda task, indices: pool.map(
                partial(_in_worker, task), indices, chunksize=max(1, min(16, len(indices) // (4 * workers)))
            )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
