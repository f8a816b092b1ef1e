"""Models: trees, boosting, networks and their fusion, behind one protocol."""

from skyfuse.models.base import MODELS, Arrays, History, Model, Prediction, Progress
from skyfuse.models.files import load_model
from skyfuse.models.fusion import LateFusion

__all__ = ["MODELS", "Arrays", "History", "LateFusion", "Model", "Prediction", "Progress", "load_model"]
