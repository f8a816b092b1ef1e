import time

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skyfuse.errors import UsageError
from skyfuse.mock import sky
from skyfuse.recipe import Recipe, load_recipe, recipe_names


def sfr() -> dict:
    return load_recipe("sfr").model_dump(mode="json")


def table_recipe(**changes) -> dict:
    """Return a classification by a table in which one column leaks."""
    content = {
        "name": "kinds",
        "title": "Kinds",
        "task": {
            "label": "kind",
            "title": "kind",
            "definition": "made up",
            "kind": "classification",
            "forbidden": {"redshift": "fitted with the class", "ew": "needs the redshift"},
        },
        "modalities": ["table"],
        "columns": ["u", "g", "u-g"],
        "leaking": ["redshift"],
        "models": {"tree": {}},
    }
    return content | changes


def written(tmp_path, data):
    path = tmp_path / "mine.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data), encoding="utf-8")
    return path


def test_sfr_follows_the_original_study():
    recipe = load_recipe("sfr")
    assert recipe.models["tree"].grid == {"max_depth": [1, 2, 3, 4, 5, 6]}
    assert min(recipe.models["vggnet12"].grid["learning_rate"]) == 3e-6
    assert max(recipe.models["vggnet12"].grid["learning_rate"]) == 1e-3
    assert recipe.models["vggnet12"].fixed == {"dropout": 0.5, "patience": 30}
    assert set(recipe.models["lightgbm"].grid) == {"learning_rate", "max_depth"}
    assert recipe.split.train == 0.6
    assert recipe.split.valid + recipe.split.calibration == pytest.approx(0.2)
    assert recipe.split.folds == 5
    assert recipe.zooms["image"] == [0, 1, 2, 3]
    assert set(recipe.zooms["spectrum"]) >= {0, 1, 2, 3}
    best = next(p for p in recipe.published if (p.model, p.fusion) == ("lightgbm", "early"))
    assert best.scores == {"r2": 0.308, "mae": 0.19, "rmse": 0.32}


def test_quick_is_smaller_and_still_whole():
    recipe = load_recipe("sfr")
    quick = recipe.shortened()
    assert set(quick.models) == {"tree", "lightgbm", "vggnet12"}
    assert quick.fusions == recipe.fusions
    assert len(quick.zooms["image"]) >= 2
    assert len(quick.zooms["spectrum"]) >= 2
    for name, plan in quick.models.items():
        for parameter, values in plan.grid.items():
            assert len(values) <= len(recipe.models[name].grid[parameter])
    assert quick.task == recipe.task
    assert quick.quick == {}


def test_quick_merges_sections_and_replaces_lists_and_grids():
    data = sfr()
    data["quick"] = {
        "models": {"tree": {"grid": {"max_depth": [2]}}, "lightgbm": {"grid": {"max_depth": [3]}}},
        "embeddings": {"methods": ["pca"]},
    }
    quick = Recipe.model_validate(data).shortened()
    # A replaced grid drops the learning rate instead of crossing it with the new depth.
    assert quick.models["lightgbm"].grid == {"max_depth": [3]}
    assert quick.models["lightgbm"].fixed == data["models"]["lightgbm"]["fixed"]
    assert quick.models["vggnet12"].model_dump() == data["models"]["vggnet12"]
    assert quick.embeddings.methods == ["pca"]
    assert quick.embeddings.zooms == data["embeddings"]["zooms"]


def test_null_takes_an_entry_or_a_field_away():
    data = sfr()
    new = {"forest": {"grid": None}}
    data["quick"] = {"models": {"vggnet12": None, **new}, "task": {"attainable": None}}
    quick = Recipe.model_validate(data).shortened()
    assert list(quick.models) == ["tree", "lightgbm", "forest"]
    assert quick.task.attainable is None


