"""From a cube to labelled, split arrays: funnel, quality figures, frozen splits, train-only scaling."""

from skyfuse.dataset.dataset import Dataset
from skyfuse.dataset.features import Scaler, Stretch
from skyfuse.dataset.quality import MultiObjectCheck, NanStudy
from skyfuse.dataset.select import Funnel, Step
from skyfuse.dataset.split import Split

__all__ = ["Dataset", "Funnel", "MultiObjectCheck", "NanStudy", "Scaler", "Split", "Step", "Stretch"]
