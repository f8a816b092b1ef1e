"""Write a mock sky as the surveys' own files, with its truth beside them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.coordinates import SkyCoord
from numpy.typing import NDArray

from skyfuse.disk import dumps, locked, read_json
from skyfuse.errors import StoreError, UsageError
from skyfuse.mock import (
    bound,
    catalogue,
    classes,
    desi,
    gaia,
    images,
    infrared,
    lamost,
    scene,
    sdss,
    spectra,
    truth,
    unwise,
    zoo,
)
from skyfuse.mock.files import npy_bytes, write_once
from skyfuse.mock.sky import (
    DEEP,
    DEEPEST,
    SPAWN_SKY_FIBRE,
    SPAWN_SPECTRUM,
    Field,
    Sky,
    Source,
    draw_sky,
    generator,
)
from skyfuse.mock.spectra import BANDS
from skyfuse.processes import Context
from skyfuse.words import Progress

VERSION = 2
PRODUCTS = ("frames", "spectra", "sfr", "gaia", "zoo", "lamost", "catalogue", "scene", "infrared", "desi")
DEFAULT_PRODUCTS = PRODUCTS[:3]
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
    out: Path,
    *,
    fields: int = 2,
    objects: int = 1500,
    seed: int = 7,
    products: Sequence[str] = DEFAULT_PRODUCTS,
    z_max: float = DEEP,
    shares: Sequence[float] = (0.78, 0.11, 0.11),
    templates: Path | None = None,
    expected: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
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
    out = Path(out)
    for name, value, least in (("fields", fields, 1), ("objects", objects, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise UsageError(f"{name} is {value!r}", remedy=f"give a whole number of at least {least}")
    wanted = _checked_products(products)
    if not 0.02 < z_max <= DEEPEST:
        raise UsageError(f"z_max is {z_max!r}", remedy=f"give a redshift above 0.02, and at most {DEEPEST}")
    mix = tuple(float(share) for share in shares)
    if len(mix) != 3 or min(mix) < 0 or abs(sum(mix) - 1) > 1e-9:
        raise UsageError(
            f"shares are {list(shares)}", remedy="give those of galaxies, quasars and stars, which sum to 1"
        )
    bank = None if templates is None else spectra.load_templates(Path(templates))
    of_sky = wanted != ("scene",)
    rich = wanted != DEFAULT_PRODUCTS
    sky = draw_sky(
        int(seed),
        int(fields),
        int(objects) if of_sky else 0,
        z_max=float(z_max),
        shares=(mix[0], mix[1], mix[2]),
        untargeted=bool({"frames", "infrared"} & set(wanted)),
        dress=partial(classes.dress, int(seed)) if rich else None,
    )
    with locked(out, "mock"):
        _claim(
            out,
            {
                "seed": int(seed),
                "fields": int(fields),
                "objects": int(objects),
                "products": list(wanted),
                "z_max": float(z_max),
                "shares": list(mix),
                "expected": expected,
                "templates": None if bank is None else bank.name,
            },
        )
        imaged = [name for name in ("frames", "infrared") if name in wanted]
        n_fields = fields if imaged else 0
        n_scenes = objects if "scene" in wanted else 0
        sky_fibres = max(2, objects // 160) if "spectra" in wanted else 0
        petals = desi.petals(len(sky.targets)) if "desi" in wanted else 0
        total = n_fields + petals + len(sky.targets) + sky_fibres + n_scenes
        done = 0

        def report(what: str) -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total, what)

        if workers is None:
            # Starting processes costs as much as some hundred spectra.
            workers = min(os.cpu_count() or 1, max(1, (len(sky.targets) + 100 * n_fields) // 400))
        writer = _Writer(out, sky, bank, expected, wanted, float(z_max))
        batches: list[_Batch] = []
        what = "spectra" if "spectra" in wanted else "objects"
        with _mapping(writer, workers) as mapped:
            for _ in mapped(_Writer.field, range(n_fields)):
                report(imaged[0])
            for _ in mapped(_Writer.petal, range(petals)):
                report("DESI petals")
            for batch in mapped(_Writer.targets, range(0, len(sky.targets), _CHUNK)):
                batches.append(batch)
                for _ in batch.rows:
                    report(what)
        for number in range(sky_fibres):
            writer.sky_fibre(number)
            report("spectra")
        if n_scenes:
            scene.write_scene(out, int(seed), n_scenes, partial(report, "scenes"))
        counts = {"frames": len(BANDS) * fields if "frames" in wanted else 0, "scenes": n_scenes}
        counts["infrared coadds"] = len(infrared.BANDS) * fields if "infrared" in wanted else 0
        if of_sky:
            counts |= _write_tables(out, sky, wanted, batches)
            counts["sky fibres"] = sky_fibres
            counts["DESI petals"] = petals
            if "spectra" in wanted:
                counts["spectra"] = len(sky.targets) + sky_fibres
        return MockSummary(out, {name: n for name, n in counts.items() if n}, wanted)


def _checked_products(products: Sequence[str]) -> tuple[str, ...]:
    """Return the products asked for, in their own order."""
    asked = [products] if isinstance(products, str) else list(products)
    unknown = [name for name in asked if name not in PRODUCTS]
    if unknown or not asked:
        raise UsageError(
            f"products are {asked}", remedy=f"give one or more of {', '.join(PRODUCTS)}, and nothing else"
        )
    return tuple(name for name in PRODUCTS if name in asked)


def _claim(out: Path, parameters: dict[str, Any]) -> None:
    """Mark the folder as that of this mock, or refuse it."""
    marker = out / "truth.json"
    if marker.exists():
        try:
            held = read_json(marker)
            found = held["parameters"] if held["version"] == VERSION else None
        except (StoreError, KeyError):
            found = None
        if found != parameters:
            raise UsageError(
                f"this folder holds a mock made otherwise ({found})",
                remedy="give another folder, or delete this one",
                path=out,
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(
            "the folder is not empty and holds no mock", remedy="give an empty or a new folder", path=out
        )
    text = {"version": VERSION, "parameters": parameters, "columns": truth.columns(parameters["products"])}
    write_once(marker, lambda: dumps(text).encode())


@dataclass(frozen=True, slots=True)
class _Batch:
    """What some targets give to the tables.

    Attributes
    ----------
    rows : list of dict
        Of the truth table.
    flux : ndarray, shape (n, 5)
        True fluxes, nanomaggies.
    votes : list of dict or None
        Counts of the volunteers' answers; None for what is no galaxy.
    xp : Observed or None
        Gaia spectra of the galaxies among them.
    """

    rows: list[dict[str, Any]]
    flux: NDArray[np.float64]
    votes: list[dict[str, NDArray[np.int64]] | None]
    xp: gaia.Observed | None


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes one field, or some targets, of a sky at a time, in any order and any process."""

    out: Path
    sky: Sky
    bank: spectra.Populations | None
    expected: bool
    products: tuple[str, ...]
    z_max: float

    def field(self, index: int) -> None:
        """Write the images of a field."""
        where = self.sky.fields[index]
        if "frames" in self.products:
            self._frames(where)
        if "infrared" in self.products:
            self._coadd(where)

    def _frames(self, where: Field) -> None:
        paths = [self.out / sdss.frame_path(where, band) for band in BANDS]
        extra = [self.out / "expected" / f"{path.stem}.npy" for path in paths] if self.expected else []
        if all(path.exists() for path in [*paths, *extra]):
            return
        observed = images.conditions(self.sky, where)
        for number, (conditions, light) in enumerate(
            zip(observed, images.render(self.sky, where, observed, self.bank), strict=True)
        ):
            if self.expected:
                write_once(extra[number], partial(npy_bytes, light.astype(np.float32)))
            image = images.expose(light, conditions, images.noise_generator(self.sky, where, number))
            write_once(paths[number], partial(sdss.frame_bytes, where, conditions, image))

    def _coadd(self, where: Field) -> None:
        paths = {what: self.out / path for what, path in unwise.paths(where).items()}
        extra = {band: self.out / "expected" / f"{paths[f'image{band}'].stem}.npy" for band in infrared.BANDS}
        if all(path.exists() for path in [*paths.values(), *(extra.values() if self.expected else ())]):
            return
        mask = np.zeros(unwise.SHAPE, np.int32)
        for seen in unwise.observe(self.sky, where):
            mask |= seen.mask
            if self.expected:
                write_once(extra[seen.band], partial(npy_bytes, seen.expected))
            write_once(paths[f"image{seen.band}"], partial(unwise.file_bytes, where, seen.band, seen.image))
            write_once(paths[f"ivar{seen.band}"], partial(unwise.zipped, where, seen.band, seen.ivar))
        write_once(paths["mask"], partial(unwise.zipped, where, 1, mask))

    def petal(self, number: int) -> None:
        """Write the DESI spectra of a petal, and their redshifts."""
        coadd, redrock = (self.out / path for path in desi.paths(number))
        extra = self.out / "expected" / f"{coadd.stem}.npy"
        if all(path.exists() for path in (coadd, redrock, *([extra] if self.expected else []))):
            return
        seen = desi.observe(self.sky, number, self.bank)
        if self.expected:
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

    def targets(self, first: int) -> _Batch:
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
            if "infrared" in self.products:
                w1, w2 = infrared.fluxes(seed, source).sum(axis=1)
                row |= {"flux_w1": float(w1), "flux_w2": float(w2)}
            if "desi" in self.products:
                row["targetid"] = truth.target_id(seed, source.index)
                row["desi_fibre"] = "broken" if desi.is_broken(source.index) else "good"
            if "spectra" in self.products:
                row |= self._target_spectrum(source, light)
            if "lamost" in self.products and source.kind == "STAR":
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
            if "zoo" in self.products and morphology is not None:
                make = partial(zoo.render, seed, source, flux, morphology, row["petro_r90"])
                write_once(self.out / zoo.image_path(row["objid"]), make)
        return _Batch(rows, np.array([flux.sum(axis=1) for flux in fluxes]), votes, self._gaia(sources, rows))

    def _gaia(self, sources: list[Source], rows: list[dict[str, Any]]) -> gaia.Observed | None:
        """Observe the galaxies with Gaia, and note in their rows what that can tell."""
        at = [i for i, source in enumerate(sources) if source.shape is not None]
        if "gaia" not in self.products or not at:
            return None
        xp = gaia.observe(self.sky.seed, [sources[i] for i in at], self.z_max, self.bank)
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
        if self.expected:
            extra = self.out / "expected" / f"{path.stem}.npy"
            write_once(extra, lambda: npy_bytes(seen.expected.astype(np.float32)))


