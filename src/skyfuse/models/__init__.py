"""Models: classic estimators, trees, boosting, networks, templates and their fusion, behind one protocol.

``base`` is the protocol, ``inputs`` how what it reads is called and treated, ``mirror`` what becomes of it in
a mirror, ``registry`` which models there are, ``files`` their folders. The models: ``classic`` with
``boosted`` for LightGBM's text, ``networks`` with their ``architectures``, ``polar``, ``pytorch`` and
``train``, ``autoencoder``, ``template``, ``hybrid`` of the two, ``fusion`` of several, ``rounds`` of a
cross-validation as one. What is said about a prediction: ``uncertainty``, which follows the ``difficulty`` of
objects, ``mixture`` of densities with several peaks, and ``applicability``: whether the training held the
like, as far as ``summaries`` of the inputs tell.
"""

from skyfuse.models.base import Examples, History, Model, Output, Prediction
from skyfuse.models.files import load_model
from skyfuse.models.fusion import LateFusion
from skyfuse.models.inputs import Arrays
from skyfuse.models.mixture import Mixture
from skyfuse.models.registry import MODELS, register_model
from skyfuse.models.uncertainty import Conformal, propagate
from skyfuse.words import Progress

__all__ = [
    "MODELS",
    "Arrays",
    "Conformal",
    "Examples",
    "History",
    "LateFusion",
    "Mixture",
    "Model",
    "Output",
    "Prediction",
    "Progress",
    "load_model",
    "propagate",
    "register_model",
]
