"""Studies: the cells of a recipe, tuned, compared, embedded and reported.

Before any work: ``draft`` writes a first recipe, ``explain`` shows one, ``faults`` finds all that is wrong
with one, ``prepare`` makes its dataset, ``leakage`` looks for inputs that give the label away.

The work: ``run`` is the whole of it; ``tasks`` tells what is predicted, ``cells`` which fits that takes,
``feed`` what each is fitted on, ``fitting`` fits one, ``tune`` searches its parameters, ``predictions`` are
kept.

The outcome: ``metrics`` scores, ``compare`` compares, ``embed`` draws the inputs in two dimensions,
``results`` collects and ``report`` shows. ``predict`` takes a model to new data; ``check`` and ``describe``
look at any folder.
"""

from skyfuse.study.report import write_report
from skyfuse.study.results import StudyResult
from skyfuse.study.run import Study

__all__ = ["Study", "StudyResult", "write_report"]