def _write_tables(out: Path, sky: Sky, products: tuple[str, ...], batches: list[_Batch]) -> dict[str, int]:
    """Write the truth and what else is one file for all objects; return counts for the summary."""
    rows = pd.DataFrame([row for batch in batches for row in batch.rows])
    if "rate_variance" in rows:
        rows["attainable_sigma"] = np.sqrt(rows["label_sigma"] ** 2 + rows["rate_variance"])
    known = rows[list(truth.columns(products))]
    kinds = known["kind"].value_counts()
    counts = {
        "galaxies": int(kinds.get("GALAXY", 0)),
        "quasars": int(kinds.get("QSO", 0)),
        "stars": int(kinds.get("STAR", 0)),
    }
    votes = [count for batch in batches for count in batch.votes]
    galaxies = known[known["kind"] == "GALAXY"]
    if "sfr" in products:
        counts["rows of the SFR table"] = sdss.write_sfr_tables(out, known)
    if "gaia" in products:
        observed = [batch.xp for batch in batches if batch.xp is not None]
        flux = np.concatenate([np.zeros((0, 2 * gaia.SAMPLES), np.float32), *(xp.flux for xp in observed)])
        error = np.concatenate([np.zeros_like(flux[:0]), *(xp.error for xp in observed)])
        write_once(out / "gaia" / "xp_sampled.fits", partial(gaia.table_bytes, galaxies, flux, error))
        redshifts = galaxies[["source_id", "ra", "dec", "z"]].rename(columns={"z": "redshift"})
        _write_csv(out / "gaia" / "galaxies.csv", redshifts)
        counts["Gaia spectra"] = len(flux)
    if "zoo" in products:
        _write_csv(out / "zoo" / "votes.csv", _vote_table(galaxies, [v for v in votes if v is not None]))
        counts["colour images"] = len(galaxies)
    if "lamost" in products:
        stars = known[known["kind"] == "STAR"]
        files = [lamost.spectrum_path(int(index)).name for index in stars.index]
        labels = stars[["subclass", "ra", "dec", "z"]].assign(**{"class": "STAR"})
        labels.insert(0, "path", files)
        _write_csv(out / "lamost" / "labels.csv", labels)
        counts["LAMOST spectra"] = len(stars)
    if "catalogue" in products:
        flux_all = np.concatenate([batch.flux for batch in batches])
        table = catalogue.measure(
            sky.seed, sky.targets, flux_all, known["petro_r50"].to_numpy(), known["petro_r90"].to_numpy()
        )
        table = pd.concat(
            [known[["objid", "ra", "dec", "plate", "mjd", "fiberid", "subclass"]], table], axis=1
        )
        table["class"] = known["kind"]
        table["gz2_class"] = ["" if count is None else zoo.class_of(count) for count in votes]
        _write_csv(out / "catalogue.csv", table[list(_CATALOGUE)])
        counts["rows of the catalogue"] = len(table)
    buffer = io.BytesIO()
    known.to_parquet(buffer, index=False)
    write_once(out / "truth.parquet", buffer.getvalue)
    return counts


