"""From a cube, tables, images or spectra to labelled, split arrays: funnel, frozen splits, scaling.

``open`` takes whatever the user points at, ``sources`` has a module for each kind of it, ``wanted`` what is
asked, ``content`` the rows on their way; ``make`` writes them and ``dataset`` is what they become, with
``arrays`` on disk and ``tensors`` for PyTorch.

Which rows: ``labels`` joins tables of labels, ``tables`` names and places rows, ``select`` keeps and counts
them, ``groups`` tells which may not be parted, ``split`` parts them, ``balance`` weighs classes; ``ledger``
says what became of each record, ``given`` the same of what a trained model is given.

What is measured: ``quality``, ``measured``, ``morphology``; ``features`` is what models read of all this.

Beside them, ``match`` and ``match_files`` match catalogues by position.
"""

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