def test_a_variant_brings_its_own_data_and_its_own_short_run():
    data = table_recipe(
        variants={
            "other": {
                "task": {"classes": {"x": ["X"], "y": ["Y"]}},
                "columns": ["g"],
                "leaking": [],
                "quick": {"bootstrap": 300},
            }
        },
        quick={"bootstrap": 200},
    )
    recipe = Recipe.model_validate(data)
    other = recipe.varied("other")
    assert list(other.task.classes) == ["x", "y"]
    assert (other.columns, other.leaking) == (["g"], [])
    assert other.task.forbidden == recipe.task.forbidden
    assert (recipe.shortened().bootstrap, other.shortened().bootstrap) == (200, 300)
    with pytest.raises(UsageError, match="has no variant 'real'; its variants are: other"):
        recipe.varied("real")


def test_a_wrong_override_is_an_error_that_says_so(tmp_path):
    data = sfr()
    data["quick"] = {"bootstrap": 3}
    with pytest.raises(UsageError, match=r"sfr, quick: field bootstrap is 3; .*200"):
        load_recipe(written(tmp_path, data)).shortened()


def test_yaml_round_trip(tmp_path):
    recipe = load_recipe("sfr")
    assert load_recipe(written(tmp_path, recipe.to_yaml())) == recipe


def test_every_field_is_documented():
    seen = []

    def walk(section):
        for name, field in section.model_fields.items():
            seen.append(name)
            assert field.description, f"{section.__name__}.{name}"
            for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(inner, type) and hasattr(inner, "model_fields"):
                    walk(inner)

    walk(Recipe)
    assert {"task", "label", "grid", "folds", "change"} <= set(seen)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["taks"], {}, r"unknown field taks \(task\?\); the fields there are name, title, task"),
        (
            ["task", "lable"],
            "AVG",
            r"unknown field task.lable \(label\?\); the fields there are label, title",
        ),
        (
            ["models", "tree", "gird"],
            {},
            r"unknown field models.tree.gird \(grid\?\); the fields there are fixed, grid",
        ),
        (
            ["task", "kind"],
            "ranking",
            r"field task.kind is \"ranking\"; allowed are 'regression'",
        ),
        (
            ["fusions"],
            ["image", "middle"],
            r"fusions names middle, which is no input; the inputs are image, spectrum; or name early",
        ),
        (["fusions"], ["image", "late-mean"], r"fusions names late-mean; name image and spectrum there too"),
        (["modalities"], ["image"], r"zooms names spectrum, which is no input; the inputs are image"),
        (["zooms", "image"], [0, 5], r"zooms.image holds zooms from 0 to 4"),
        (["zooms", "image"], [1, 1], r"each once"),
        (["reference"], {"image": 1}, r"reference.spectrum is needed"),
        (["split", "train"], 0.7, r"field split: train \+ valid \+ calibration \+ test must be 1"),
        (["split", "folds"], 2, r"field split.folds is 2; .*3"),
        (["models"], {}, r"field models is \{\}; "),
        (["models", "tree", "grid", "max_depth"], [], r"grid.max_depth is empty; name at least one value"),
        (["models", "tree", "grid", "max_depth"], [2, 2], r"grid.max_depth repeats a value"),
        (["models", "tree", "fixed", "max_depth"], 3, r"max_depth stands in both fixed and grid"),
        (["flaws", 0, "model"], "forest", r"flaws.0.model names forest; choose among models"),
        (["flaws", 0, "fusion"], None, r"change, model and fusion belong together"),
        (["flaws", 0, "fusion"], "table", r"flaws.0.fusion names table; choose among"),
        (
            ["models", "tree", "fusions"],
            ["table"],
            r"models.tree.fusions names table; name it in fusions too",
        ),
        (
            ["models", "tree", "fusions"],
            ["late-mean"],
            r"models.tree.fusions names late-mean; name image and spectrum there too",
        ),
        (["models", "tree", "space"], {"a": {"low": 1, "high": 2}}, r"tree.space needs a random or bayesian"),
        (["models", "tree", "space"], {"a": {"low": 2, "high": 1}}, r"space.a: low must lie below high"),
        (["models", "tree", "space"], {"a": {}}, r"a space is either choices or low and high"),
        (["models", "tree", "space"], {"a": {"low": 0, "high": 1, "log": True}}, r"needs a positive low"),
        (["models", "tree", "space"], {"max_depth": {"choices": [1]}}, r"max_depth stands in both grid"),
        (["sizes"], [100], r"sizes and learning belong together"),
        (["search"], {"scored": 9}, r"search.scored is above split.folds"),
        (["balance"], "smote", r"balance smote needs a classification"),
        (["split", "rounds"], 5, r"split.rounds above 1 leaves no part for tuning"),
        (["split", "column"], "survey", r"column and parts belong together"),
        (["mock", "shares"], [1, 1, 0], r"shares are not negative and must add up to 1"),
        (["modalities"], ["image", "spectrum", "table"], r"columns is empty"),
        (["funnel", "where"], {"r": {"low": 1}}, r"field funnel.where.r is"),
        (["bootstrap"], "many", r"field bootstrap is \"many\""),
        (["name"], "My Study", r"field name is \"My Study\""),
    ],
)
def test_faults_name_the_field_and_what_it_may_hold(tmp_path, place, value, message):
    data = sfr()
    section = data
    for step in place[:-1]:
        section = section[step]
    section[place[-1]] = value
    path = written(tmp_path, data)
    with pytest.raises(UsageError, match=message) as caught:
        load_recipe(path)
    assert all(line.startswith(f"{path}: ") and "; " in line for line in str(caught.value).splitlines())
    assert caught.value.exit_code == 2