_CATALOGUE = (
    *("objid", "ra", "dec", *BANDS, *(f"err_{band}" for band in BANDS), "petroR50_r", "petroR90_r"),
    *("class", "subclass", "redshift", "redshift_err", "plate", "mjd", "fiberid", "gz2_class"),
)


def _vote_table(galaxies: pd.DataFrame, votes: list[dict[str, NDArray[np.int64]]]) -> pd.DataFrame:
    """Return the votes as the public table has them."""
    place = SkyCoord(galaxies["ra"].to_numpy(), galaxies["dec"].to_numpy(), unit="deg")
    head = pd.DataFrame(
        {
            "dr7objid": galaxies["objid"].to_numpy(),
            "ra": galaxies["ra"].to_numpy(),
            "dec": galaxies["dec"].to_numpy(),
            "rastring": place.ra.to_string("hour", sep=":", precision=2, pad=True),
            "decstring": place.dec.to_string("deg", sep=":", precision=1, pad=True, alwayssign=True),
            "sample": "original",
            "gz2_class": [zoo.class_of(count) for count in votes],
            "total_classifications": [int(c["t01_smooth_or_features"].sum()) for c in votes],
            "total_votes": [int(sum(v.sum() for v in c.values())) for c in votes],
        }
    )
    return pd.concat([head, pd.DataFrame([zoo.columns(count) for count in votes])], axis=1)


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    write_once(path, lambda: table.round(7).to_csv(index=False, lineterminator="\n").encode("utf-8"))


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
