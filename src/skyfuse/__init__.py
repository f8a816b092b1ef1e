"""Skyfuse: images, spectra and catalogues of the same sky as one cube, and as trained, compared models.

The whole way in Python::

    import skyfuse as sf

    sf.build(["sky/"], "stripe.cube")
    cube = sf.Cube.open("stripe.cube")
    data = sf.Dataset.from_cube(cube, "dataset", labels="sky/sfr/gal_totsfr_dr7_v5_2.fits")
    result = sf.Study.from_recipe("sfr").run(data, "study")
    model = sf.load_model("study/cells/lightgbm-early-i2-s3/model")
    table = sf.predict("study", "newfield/")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skyfuse.cube.build import build
    from skyfuse.cube.query import Cube
    from skyfuse.dataset import Dataset, Wanted
    from skyfuse.dataset.match import match
    from skyfuse.errors import SkyfuseError
    from skyfuse.mock import write_mock
    from skyfuse.models import load_model
    from skyfuse.models.base import Examples, Model
    from skyfuse.plugins import register
    from skyfuse.sphere import Box, Cone
    from skyfuse.study.predict import predict
    from skyfuse.study.run import Study

__all__ = [
    "Box",
    "Cone",
    "Cube",
    "Dataset",
    "Examples",
    "Model",
    "SkyfuseError",
    "Study",
    "Wanted",
    "build",
    "load_model",
    "match",
    "predict",
    "register",
    "write_mock",
]

_HOMES = {
    "Box": "skyfuse.sphere",
    "Cone": "skyfuse.sphere",
    "Cube": "skyfuse.cube.query",
    "Dataset": "skyfuse.dataset",
    "Examples": "skyfuse.models.base",
    "Model": "skyfuse.models.base",
    "SkyfuseError": "skyfuse.errors",
    "Study": "skyfuse.study.run",
    "Wanted": "skyfuse.dataset",
    "build": "skyfuse.cube.build",
    "load_model": "skyfuse.models",
    "match": "skyfuse.dataset.match",
    "predict": "skyfuse.study.predict",
    "register": "skyfuse.plugins",
    "write_mock": "skyfuse.mock",
}


def __getattr__(name: str) -> Any:
    # Astropy, numba and torch take seconds to import: each comes with the first thing that needs it.
    if name not in _HOMES:
        raise AttributeError(f"module 'skyfuse' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
