"""The command line: one thin verb for each step, the same words as the Python interface."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skyfuse import stop
from skyfuse.errors import FaultsError, SkyfuseError, UsageError
from skyfuse.fetch.commands import app as fetch
from skyfuse.recipe_commands import app as recipes
from skyfuse.survey.commands import app as instrument
from skyfuse.terminal import Json, grouped, progress_bars, say, table_path, write_table
from skyfuse.words import PRODUCTS

if TYPE_CHECKING:
    from skyfuse.cube.region import Region
    from skyfuse.study.run import Study

app = typer.Typer(
    name="skyfuse",
    help="Images, spectra and catalogues of one sky: a cube with honest uncertainties, and trained models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(fetch, name="fetch")
app.add_typer(instrument, name="instrument")
app.add_typer(recipes, name="recipe")

Templates = Annotated[
    Path | None, typer.Option(help="Folder of SDSS spEigen*.fits, for mock spectra and template fits.")
]
Fitted = Annotated[
    Path, typer.Argument(help="Folder of a saved model, or of a study: then the model that it chose.")
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="MODEL=YOURS: the table's name for a column that the model reads; may be repeated.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(help="Worker processes; by default one for each processor.", min=1, show_default=False),
]


_INTERRUPTED = 130


class Format(StrEnum):
    """Formats that an export can take."""

    FITS = "fits"
    VOTABLE = "votable"
    NUMPY = "numpy"


def main() -> None:
    """Run the command line; every failure is one line on stderr and exit code 1 or 2."""
    stop.listen()
    try:
        code = app(prog_name="skyfuse", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        # What is interrupted may fail with any error.
        code = stop.code() or _told(error)
    # Typer turns Ctrl-C into its exit code, without an exception.
    if stop.code() is not None or code == _INTERRUPTED:
        stop.end(stop.code() or _INTERRUPTED)
    stop.quiet()
    sys.exit(code if isinstance(code, int) else 0)


def _told(error: BaseException) -> int:
    """Say what is wrong, a line a fault, and return the exit code; raise what is no user's fault."""
    if isinstance(error, FaultsError):
        return max([_say(str(fault), error.exit_code) for fault in error.faults])
    if isinstance(error, SkyfuseError):
        return _say(str(error), error.exit_code)
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        verb = context.command_path if context is not None else "skyfuse"
        message = " ".join(error.format_message().split())
        if message.startswith("Usage:"):
            # A call of no verb gets the list of verbs, as it is laid out.
            sys.stderr.write(f"{error.format_message()}\n")
            return error.exit_code
        if message:
            _say(f"{message.rstrip('.')}; see '{verb} --help'", 0)
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return _INTERRUPTED
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return _say(
            f"{where}{error.strerror or error}; check the path, its permissions and the free disk space", 1
        )
    if isinstance(error, MemoryError):
        return _say("the work needs more memory than this machine has; ask for less at a time", 1)
    raise error


def _say(message: str, code: int) -> int:
    # One line whatever the message holds, so that scripts and logs can rely on it.
    sys.stderr.write(f"skyfuse: {' '.join(message.split())}\n")
    return code


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the demo's sky, cube and study go.")] = Path(
        "skyfuse-demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the sky and of the study.")] = 7,
    as_json: Json = False,
) -> None:
    """Mock sky, cube, star-formation-rate study and report, from nothing, in a few minutes.

    Example: skyfuse demo
    """
    _study(Plan("sfr", quick=True).study(seed), [], folder, None, None, as_json)