def faults(tmp_path, data):
    """Return all faults of a recipe, without the file's name."""
    path = written(tmp_path, data)
    with pytest.raises(UsageError) as caught:
        load_recipe(path)
    return [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]


def test_all_faults_are_told_at_once_each_in_a_line(tmp_path):
    data = sfr()
    data["task"]["lable"] = data["task"].pop("label")
    data["seed"] = -1
    data["zooms"] = {"spectral": [1]}
    data["mock"] = 3
    data["models"]["tree"] = None
    data["models"]["vggnet12"]["fixed"]["dropout"] = {"half": 1}
    data["split"]["train"] = 0.9
    data["search"] = {"scored": 9}
    data["balance"] = "smote"
    told = faults(tmp_path, data)
    assert [line.split(";")[0] for line in told] == [
        "unknown field task.lable (label?)",
        "field mock is 3",
        "field models.tree is null",
        'field models.vggnet12.fixed.dropout is {"half": 1}',
        "field split: train + valid + calibration + test must be 1",
        "field seed is -1",
        "zooms names spectral, which is no input",
        "balance smote needs a classification",
    ]
    assert told[2].endswith("write a section of its own fields: fixed, grid, space, fusions, partners")
    assert told[3].endswith("allowed are true or false, a number, text, a list")


def test_what_follows_from_a_fault_is_not_told(tmp_path):
    # A zoom of a modality that the reader has not been told to give: the reader is the fault.
    data = table_recipe(reader="tables", zooms={"image": [1]}, balance="weights")
    del data["modalities"]
    assert faults(tmp_path, data) == [
        "field reader is \"tables\"; allowed are 'cube', 'table', 'gaia-xp', 'images' or 'scene'"
    ]
    # The misspelt field is what the rules ask for.
    data = sfr()
    data["refrence"] = data.pop("reference")
    assert [line.split(";")[0] for line in faults(tmp_path, data)] == ["unknown field refrence (reference?)"]


def test_an_empty_recipe_lacks_all_that_is_needed(tmp_path):
    assert [line.split(";")[0] for line in faults(tmp_path, "{}")] == [
        "field name is missing",
        "field title is missing",
        "field task is missing",
        "field models is missing",
        "reference.image is needed",
        "reference.spectrum is needed",
    ]
    # What an empty section needs is told once it is there.
    assert faults(tmp_path, sfr() | {"learning": {}})[:2] == [
        "field learning.models is missing; add it",
        "field learning.fusion is missing; add it",
    ]


