"""Data and fitted models that several tests share."""

import pytest

from skyfuse.models import MODELS, Examples, LateFusion
from skyfuse.models.template import read_templates

from .sky import CLASSES, brightness, make, only
from .spectra import write_folder

QUICK = {
    "linear": {},
    "knn": {"k": 5},
    "svm": {},
    "tree": {},
    "forest": {"trees": 10},
    "lightgbm": {"max_rounds": 30},
    "vggnet12": {"width": 0.0625, "max_epochs": 3},
}
QUICK_CLASSES = {
    "logistic": {},
    "knn": {"k": 5},
    "svm": {},
    "tree": {},
    "forest": {"trees": 10},
    "lightgbm": {"max_rounds": 10},
}


@pytest.fixture(scope="session")
def parts():
    """Training, validation and test parts as (inputs, labels)."""
    return make(120, seed=1), make(40, seed=2), make(60, seed=3)


@pytest.fixture(scope="session")
def class_parts(parts):
    """The same objects, with classes of brightness instead of labels."""
    return [(x, brightness(y)) for x, y in parts]


@pytest.fixture(scope="session")
def fitted(parts):
    """One fitted regression of each kind, and a late fusion of trees."""
    (train, y), (valid, y_valid), _ = parts
    models = {}
    for name, params in QUICK.items():
        models[name] = MODELS[name](**params)
        models[name].fit(Examples(train, y), Examples(valid, y_valid), seed=0)
    members = []
    for modality in ("image", "spectrum"):
        member = MODELS["tree"](max_depth=3)
        member.fit(Examples(only(train, modality), y), Examples(only(valid, modality), y_valid), seed=0)
        members.append(member)
    models["late"] = LateFusion(members, "weighted")
    models["late"].fit(Examples(train, y), Examples(valid, y_valid), seed=0)
    return models


@pytest.fixture(scope="session")
def classifiers(class_parts):
    """One fitted and calibrated classification of each kind, and a late fusion of two."""
    (train, y), (valid, y_valid), test = class_parts
    kind = {"kind": "classification", "classes": CLASSES}
    models = {}
    for name, params in QUICK_CLASSES.items():
        models[name] = MODELS[name](**params)
        models[name].fit(Examples(train, y), Examples(valid, y_valid), seed=0, **kind)
    models["late"] = LateFusion([models["logistic"], models["forest"]], "weighted")
    models["late"].fit(Examples(train, y), Examples(valid, y_valid), seed=0, **kind)
    for model in models.values():
        model.calibrate(*test, level=0.8)
    return models


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Eigenspectra in the layout of the SDSS pipeline's folder."""
    return write_folder(tmp_path_factory.mktemp("templates"))


@pytest.fixture(scope="session")
def sets(folder):
    """The same eigenspectra, read."""
    return read_templates(folder)