@app.command()
def mock(
    folder: Annotated[Path, typer.Argument(help="Where the survey files go.")],
    fields: Annotated[int, typer.Option(help="Number of fields, 13.5′ × 9.8′ each.", min=1)] = 2,
    products: Annotated[
        str,
        typer.Option(help=f"What is written: {','.join(PRODUCTS)}."),
    ] = "frames,spectra,sfr",
    z_max: Annotated[float, typer.Option(help="Highest redshift of the galaxies.")] = 0.1,
    objects: Annotated[int, typer.Option(help="Number of objects with a spectrum.", min=1)] = 1500,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.", min=0)] = 7,
    templates: Annotated[
        Path | None, typer.Option(help="Folder of SDSS spEigen*.fits; spectra are drawn from these.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a sky with known truth in the surveys' own formats.

    Example: skyfuse mock sky --fields 2 --objects 1500 --products spectra,gaia --seed 7
    """
    from dataclasses import asdict

    from skyfuse.mock import write_mock

    with progress_bars() as progress:
        summary = write_mock(
            folder,
            fields=fields,
            objects=objects,
            seed=seed,
            products=products.replace(",", " ").split(),
            z_max=z_max,
            templates=templates,
            progress=progress,
        )
    say(str(summary), as_json, asdict(summary))


@dataclass(frozen=True)
class Spectra:
    """How a build takes spectra."""

    grid: Annotated[
        list[str] | None,
        typer.Option(
            help="Wavelength grid: sdss, boss, desi, lamost, hiss, log:FIRST,LAST,STEP or "
            "linear:FIRST,LAST,STEP; for one instrument INSTRUMENT=GRID. By default the cube's own, in a new "
            "one each instrument's.",
            show_default=False,
        ),
    ] = None
    sigma: Annotated[
        str | None,
        typer.Option(
            help="Uncertainty of spectra: model (the instrument's noise model, where there is one) or formal "
            "(what files say alone). By default the cube's own, in a new one model.",
            show_default=False,
        ),
    ] = None


@app.command()
@grouped
def build(
    paths: Annotated[
        list[Path], typer.Argument(help="Survey files or folders, then the cube: IN... OUT.cube")
    ],
    spectra: Spectra,
    objects: Annotated[
        list[Path] | None,
        typer.Option(help="Table of positions: cut for every row, whether or not it has a spectrum."),
    ] = None,
    instrument: Annotated[
        list[str] | None,
        typer.Option(help="Description of an instrument, a YAML file or 'generic'; see skyfuse instrument."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make the cube anew of these files alone, whatever it holds.")
    ] = False,
    workers: Workers = None,
    dask: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler that runs the tile tasks.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn survey files into a cube; run again to resume. Files of a further build are added to the cube.

    Example: skyfuse build sky/ stripe.cube
    """
    from skyfuse.cube.build import Reading
    from skyfuse.cube.build import build as build_cube
    from skyfuse.plugins import register
    from skyfuse.survey.described import described

    if len(paths) < (1 if objects else 2):
        raise UsageError(
            "a build needs at least one input and the cube", remedy="call skyfuse build IN... OUT.cube"
        )
    for name in instrument or ():
        register(described(name))
    with progress_bars() as progress:
        report = build_cube(
            paths[:-1],
            paths[-1],
            grid=_grids(spectra.grid or ()),
            reading=Reading(sigma=spectra.sigma),
            objects=objects or (),
            replace=replace,
            workers=dask or workers,
            progress=progress,
        )
    say(str(report), as_json, report.to_dict())


def _grids(given: list[str] | tuple[()]) -> dict[str, str]:
    """Read ``GRID`` and ``INSTRUMENT=GRID``."""
    grids: dict[str, str] = {}
    for text in given:
        instrument, _, grid = text.rpartition("=")
        if instrument in grids:
            raise UsageError(f"--grid was given twice ({text})", remedy="give one grid for each instrument")
        grids[instrument] = grid
    return grids


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="A cube, dataset, model or study.")], as_json: Json = False
) -> None:
    """Say what a folder holds and what it was made from.

    Example: skyfuse info stripe.cube
    """
    from skyfuse.study.describe import describe

    data = describe(path)
    width = max(map(len, data)) + 2
    say("\n".join(f"{key:<{width}}{value}" for key, value in data.items()), as_json, data)


def _coordinate(text: str) -> Any:
    """Read a sky position as users write it: ``0h42m -0d30m``, ``10.5 -0.5``, ``00:42:00 -00:30:00``."""
    from astropy import units
    from astropy.coordinates import SkyCoord

    from skyfuse.sphere import numbers

    words = text.replace(",", " ").split()
    try:
        if len(words) == 2 and not any(mark in text for mark in "hdms:°"):
            ra, dec = numbers(text, 2)
            return SkyCoord(ra, dec, unit=units.deg)
        if ":" in text:
            return SkyCoord(" ".join(words), unit=(units.hourangle, units.deg))
        return SkyCoord(" ".join(words))
    except ValueError as error:
        raise UsageError(
            f"'{text}' is not a position on the sky", remedy="write '10.5 -0.5' (degrees) or '0h42m -0d30m'"
        ) from error


def _interval(text: str | None) -> tuple[float, float] | None:
    """Read ``MJD_FROM:MJD_TO``."""
    if text is None:
        return None
    try:
        start, _, end = text.partition(":")
        return float(start), float(end)
    except ValueError as error:
        raise UsageError(
            f"'{text}' is not a time interval", remedy="write MJD_FROM:MJD_TO, e.g. 53000:53100"
        ) from error