@pytest.mark.parametrize(
    ("reader", "columns", "modalities"),
    [
        ("cube", [], ["image", "spectrum"]),
        ("cube", ["u"], ["image", "spectrum", "table"]),
        ("table", ["u"], ["table"]),
        ("gaia-xp", [], ["spectrum"]),
        ("gaia-xp", ["u"], ["spectrum", "table"]),
        ("images", [], ["image"]),
        ("images", ["u"], ["image", "table"]),
        ("scene", ["u"], ["image", "table"]),
    ],
)
def test_modalities_follow_from_the_reader(reader, columns, modalities):
    data = table_recipe(reader=reader, columns=columns, leaking=[], reference={"image": 1, "spectrum": 1})
    del data["modalities"]
    recipe = Recipe.model_validate(data)
    assert recipe.modalities == modalities
    assert recipe.fusions[: len(modalities)] == modalities
    with pytest.raises(ValueError, match="columns names inputs, and modalities does not name the table"):
        Recipe.model_validate(data | {"columns": ["u"], "modalities": ["spectrum"], "reader": "gaia-xp"})


def test_modalities_and_fusions_of_a_variant_follow_from_its_own_reader(tmp_path):
    data = table_recipe(reader="table", variants={"sky": {"reader": "images", "reference": {"image": 1}}})
    del data["modalities"]
    sky_of = load_recipe(written(tmp_path, data)).varied("sky")
    assert sky_of.modalities == ["image", "table"]
    assert sky_of.fusions == ["image", "table", "early", "late-mean", "late-weighted"]


def test_a_reader_gives_what_it_has_alone(tmp_path):
    told = faults(
        tmp_path, table_recipe(reader="gaia-xp", modalities=["image", "table"], reference={"image": 1})
    )
    assert told[0] == (
        "modalities names image, which the reader gaia-xp does not give; it gives spectrum and table"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", r"no valid YAML in line"),
        ("- 1", r"no recipe, but list"),
        ("", r"no recipe, but NoneType"),
        ("!!python/object/apply:os.getcwd []", r"no valid YAML in line 1"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, content, message):
    with pytest.raises(UsageError, match=message) as caught:
        load_recipe(written(tmp_path, content))
    assert "\n" not in str(caught.value)


SHORT = "name: x\ntitle: X\nseed: 1\ntask:\n  label: a\n  outlier: 0.2\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: &a [*a]", r"in line 1 \(\*a stands inside of what it stands for\)"),
        ("a: 1\nb: &b {<<: *b}", r"in line 2 \(\*b stands inside"),
        ("a: *b", r"in line 1 \(found undefined alias 'b'\)"),
        (
            "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)),
            r"in line 1\d \(more than 8000 values, aliases counted\)",
        ),
        ("a: &a " + "x" * 2000 + "\nb: [" + "*a," * 500 + "]", r"in line 2 \(more than 8000 values"),
        ("a: " + "[" * 100_000, r"in line 1 \(more than 30 levels\)"),
        ("a: " + "{a: " * 50_000, r"in line 1 \(more than 30 levels\)"),
        ("- " * 50_000, r"in line 1 \(more than 30 levels\)"),
        ("a: [" + "x," * 100_000 + "]", r"in line 1 \(more than 8000 values"),
        ("x" * 2**18 + "x", r"has 262145 bytes, more than 262144; give the recipe, not its data"),
        (SHORT + "name: y", r"in line 7 \(\"name\" stands there twice\); mend that line"),
        (SHORT + "  label: b", r"in line 7 \(\"label\" stands there twice\)"),
        (SHORT.replace("1\n", "9" * 5000 + "\n"), r"in line 3 \(\"9+\.\.\. is no number\)"),
        (SHORT.replace("1\n", "9" * 30 + "\n"), r"in line 3 \(\"9{30}\" is too large a number\)"),
        (SHORT.replace("1\n", "1" + ":59" * 3000 + "\n"), r"in line 3 .*is too large a number"),
        (SHORT.replace("X", '!!binary "abc"'), r"in line 2 \(\"tag:yaml.org,2002:binary\" is a tag"),
        (SHORT.replace("X", "!!timestamp x"), r"in line 2 .* is a tag"),
        (SHORT.replace("X", "!!int x"), r"in line 2 .* is a tag"),
        (SHORT.replace("X", '"\\ud800"'), r"in line 2 \(half of a character\)"),
        (SHORT.replace("X", "\0"), r"in line 2 \(unacceptable character #x0000"),
        (SHORT.replace("  label", "\tlabel"), r"in line 5 \(found character '\\t'"),
        (SHORT + "? [a]\n: b", r"in line 7 \(a key that is no text\)"),
        (SHORT + "? &a {b: c}\n: b", r"in line 7 \(a key that is no text\)"),
        (SHORT + "---\n" + SHORT, r"in line 7 \(but found another document\)"),
        (SHORT + "<<: [1, 2]", r"in line 7 \(expected a mapping for merging"),
        (SHORT + '"a\\u2028\\nb": 1', "field name|unknown field|missing"),
        (SHORT + "1: 2", "field"),
    ],
)
def test_recipes_that_hurt_are_refused_in_one_line_at_once(tmp_path, content, message):
    path = written(tmp_path, content)
    started = time.process_time()
    with pytest.raises(UsageError, match=message) as caught:
        load_recipe(path)
    assert time.process_time() - started < 2
    assert str(path) in str(caught.value)
    assert all(line.startswith(f"{path}: ") for line in str(caught.value).splitlines())


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1.0e+400", "1e400", "2001-99-99"])
def test_numbers_are_finite(tmp_path, value):
    content = yaml.safe_dump(sfr())
    assert "outlier: 0.15" in content
    path = written(tmp_path, content.replace("outlier: 0.15", f"outlier: {value}"))
    with pytest.raises(UsageError, match=r"field task\.outlier is .*(finite|valid) number"):
        load_recipe(path)


