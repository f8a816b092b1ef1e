import numpy as np
import pandas as pd

from skyfuse.recipe import load_recipe
from skyfuse.study.cells import members, plan, seed_of

from .sky import class_recipe, small_recipe


def test_plan_covers_fusions_zooms_and_flaws_once():
    cells = plan(small_recipe())
    names = [cell.name for cell in cells]
    assert len(names) == len(set(names))
    assert [name for name in names if name.startswith("tree")] == [
        "tree-image-i3",
        "tree-spectrum-s3",
        "tree-early-i3-s3",
        "tree-late-mean-i3-s3",
        "tree-late-weighted-i3-s3",
        "tree-image-i4",
        "tree-spectrum-s4",
        "tree-image-i3-tiny-pixels",
        "tree-image-i3-shuffled-bands",
        "tree-spectrum-s3-complete-only",
    ]
    roles = pd.Series([cell.role for cell in cells]).value_counts()
    assert roles.to_dict() == {"reference": 10, "resolution": 4, "flaw": 3}


def test_what_reads_the_table_runs_without_and_with_leaks():
    cells = plan(class_recipe(sizes=[20, 40], learning={"models": ["forest"], "fusion": "table"}))
    assert [cell.name for cell in cells] == [
        "tree-spectrum-s4",
        "tree-table",
        "tree-early-s4",
        "tree-late-mean-s4",
        "tree-table-with-leaks",
        "tree-early-s4-with-leaks",
        "tree-late-mean-s4-with-leaks",
        "forest-table",
        "forest-table-with-leaks",
        "forest-table-n20",
        "forest-table-n40",
    ]
    assert {cell.role for cell in cells if cell.change == "with-leaks"} == {"leak"}
    assert [cell.size for cell in cells if cell.role == "size"] == [20, 40]


def test_a_late_fusion_with_leaks_is_made_of_the_leaking_table_and_the_sound_spectrum():
    recipe = class_recipe()
    cells = {cell.name: cell for cell in plan(recipe)}
    for name, expected in {
        "tree-late-mean-s4": ["tree-spectrum-s4", "tree-table"],
        "tree-late-mean-s4-with-leaks": ["tree-spectrum-s4", "tree-table-with-leaks"],
    }.items():
        own = members(recipe, cells[name])
        assert [member.name for member in own] == expected
        assert all(cells[member.name] == member for member in own)


def test_late_fusions_come_after_their_members_whatever_the_recipe_says():
    fusions = ["late-weighted", "early", "spectrum", "image"]
    order = [cell.fusion for cell in plan(small_recipe(fusions=fusions, flaws=[])) if cell.model == "tree"]
    assert order.index("late-weighted") > max(order.index("image"), order.index("spectrum"))


def test_seeds_differ_by_cell_and_depend_on_nothing_else():
    names = [cell.name for cell in plan(small_recipe())]
    seeds = [seed_of(3, name) for name in names]
    assert len(set(seeds)) == len(names)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seed_of(3, names[0]) != seed_of(4, names[0])
    # Frozen: a change would silently change every result.
    assert seed_of(0, "tree-image-i0") == FROZEN_SEED
    assert np.unique(seeds).dtype == np.int64


FROZEN_SEED = 1078942198


def test_a_partner_speaks_for_its_input_and_is_fitted_first():
    recipe = load_recipe("morphology").varied("gz1-all")
    models = {"polar-cnn": recipe.models["polar-cnn"], "svm": recipe.models["svm"]}
    cells = plan(recipe.model_copy(update={"models": models}))

    assert [cell.name for cell in cells] == ["polar-cnn-image-i1", "svm-table", "polar-cnn-late-weighted-i1"]
    assert [cell.name for cell in members(recipe, cells[-1])] == ["polar-cnn-image-i1", "svm-table"]