@dataclass(frozen=True)
class Images:
    """What is cut out of a cube's images."""

    zoom: Annotated[int, typer.Option(help="0 is native; each step halves both axes.")] = 0
    bands: Annotated[
        str | None, typer.Option(help="Bands, in order: gri or w1,w2; by default all.", show_default=False)
    ] = None
    time: Annotated[str | None, typer.Option(help="MJD_FROM:MJD_TO.")] = None


# A position may begin with a minus sign: what is no option is taken for it.
@app.command(context_settings={"ignore_unknown_options": True})
@grouped
def cutout(
    cube: Annotated[Path, typer.Argument(help="The cube.")],
    position: Annotated[str, typer.Argument(help="'10.5 -0.5' (degrees) or '0h42m -0d30m'.")],
    images: Images,
    output: Annotated[Path, typer.Option("--output", "-o", help="FITS file to write.")] = Path("cutout.fits"),
    size: Annotated[int, typer.Option(help="Native pixels on a side.", min=1)] = 64,
    instrument: Annotated[
        str | None, typer.Option(help="Whose images; by default the only one's.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Cut an image with its uncertainty and WCS out of a cube, to FITS.

    Example: skyfuse cutout stripe.cube "10.5 -0.5" --zoom 1 -o m31.fits
    """
    from skyfuse.cube.export import write_cutout
    from skyfuse.cube.query import Cube

    cut = Cube.open(cube).cutout(
        _coordinate(position),
        size=size,
        zoom=images.zoom,
        bands=images.bands,
        time=_interval(images.time),
        instrument=instrument,
    )
    write_cutout(cut, output)
    say(
        f"{output}: {' × '.join(map(str, cut.data.shape))} (band, y, x)",
        as_json,
        {"file": output, "shape": cut.data.shape},
    )


@dataclass(frozen=True)
class Place:
    """Which part of the sky."""

    cone: Annotated[str | None, typer.Option(help="'RA DEC RADIUS', degrees.")] = None
    box: Annotated[str | None, typer.Option(help="'RA_MIN RA_MAX DEC_MIN DEC_MAX', degrees.")] = None
    moc: Annotated[Path | None, typer.Option(help="FITS file of a MOC.")] = None

    def region(self) -> Region | None:
        """Return the one region that is given, if any is."""
        from skyfuse.cube.region import read_moc
        from skyfuse.sphere import Box, Cone

        ways = (("--cone", self.cone), ("--box", self.box), ("--moc", self.moc))
        given = [name for name, value in ways if value is not None]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} were given together", remedy="give one region")
        if self.moc is not None:
            return read_moc(self.moc)
        if self.cone is not None:
            return Cone.parse(self.cone)
        return None if self.box is None else Box.parse(self.box)


@app.command()
@grouped
def export(
    cube: Annotated[Path, typer.Argument(help="The cube.")],
    output: Annotated[Path, typer.Argument(help="Where the export goes.")],
    place: Place,
    images: Images,
    objects: Annotated[
        list[str] | None, typer.Option("--object", help="object_id or spectrum_id; may be repeated.")
    ] = None,
    fmt: Annotated[Format, typer.Option("--format", help="How to write it.")] = Format.FITS,
    as_json: Json = False,
) -> None:
    """Write objects or a region of a cube to FITS, VOTable or NumPy.

    Example: skyfuse export stripe.cube field.fits --cone "10.5 -0.5 0.1"
    """
    from skyfuse.cube.export import export as export_cube
    from skyfuse.cube.query import Cube

    written = export_cube(
        Cube.open(cube), output, region=place.region(), ids=objects, zoom=images.zoom,
        bands=images.bands, time=_interval(images.time), fmt=fmt.value,
    )  # fmt: skip
    noun = "object" if written == 1 else "objects"
    say(f"{output}: {written} {noun}", as_json, {"file": output, "objects": written})


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A cube, dataset, model or study.")], as_json: Json = False
) -> None:
    """Read every byte of a folder and say what is wrong with it.

    Example: skyfuse check stripe.cube
    """
    from skyfuse.study.check import check as check_store

    result = check_store(path)
    say(str(result), as_json, result.to_dict())
    if result.problems:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Plan:
    """Which recipe, and which of its variants."""

    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a recipe file.")]
    variant: Annotated[str | None, typer.Option(help="A variant of the recipe, e.g. for other data.")] = None
    quick: Annotated[bool, typer.Option("--quick", help="The recipe's small variant.")] = False

    def study(self, seed: int | None = None) -> Study:
        """Return the study that it describes, with another seed than its own where one is given."""
        from dataclasses import replace

        from skyfuse.study.run import Study

        found = Study.from_recipe(self.recipe, variant=self.variant, quick=self.quick)
        return found if seed is None else replace(found, recipe=found.recipe.with_seed(seed))


@app.command()
@grouped
def study(
    plan: Plan,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="A cube, a dataset, files or a folder; may be repeated; by default a mock sky is made."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the study.")] = Path(
        "skyfuse-study"
    ),
    labels: Annotated[
        Path | None, typer.Option(help="Table of labels; by default the one found among the files.")
    ] = None,
    templates: Templates = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's seed.")] = None,
    as_json: Json = False,
) -> None:
    """Run models × inputs × zooms of a recipe and write one report; run again to resume.

    Example: skyfuse study sfr --data sky/ -o sfr-study
    """
    try:
        found = plan.study(seed)
    except UsageError as error:
        from skyfuse.study import faults

        raise faults.told_with(error, plan.recipe, data or [], labels) from error
    _study(found, data or [], output, labels, templates, as_json)


def _study(
    plan: Study,
    data: list[Path],
    output: Path,
    labels: Path | None,
    templates: Path | None,
    as_json: bool,
) -> None:
    from skyfuse.disk import locked
    from skyfuse.study import faults
    from skyfuse.study.prepare import prepare

    # What can be wrong is told before the sky or the cube is made.
    faults.check(plan.recipe, sources=data, labels=labels, templates=templates)
    plan.check(output / "study", templates)
    with locked(output, "study"), progress_bars() as progress:
        dataset, truth = prepare(
            plan.recipe, output, sources=data, labels=labels, templates=templates, progress=progress
        )
        result = plan.run(
            dataset, output / "study", progress=progress, truth=truth, mock=not data, templates=templates
        )
    for note in result.notes:
        sys.stderr.write(f"skyfuse: {note}\n")
    if as_json:
        say("", as_json, result.results.to_dict(orient="records"))
    else:
        from rich.console import Console

        # A file or a pipe has no width of its own; eighty columns would cut the figures.
        Console(width=None if sys.stdout.isatty() else 110).print(result.table())
        typer.echo(f"report: {result.report}")


@app.command()
@grouped
def tune(
    plan: Plan,
    dataset: Annotated[Path, typer.Argument(help="The dataset.")],
    model: Annotated[str, typer.Option(help="Model of the recipe.")] = "lightgbm",
    fusion: Annotated[
        str, typer.Option("--input", help="One of the recipe's inputs, early, or some joined by +.")
    ] = "early",
    templates: Templates = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the trials.")] = Path(
        "skyfuse-tune"
    ),
    as_json: Json = False,
) -> None:
    """Search a model's parameters by cross-validation on the training part; run again to resume.

    Example: skyfuse tune sfr sfr-study/dataset --model lightgbm --input early
    """
    from skyfuse.dataset import Dataset

    chosen = plan.study()
    chosen.narrowed(model, fusion, templates)
    with progress_bars() as progress:
        trials = chosen.tune(
            Dataset.open(dataset),
            output,
            model=model,
            fusion=fusion,
            templates=templates,
            progress=progress,
        )
    say(trials.to_string(index=False), as_json, {"trials": trials.to_dict(orient="records")})


@app.command()
def embed(
    dataset: Annotated[Path, typer.Argument(help="The dataset.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write: .parquet or .csv.")] = Path(
        "embedding.parquet"
    ),
    method: Annotated[str, typer.Option(help="pca, tsne or umap.")] = "pca",
    name: Annotated[str, typer.Option("--input", help="One of the dataset's inputs.")] = "spectrum",
    zoom: Annotated[int, typer.Option(help="0 is native; a table has none.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the method.", min=0)] = 7,
    as_json: Json = False,
) -> None:
    """Embed the objects of a dataset in the plane.

    Example: skyfuse embed sfr-study/dataset --method umap --input spectrum --zoom 3
    """
    from skyfuse.dataset import Dataset
    from skyfuse.study.embed import embed_dataset

    output = table_path(output)
    table = embed_dataset(Dataset.open(dataset), method=method, name=name, zoom=zoom, seed=seed)
    write_table(table, output)
    say(f"{output}: {len(table)} objects", as_json, {"file": output, "objects": len(table)})


@app.command()
def predict(
    model: Fitted,
    data: Annotated[Path, typer.Argument(help="A cube, a dataset, a file or a folder of files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write: .parquet or .csv.")] = Path(
        "predictions.parquet"
    ),
    draws: Annotated[
        int, typer.Option(help="Redraw the inputs within their σ so many times; 0 does not.", min=0)
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the draws.", min=0)] = 7,
    id_column: Annotated[
        str | None,
        typer.Option(
            "--id",
            help="Column that names the rows of a table; by default those called like ids, else the first.",
        ),
    ] = None,
    columns: Columns = None,
    as_json: Json = False,
) -> None:
    """Predict with a saved model on new files: a row for every spectrum, row or image that is given.

    Example: skyfuse predict sfr-study newfield/ -o sfr.csv
    """
    from skyfuse.study.predict import ACCOUNT, summary, warnings
    from skyfuse.study.predict import predict as predict_records

    output = table_path(output)
    named = _named(columns)
    with progress_bars() as progress:
        table = predict_records(
            model, data, draws=draws, seed=seed, id_column=id_column, columns=named, progress=progress
        )
    write_table(table, output)
    facts = table.attrs[ACCOUNT]
    for line in warnings(facts):
        sys.stderr.write(f"skyfuse: {line}\n")
    say(f"{output}: {summary(facts)}", as_json, {"file": output, **facts})


@app.command()
def calibrate(
    model: Fitted,
    data: Annotated[
        Path, typer.Option("--for", help="Objects of the target, without labels: as for predict.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new model.")] = Path(
        "calibrated"
    ),
    columns: Columns = None,
    as_json: Json = False,
) -> None:
    """Weigh a model's intervals or sets for another survey, or say why none can be promised there.

    Example: skyfuse calibrate sfr-study --for newfield/ -o sfr-newfield
    """
    from skyfuse.study.calibrate import calibrate as calibrate_model
    from skyfuse.study.calibrate import summary

    with progress_bars() as progress:
        facts = calibrate_model(model, data, output, columns=_named(columns), progress=progress)
    say(f"{output}: {summary(facts)}", as_json, facts)


def _named(columns: list[str] | None) -> dict[str, str]:
    """Return the table's own names of columns by the model's, from words like u=MAG_U."""
    named = dict(text.partition("=")[::2] for text in columns or [])
    if len(named) < len(columns or []) or not all(ours and theirs for ours, theirs in named.items()):
        raise UsageError(
            f"--column {' --column '.join(columns or [])} does not name two columns each, once",
            remedy="write e.g. --column u=MAG_U",
        )
    return named


@app.command()
def match(
    a: Annotated[Path, typer.Argument(help="A table, the folder of a HATS catalogue, or a cube.")],
    b: Annotated[Path, typer.Argument(help="What A is matched with, of the same kinds.")],
    radius: Annotated[float, typer.Option(help="Greatest distance of a pair, arcsec.")] = 1.0,
    mode: Annotated[str, typer.Option(help="one-to-one, nearest (B of each A) or all.")] = "one-to-one",
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write: .parquet or .csv.")] = Path(
        "matched.parquet"
    ),
    columns_a: Annotated[
        str | None, typer.Option(help="Position columns of A, 'RA DEC'; by default their usual names.")
    ] = None,
    columns_b: Annotated[str | None, typer.Option(help="Position columns of B.")] = None,
    as_json: Json = False,
) -> None:
    """Match two catalogues by position; what became of every row is printed and kept in OUT.json.

    Example: skyfuse match sources.csv stripe.cube --radius 1 -o matched.parquet
    """
    from skyfuse.dataset.match_files import match_files

    def two(text: str | None) -> tuple[str, str] | None:
        if text is None:
            return None
        words = text.replace(",", " ").split()
        if len(words) != 2:
            raise UsageError(f"'{text}' are not two columns", remedy="write e.g. --columns-a 'RA_deg DE_deg'")
        return words[0], words[1]

    output = table_path(output)
    with progress_bars() as progress:
        result = match_files(
            a, b, output, radius, mode, columns_a=two(columns_a), columns_b=two(columns_b), progress=progress
        )
    say(f"{result}\n\n{output}: {result.pairs:,} pairs", as_json, {"file": output, **result.to_dict()})


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Folder of a study.")], as_json: Json = False) -> None:
    """Write a study's report again from its stored results.

    Example: skyfuse report sfr-study/study
    """
    from skyfuse.study.describe import study_folder
    from skyfuse.study.report import write_report

    page = write_report(study_folder(folder))
    say(str(page), as_json, {"report": page})