def test_dates_are_text_and_numbers_have_bounds(tmp_path):
    data = sfr() | {"title": "2001-01-01", "seed": 2**63 - 1}
    assert load_recipe(written(tmp_path, yaml.safe_dump(data).replace("'2001-01-01'", "2001-01-01"))).title
    for field, value in (("seed", 2**63), ("bootstrap", 10**7), ("image_size", 10**5)):
        with pytest.raises(UsageError, match=f"field {field} is {value}; input should be less than"):
            load_recipe(written(tmp_path, sfr() | {field: value}))


def test_unknown_names_and_paths(tmp_path):
    assert "sfr" in recipe_names()
    with pytest.raises(UsageError, match=r"no recipe is called 'sfx'; choose one of .*sfr"):
        load_recipe("sfx")
    with pytest.raises(UsageError, match="no such recipe file"):
        load_recipe(tmp_path / "none.yaml")
    binary = tmp_path / "bad.yaml"
    binary.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(UsageError, match="cannot be read"):
        load_recipe(binary)


def test_one_seed_reaches_sky_split_and_models():
    recipe = load_recipe("sfr").with_seed(42)
    assert (recipe.seed, recipe.mock.seed, recipe.split.seed) == (42, 42, 42)
    assert recipe.shortened().seed == 42
    with pytest.raises(UsageError, match="the seed is -1"):
        recipe.with_seed(-1)


def test_inputs_of_fusions():
    recipe = load_recipe("sfr")
    assert recipe.inputs_of("image") == ("image",)
    assert recipe.inputs_of("late-mean") == recipe.inputs_of("early") == ("image", "spectrum")
    both = Recipe.model_validate(table_recipe(modalities=["table", "spectrum"], reference={"spectrum": 2}))
    assert both.fusions == ["table", "spectrum", "early", "late-mean", "late-weighted"]
    assert both.inputs_of("early") == ("table", "spectrum")
    assert both.views() == {"table": [0], "spectrum": [2]}
    assert Recipe.model_validate(table_recipe()).fusions == ["table"]


# -------------------------------------------------------------------------------- leakage


