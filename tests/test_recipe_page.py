import importlib.util
from pathlib import Path

import pytest

from skyfuse.models import MODELS, LateFusion
from skyfuse.models.rounds import Rounds

SCRIPT = Path(__file__).parents[1] / "docs" / "recipes.py"


@pytest.fixture(scope="module")
def recipes():
    spec = importlib.util.spec_from_file_location("recipes_page", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(recipes):
    assert recipes.PAGE.read_text(encoding="utf-8") == recipes.page(), "run python docs/recipes.py"


@pytest.mark.parametrize("name", sorted(set(MODELS) - {LateFusion.name, Rounds.name}))
def test_every_parameter_of_a_model_is_explained(recipes, name):
    told = recipes.explained(MODELS[name])
    assert [parameter for parameter in recipes.parameters(MODELS[name]) if not told.get(parameter)] == []
    MODELS[name](**recipes.parameters(MODELS[name]))
