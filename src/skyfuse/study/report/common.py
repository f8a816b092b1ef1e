"""What every figure of a report shares: style, colours, names, numbers as printed."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from skyfuse.models.registry import MODELS
from skyfuse.study.metrics import LABELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FUSION_NAMES = {
    "early": "early fusion",
    "late-mean": "late fusion, mean",
    "late-weighted": "late fusion, weighted",
}
COST_NAMES = {"train_seconds": "training (s)", "inference_seconds": "inference (s)"}
"""What authors state beside scores."""
METHOD_NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
PARAMETER_NAMES = {"max_depth": "depth", "learning_rate": "learning rate"}

PALETTE = (
    # Okabe & Ito (2008): told apart by all common kinds of colour vision.
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#444444",
    # Where seven do not suffice: nine of a search that made the least distance of any two of the sixteen in
    # OKLab (Ottosson 2020) as large as it is among the seven, to the normal eye and in the simulations of
    # Machado, Oliveira & Fernandes (2009) of its three deficiencies.
    "#770000",
    "#8877EE",
    "#116622",
    "#772299",
    "#002277",
    "#995566",
    "#441144",
    # The two palest, for classes beyond the fourteen of Galaxy Zoo.
    "#AADD77",
    "#DDBBBB",
)
FIXED_COLOURS = {"tree": "#D55E00", "lightgbm": "#0072B2", "vggnet12": "#009E73"}
PART_COLOURS = {"train": "#666666", "valid": "#E69F00", "calibration": "#CC79A7", "test": "#0072B2"}
MARKERS = {"image": "s", "spectrum": "^", "table": "P", "early": "o", "late-mean": "D", "late-weighted": "v"}
INK = "#222222"
_DASHES = ("-", "--", ":")
_DPI = 150
"""Of what is drawn as pixels: clouds of points."""
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    # Names inside the SVG would otherwise be random, and the file would differ from run to run.
    "svg.hashsalt": "skyfuse",
}


@dataclass(frozen=True)
class Drawn:
    """A figure with its place on the page.

    Attributes
    ----------
    name : str
        Place: names with a colon (``gallery:Sa``) belong to the group before it.
    figure : Figure
    alt : str
        What the figure shows, for readers who cannot see it.
    caption : str
        Text below it.
    """

    name: str
    figure: Figure
    alt: str
    caption: str

    @property
    def uri(self) -> str:
        """The figure as SVG in a data URI."""
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        buffer = io.BytesIO()
        self.figure.set_dpi(_DPI)
        # savefig would draw everything twice: once to lay it out, once more to write it.
        canvas: Any = FigureCanvasSVG(self.figure)
        canvas.print_svg(buffer, metadata={"Date": None})
        return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of the report."""
    # Matplotlib takes half a second to import; whoever only reads results does not pay for it.
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        yield


