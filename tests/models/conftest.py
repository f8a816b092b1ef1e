"""Data and fitted models that several tests share."""

import pytest

from skyfuse.models import MODELS, LateFusion

from .sky import make, only

QUICK = {
    "tree": {},
    "lightgbm": {"max_rounds": 30},
    "vggnet12": {"width": 0.0625, "max_epochs": 3},
}


@pytest.fixture(scope="session")
def parts():
    """Training, validation and test parts as (inputs, labels)."""
    return make(120, seed=1), make(40, seed=2), make(60, seed=3)


@pytest.fixture(scope="session")
def fitted(parts):
    """One fitted model of each kind, and late fusions of the trees."""
    (train, y), (valid, y_valid), _ = parts
    models = {}
    for name, params in QUICK.items():
        models[name] = MODELS[name](**params)
        models[name].fit(train, y, valid, y_valid, seed=0)
    members = []
    for modality in ("image", "spectrum"):
        member = MODELS["tree"](max_depth=3)
        member.fit(only(train, modality), y, only(valid, modality), y_valid, seed=0)
        members.append(member)
    models["late"] = LateFusion(members, "weighted")
    models["late"].fit(train, y, valid, y_valid, seed=0)
    return models