def test_leaking_columns_are_used_beside_the_sound_ones_alone():
    recipe = Recipe.model_validate(table_recipe(columns=["u", "redshift", "g"]))
    assert recipe.sound_columns == ["u", "g"]
    assert recipe.leaky_columns == ["u", "g", "redshift"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"leaking": [], "columns": ["u", "redshift"]},
            r"columns holds redshift, .*\(fitted with the class\)",
        ),
        ({"columns": ["u", "REDSHIFT-u"]}, r"columns holds REDSHIFT-u, which gives the answer away"),
        (
            {"columns": ["u", "log10(Redshift)"]},
            r"columns holds log10\(Redshift\), .*(fitted with the class)",
        ),
        ({"columns": ["u", "g-log10(redshift)"]}, r"columns holds g-log10\(redshift\), .*(fitted)"),
        ({"columns": ["u", "red*"]}, r"columns holds red\*, .*; drop it, or name it in leaking"),
        ({"columns": ["u", "ew_halpha"]}, r"columns holds ew_halpha, .*\(needs the redshift\)"),
        ({"columns": ["u", "ew_*"]}, r"columns holds ew_\*"),
        ({"columns": ["Kind", "u"]}, r"columns holds Kind, .*\(it is the label\)"),
        ({"columns": ["u", "kind"], "leaking": ["kind"]}, r"columns holds kind, .*\(it is the label\)"),
        ({"leaking": ["g"]}, r"leaking holds g, which is not forbidden; name it in columns instead"),
        ({"columns": ["redshift"]}, r"columns holds leaking columns alone"),
    ],
)
def test_the_guard_refuses_what_gives_the_answer_away(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        load_recipe(written(tmp_path, table_recipe(**changes)))


@pytest.mark.parametrize("column", ["u", "g-u", "reds", "news_ew", "mag*", "z-err"])
def test_the_guard_lets_other_columns_pass(column):
    recipe = Recipe.model_validate(table_recipe(columns=["u", column]))
    assert recipe.forbids(column) is None


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_and_variant_is_whole_also_when_short(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.shows
    for own in (recipe, *(recipe.varied(variant) for variant in recipe.variants)):
        assert own.shortened().quick == {}
        assert set(own.shortened().models) <= set(own.models)


@pytest.mark.parametrize("name", recipe_names())
def test_the_mock_sky_of_every_recipe_has_room_for_its_objects(name):
    recipe = load_recipe(name)
    for own in (recipe, recipe.shortened()):
        patch = sky.layout(own.mock.fields)
        assert len(sky.place(np.random.default_rng(0), patch, own.mock.objects)[0]) == own.mock.objects


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(sorted(Recipe.model_fields)),
)
@example(value={"\n": None}, field="embeddings")
def test_any_value_in_any_field_is_taken_or_named(tmp_path_factory, value, field):
    data = sfr()
    data[field] = value
    path = written(tmp_path_factory.mktemp("recipe"), data)
    try:
        outcome = load_recipe(path)
    except UsageError as error:
        outcome = error
    told = [] if isinstance(outcome, Recipe) else str(outcome).splitlines()
    assert all(line.startswith(f"{path}: ") and "; " in line for line in told)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"mirror": {"a": "b"}, "classes": {"a": ["a"], "c": ["c"]}}, "mirror names b which is no class"),
        ({"mirror": {"a": "b", "c": "a"}}, "mirror names a twice"),
        ({"mirror": {"a": "b"}, "kind": "regression"}, "mirror needs a classification"),
    ],
)
def test_a_mirror_swaps_pairs_of_classes(tmp_path, task, said):
    content = table_recipe()
    content["task"] = content["task"] | task

    with pytest.raises(UsageError, match=said):
        load_recipe(written(tmp_path, content))


@pytest.mark.parametrize(
    ("partners", "said"),
    [
        ({"image": "tree"}, "gives image to tree"),
        ({"table": "linear"}, "gives table to linear"),
        ({"table": "tree"}, "gives table to tree, which does not read it"),
    ],
)
def test_partners_are_other_models_that_read_the_input(tmp_path, partners, said):
    content = table_recipe(
        modalities=["spectrum", "table"],
        reference={"spectrum": 3},
        fusions=["spectrum", "table"],
        models={"tree": {"fusions": ["spectrum"]}, "svm": {"fusions": ["spectrum"], "partners": partners}},
    )

    with pytest.raises(UsageError, match=said):
        load_recipe(written(tmp_path, content))


def test_morphology_mirrors_the_spirals_of_all_images():
    recipe = load_recipe("morphology").varied("gz1-all")

    assert recipe.task.mirror == {"spiral_cw": "spiral_acw"}
    assert recipe.split.rounds == 5
    assert recipe.models["polar-cnn"].partners == {"table": "svm"}