def new(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Return a figure of some inches and its axes, shape (rows, columns)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def wrapped(n: int, columns: int, *, width: float, height: float, **options: Any) -> tuple[Figure, list[Any]]:
    """Return a figure and n axes in rows of at most `columns`, each panel of some inches."""
    columns = min(n, columns)
    rows = -(-n // columns)
    figure, axes = new(width * columns, height * rows + 0.3, rows, columns, **options)
    for axis in axes.flat[n:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:n])


def colour(i: int) -> str:
    """Return the i-th colour of the palette, from its start again after the last."""
    return PALETTE[i % len(PALETTE)]


def dashes(i: int) -> str:
    """Return the line style that tells lines of one colour apart."""
    return _DASHES[i // len(PALETTE) % len(_DASHES)]


def shade(i: int, n: int) -> Any:
    """Return the i-th of n ordered colours."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.1 + 0.75 * i / max(n - 1, 1))


def marker(fusion: str) -> str:
    """Return the marker of an input."""
    if fusion in MARKERS:
        return MARKERS[fusion]
    return "pdh<>X*8"[sum(fusion.encode()) % 8]


def unique_labels(axis: Axes) -> tuple[list[Any], list[str]]:
    """Return the handles and labels of a legend, each label once."""
    handles, labels = axis.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    return list(named.values()), list(named)


def whiskers(value: ArrayLike, low: ArrayLike, high: ArrayLike) -> NDArray[np.float64]:
    """Return the lengths of error bars, shape (2, n), from the ends of intervals; 0 where there is none."""
    middle = np.atleast_1d(np.asarray(value, dtype=np.float64))
    ends = [np.atleast_1d(np.asarray(end, dtype=np.float64)) for end in (low, high)]
    return np.nan_to_num(np.abs([middle - ends[0], ends[1] - middle]))


def bins_for(n: int) -> int:
    """Return a number of histogram bins for n objects that shows shape rather than noise."""
    return int(np.clip(2 * n ** (1 / 3) + 2, 8, 60))


def model_name(model: str) -> str:
    """Return a model's name as the report prints it."""
    return (MODELS[model].title or model) if model in MODELS else model


def fusion_name(fusion: str) -> str:
    """Return how an input is called in the report."""
    return FUSION_NAMES.get(fusion, fusion)


def metric_name(metric: str) -> str:
    """Return a score's name as the report prints it."""
    return LABELS.get(metric) or COST_NAMES.get(metric, metric)


def parameter_name(name: str) -> str:
    """Return a parameter's name as the report prints it."""
    return PARAMETER_NAMES.get(name, name.replace("_", " "))


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries, with None for text that is missing."""
    whole = table.copy()
    for name in whole:
        if not pd.api.types.is_numeric_dtype(whole[name]):
            whole[name] = whole[name].astype(object).where(whole[name].notna(), None)
    rows: list[Any] = whole.to_dict("records")
    return rows


def rows_of(table: pd.DataFrame) -> Iterator[Any]:
    """Yield the rows of a table with its columns as attributes."""
    return iter(table.itertuples())


def number(value: Any, digits: int = 3) -> str:
    """Return a number as printed, a dash where there is none."""
    if value is None or pd.isna(value):
        return "–"
    text = f"{float(value):.{digits}f}"
    if float(text) == 0 and value != 0:
        # A bias of 2e-5 is not 0.
        text = f"{float(value):.1e}"
    return text.replace("-", "\N{MINUS SIGN}")


def figure(value: Any) -> str:
    """Return a score as printed: three decimals, and more where the score is small, as of good redshifts."""
    small = value is not None and not pd.isna(value) and abs(value) < 0.05
    return number(value, 3 if not small or abs(value) < 1e-12 else 4 if abs(value) >= 0.005 else 5)


def signed(value: Any, digits: int = 3) -> str:
    """Return a number with its sign."""
    text = number(value, digits)
    return text if text.startswith(("\N{MINUS SIGN}", "–")) else f"+{text}"


def percent(value: Any, digits: int = 1) -> str:
    """Return a share in percent."""
    return "–" if value is None or pd.isna(value) else f"{number(100 * float(value), digits)} %"


def crossing(facts: dict[str, Any], level: float) -> str:
    """Return what is to be said of intervals where a column tells test from calibration objects.

    Parameters
    ----------
    facts : dict
        See `skyfuse.study.report.folder.Folder.crossing`.
    level : float
        Nominal coverage.
    """
    ends = f"{percent(facts['lowest'])} to {percent(facts['highest'])}"
    chance = (
        f"than chance allows with {facts['n_calibration']:,} calibration and {facts['n_test']:,} test objects"
    )
    found = (
        f"Here it is {ends}, for {facts['off']} of {facts['cells']} cells farther from {percent(level, 0)} "
        f"{chance}: the two are not exchangeable, and what these models state must be calibrated on objects "
        "of the other kind before it is trusted there."
        if facts["off"]
        else f"Here it is {ends}, no farther from {percent(level, 0)} {chance}."
    )
    return (
        f"The column {facts['column']} parts the objects: {facts['calibration']} calibrate, {facts['test']} "
        "are tested. Conformal prediction promises its coverage for test objects that are exchangeable with "
        "the calibration objects, as random draws from one survey are (Vovk, Gammerman & Shafer 2005, "
        f"chapter 2); from one survey to another it promises nothing. {found}"
    )


def seconds(value: Any) -> str:
    """Return a time with its unit."""
    if value is None or pd.isna(value):
        return "–"
    if value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.1f} s" if value < 100 else f"{value / 60:.1f} min"


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence lists them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
