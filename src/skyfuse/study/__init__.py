"""Studies: the cells of a recipe, tuned, compared, embedded and reported."""

from skyfuse.study.report import write_report
from skyfuse.study.results import StudyResult
from skyfuse.study.run import Study

__all__ = ["Study", "StudyResult", "write_report"]
