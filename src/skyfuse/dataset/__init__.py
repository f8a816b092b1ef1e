"""From a cube, tables, images or spectra to labelled, split arrays: funnel, frozen splits, scaling."""

from skyfuse.dataset.dataset import Dataset
from skyfuse.dataset.features import Scaler, Stretch
from skyfuse.dataset.quality import MultiObjectCheck, NanStudy
from skyfuse.dataset.select import Funnel, Step
from skyfuse.dataset.sources.arrays import Material
from skyfuse.dataset.split import Round, Split, SplitPlan
from skyfuse.dataset.wanted import Input, Wanted

__all__ = [
    "Dataset",
    "Funnel",
    "Input",
    "Material",
    "MultiObjectCheck",
    "NanStudy",
    "Round",
    "Scaler",
    "Split",
    "SplitPlan",
    "Step",
    "Stretch",
    "Wanted",
]
