"""One self-contained page: every figure and table of a study, made from the study's folder alone."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from skyfuse.checksums import replace_covered
from skyfuse.study.report import (
    classification,
    data,
    intervals,
    reconstruction,
    redshift,
    regression,
    scores,
    tuning,
)
from skyfuse.study.report.common import crossing, figure, metric_name, number, percent, seconds, signed, style
from skyfuse.study.report.folder import fitting, read_folder
from skyfuse.study.report.tables import content

if TYPE_CHECKING:
    from skyfuse.study.report.common import Drawn
    from skyfuse.study.report.folder import Folder

__all__ = ["write_report"]

_OF_KIND = {
    "regression": regression.draw,
    "classification": classification.draw,
    "reconstruction": reconstruction.draw,
}


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a study's folder, from what lies in the folder.

    Parameters
    ----------
    folder : path
        A finished study.

    Returns
    -------
    Path
        The report: one file without links to anything else.

    Raises
    ------
    StoreError
        The folder is no study, is not finished, or holds results that do not fit together.
    """
    from jinja2 import Environment, StrictUndefined

    study = read_folder(Path(folder))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": number,
        "figure": figure,
        "signed": signed,
        "seconds": seconds,
        "percent": percent,
        "metric": metric_name,
        "crossing": crossing,
    }
    source = (resources.files("skyfuse.study.report") / "report.html.j2").read_text(encoding="utf-8")
    with fitting(study.path):
        # A figure is told as text and forgotten before the next one is drawn: a study has up to fifty.
        with style():
            pictures = {
                picture.name: {"uri": picture.uri, "alt": picture.alt, "caption": picture.caption}
                for picture in _drawn(study)
            }
        page = environment.from_string(source).render(**content(study), pictures=pictures)
    replace_covered(study.path, "report.html", page.encode())
    return study.path / "report.html"


def _drawn(study: Folder) -> Iterator[Drawn]:
    yield from data.draw(study)
    yield from tuning.draw(study)
    yield from scores.draw(study)
    yield from _OF_KIND[study.kind](study)
    if study.recipe.task.redshift:
        yield from redshift.draw(study)
    yield from intervals.draw(study)
