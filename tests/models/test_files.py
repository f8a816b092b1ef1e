import hashlib
import json
import os
import pickle
import shutil
import sys
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
import torch
from safetensors.torch import save_file

from skyfuse.disk import sha256
from skyfuse.errors import StoreError, UsageError
from skyfuse.models import MODELS, Examples, files, load_model
from skyfuse.models.applicability import Applicability
from skyfuse.models.files import write_arrays
from skyfuse.models.summaries import summarise
from skyfuse.study.check import check
from tests.models.cards import inputs_of

from .conftest import QUICK, QUICK_CLASSES

KINDS = [*QUICK, "late"]
CLASSES = [*QUICK_CLASSES, "late"]
WEIGHTS = {
    "tree": "arrays.safetensors",
    "svm": "arrays.safetensors",
    "lightgbm": "model.txt",
    "vggnet12": "weights.safetensors",
}
CARD = {
    "label": {"name": "AVG", "unit": "log10(Msun/yr)", "definition": "star formation in the last Gyr"},
    "inputs": inputs_of(
        {"image": 3, "spectrum": 4, "table": 0},
        bands="ugriz",
        size=64,
        grid="sdss",
        instrument="sdss",
        columns=["u", "u-g"],
        smooth=4.0,
        reader="cube",
        every_spectrum=True,
        derive={"indices": 0},
    ),
    "split": "0" * 64,
    "metrics": {"r2": 0.5, "nmad": float("nan")},
}


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def saved(fitted, tmp_path):
    """Return a function that saves the fitted model of a kind into a new folder."""

    def save(kind, models=fitted):
        folder = tmp_path / kind
        model = models[kind]
        model.card = {**CARD}
        assert model.save(folder) == folder
        return folder

    return save


def edit(folder, **changes):
    """Change entries of the card, None meaning to leave one out, as a forger would: with hashes that fit."""
    path = folder / "model.json"
    card = json.loads(path.read_text())
    card["files"] = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in card["files"]
        if (folder / name).exists()
    }
    card = {key: value for key, value in {**card, **changes}.items() if value is not None}
    path.write_text(json.dumps(card))


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_model_predicts_bit_for_bit_and_keeps_its_card(kind, saved, fitted, parts):
    model = load_model(saved(kind))
    test = parts[2][0]
    assert type(model) is MODELS[kind]
    assert np.array_equal(model.predict(test).value, fitted[kind].predict(test).value)
    assert tuple(model.inputs) == ("image", "spectrum")
    assert model.params == fitted[kind].params
    card = model.card
    assert card["name"] == kind
    assert card["kind"] == model.kind == "regression"
    assert card["classes"] == []
    assert card["interval"] is None
    assert card["label"] == CARD["label"]
    assert card["inputs"] == CARD["inputs"]
    assert card["split"] == CARD["split"]
    assert card["metrics"] == {"r2": 0.5, "nmad": None}
    assert card["shapes"] == {"image": [5, 8, 8], "spectrum": [40]}
    assert card["libraries"]["skyfuse"]


@pytest.mark.parametrize("kind", CLASSES)
def test_loaded_classifier_predicts_bit_for_bit_with_its_sets(kind, saved, classifiers, class_parts):
    model = load_model(saved(kind, classifiers))
    now, then = (m.predict(class_parts[2][0]) for m in (model, classifiers[kind]))
    assert np.array_equal(now.probability, then.probability)
    assert np.array_equal(now.members, then.members)
    assert now.classes == then.classes
    assert now.level == model.card["interval"]["level"] == 0.8
    assert model.card["kind"] == "classification"


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_model_can_be_saved_again(kind, saved, tmp_path, parts):
    model = load_model(saved(kind))
    again = load_model(model.save(tmp_path / "again"))
    assert np.array_equal(again.predict(parts[2][0]).value, model.predict(parts[2][0]).value)
    assert again.card["label"] == CARD["label"]


def test_weights_are_in_the_formats_of_the_design(saved):
    own = {"model.json", "checksums.json"}
    for kind in ("linear", "knn", "svm", "tree", "forest"):
        assert {path.name for path in saved(kind).iterdir()} == {*own, "arrays.safetensors"}
    assert {path.name for path in saved("lightgbm").iterdir()} == {*own, "model.txt"}
    assert {path.name for path in saved("vggnet12").iterdir()} == {*own, "weights.safetensors"}
    assert {path.name for path in saved("late").iterdir()} == {*own, "member-0", "member-1"}


@pytest.mark.parametrize("kind", ["linear", "lightgbm", "late"])
def test_a_check_names_each_damaged_file(kind, saved, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved(kind), folder)
    assert check(folder).problems == []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 8]) + content[-1:])
        assert any(str(path) in line for line in check(folder).problems), path
        path.write_bytes(content)


def test_load_of_a_class_refuses_another_kind(saved):
    folder = saved("tree")
    assert type(MODELS["tree"].load(folder)) is MODELS["tree"]
    with pytest.raises(StoreError, match="holds a tree model, not lightgbm"):
        MODELS["lightgbm"].load(folder)


def test_unfitted_model_and_wrong_card_are_not_saved(fitted, tmp_path):
    with pytest.raises(UsageError, match="fit first"):
        MODELS["tree"]().save(tmp_path / "unfitted")
    assert not (tmp_path / "unfitted").exists()
    fitted["tree"].card = {"label": {"name": "AVG"}}
    with pytest.raises(UsageError, match=r"label\.unit"):
        fitted["tree"].save(tmp_path / "tree")
    fitted["tree"].card = {}


def test_interrupted_save_leaves_no_model(saved, fitted, monkeypatch):
    folder = saved("tree")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(MODELS["tree"], "_write", fail)
    with pytest.raises(OSError, match="disk full"):
        fitted["tree"].save(folder)
    with pytest.raises(StoreError, match="no model folder"):
        load_model(folder)


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("honest_hash", [False, True])
def test_a_pickle_in_the_place_of_the_weights_is_not_executed(kind, honest_hash, saved, tmp_path):
    folder = saved(kind)
    for protocol in (0, 4):
        (folder / WEIGHTS[kind]).write_bytes(pickle.dumps(Bomb(tmp_path / "bang"), protocol=protocol))
        if honest_hash:
            edit(folder)
        with pytest.raises(StoreError):
            load_model(folder)
    assert not (tmp_path / "bang").exists()


@pytest.mark.parametrize("place", ["model.json", "member-1/model.json", "member-0/arrays.safetensors"])
def test_a_pickle_anywhere_in_a_fusion_is_not_executed(place, saved, tmp_path):
    folder = saved("late")
    (folder / place).write_bytes(pickle.dumps(Bomb(tmp_path / "bang")))
    if place.endswith("safetensors"):
        edit(folder / "member-0")
    with pytest.raises(StoreError):
        load_model(folder)
    assert not (tmp_path / "bang").exists()


def test_a_torch_pickle_is_not_executed(saved, tmp_path):
    folder = saved("vggnet12")
    torch.save(Bomb(tmp_path / "bang"), folder / "weights.safetensors")
    edit(folder)
    with pytest.raises(StoreError, match="is not safetensors"):
        load_model(folder)
    assert not (tmp_path / "bang").exists()


def forge(folder, change):
    """Rewrite the arrays of a model."""
    path = folder / "arrays.safetensors"
    arrays = safetensors.numpy.load_file(path)
    change(arrays)
    safetensors.numpy.save_file(arrays, path)
    edit(folder)


@pytest.mark.parametrize(
    ("field", "node", "value"),
    [
        ("left", 0, 10**6),
        ("right", 0, -7),
        ("left", 0, 0),
        ("left", -1, 1),
        ("right", -1, 1),
        ("feature", 0, 10**6),
        ("feature", 0, -5),
        ("roots", 0, -1),
        ("roots", 0, 10**6),
    ],
)
@pytest.mark.parametrize("kind", ["tree", "forest"])
def test_tree_whose_nodes_lead_astray_is_refused(kind, field, node, value, saved):
    folder = saved(kind)

    def mislead(arrays):
        arrays[field][node] = value

    forge(folder, mislead)
    with pytest.raises(StoreError, match="sound trees"):
        load_model(folder)


@pytest.mark.parametrize("kind", ["linear", "knn", "svm", "tree", "forest"])
def test_arrays_of_another_shape_type_or_name_are_refused(kind, saved):
    folder = saved(kind)
    whole = (folder / "arrays.safetensors").read_bytes()
    for name, array in safetensors.numpy.load(whole).items():
        other_type = np.zeros(array.shape, "f2" if array.dtype.kind != "f" else "i2")
        wrong = [array[None], other_type]
        if name != "roots":
            wrong.append(array[:-1])
        if array.dtype.kind == "f":
            wrong += [np.full_like(array, np.nan), np.full_like(array, -np.inf)]
        for other in wrong:
            (folder / "arrays.safetensors").write_bytes(whole)
            forge(folder, lambda arrays, name=name, other=other: arrays.update({name: other}))
            with pytest.raises(StoreError, match=r"does not fit its card|is not finite"):
                load_model(folder)
    (folder / "arrays.safetensors").write_bytes(whole)
    forge(folder, lambda arrays: arrays.update(more=np.zeros(3)))
    with pytest.raises(StoreError, match=r"where .* belong"):
        load_model(folder)
    forge(folder, dict.clear)
    with pytest.raises(StoreError, match=r"holds \[\] where"):
        load_model(folder)


@pytest.mark.parametrize(
    ("kind", "name", "value", "fault"),
    [
        ("linear", "scale", 0.0, "scale that is not positive"),
        ("svm", "scale", -1.0, "scale that is not positive"),
        ("knn", "weight", 0.0, "no objects of positive weight"),
        ("svm", "sides", 1, "between no classes"),
        ("svm", "sides", -1, "between no classes"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(kind, name, value, fault, saved):
    folder = saved(kind)

    def spoil(arrays):
        arrays[name].flat[0] = value

    forge(folder, spoil)
    with pytest.raises(StoreError, match=fault):
        load_model(folder)


def test_neighbours_without_objects_are_refused(saved):
    folder = saved("knn")
    forge(folder, lambda arrays: arrays.update({k: arrays[k][:0] for k in ("points", "labels", "weight")}))
    with pytest.raises(StoreError, match="no objects of positive weight"):
        load_model(folder)


def test_constant_labels_leave_no_support_vectors_and_are_kept(parts, tmp_path):
    x, y = parts[0]
    model = MODELS["svm"]()
    model.fit(Examples(x, np.full_like(y, 2.5)), Examples(x, np.full_like(y, 2.5)), seed=0)
    assert (load_model(model.save(tmp_path / "svm")).predict(x).value == 2.5).all()


def test_weights_in_any_memory_order_are_stored_alike(tmp_path):
    array = np.arange(12.0).reshape(3, 4)
    files.write_arrays({"a": np.asfortranarray(array), "b": array[:, ::2]}, tmp_path)
    found = files.read_arrays(tmp_path, {"a": ("f8", ("n", "m")), "b": ("f8", ("n", "k"))}, m=4)
    assert np.array_equal(found["a"], array)
    assert np.array_equal(found["b"], array[:, ::2])


def test_a_missing_library_is_named(saved, monkeypatch):
    folder = saved("tree")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(StoreError, match=r"holds a tree model, which needs safetensors.*; install safetens"):
        load_model(folder)


def test_boosted_trees_are_read_without_the_library_that_grew_them(saved, fitted, parts, monkeypatch):
    folder = saved("lightgbm")
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    found = load_model(folder).predict(parts[2][0])
    assert np.array_equal(found.value, fitted["lightgbm"].predict(parts[2][0]).value)


@pytest.mark.parametrize(
    "name", ["../member-0", "/etc", "member-0/../member-1", "..", "", "member-0\n", "member-1234", 7, None]
)
def test_member_outside_the_folder_is_refused(name, saved):
    folder = saved("late")
    edit(folder, state={"members": ["member-0", name], "weights": [0.5, 0.5]})
    with pytest.raises(StoreError, match="names the member"):
        load_model(folder)


def test_linked_and_nested_members_are_refused(saved):
    folder = saved("late")
    shutil.rmtree(folder / "member-1")
    (folder / "member-1").symlink_to(folder)
    with pytest.raises(StoreError, match="link"):
        load_model(folder)
    (folder / "member-1").unlink()
    shutil.copytree(saved("late"), folder.parent / "inner")
    folder = saved("late")
    shutil.rmtree(folder / "member-1")
    shutil.copytree(folder.parent / "inner", folder / "member-1")
    with pytest.raises(StoreError):
        load_model(folder)


@pytest.mark.parametrize("weights", [[0.5], [1.5, -0.5], [0.5, 0.6], ["a", "b"], [float("nan"), 1.0]])
def test_impossible_fusion_weights_are_refused(weights, saved):
    folder = saved("late")
    edit(folder, state={"members": ["member-0", "member-1"], "weights": weights})
    with pytest.raises(StoreError):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"surprise": 1}, "surprise"),
        ({"inputs": {"inputs": {"a": {"kind": "radio"}}}}, "inputs.a.kind"),
        ({"params": {"max_depth": 3, "command": "x"}}, "command"),
        ({"params": {"max_depth": "deep"}}, "does not fit its card"),
        ({"params": {"max_depth": -1}}, "does not fit its card"),
        ({"name": "../tree"}, "unknown model"),
        ({"name": "os"}, "unknown model"),
        ({"name": 3}, "name"),
        ({"name": "lightgbm"}, "not those of a lightgbm model"),
        ({"version": 1}, "layout version 1"),
        ({"format": "other"}, "is not a model's card"),
        ({"kind": "prophecy"}, "kind"),
        ({"kind": "reconstruction"}, "for reconstruction of 0 classes"),
        ({"kind": "classification"}, "for classification of 0 classes"),
        ({"classes": ["a", "b"]}, "for regression of 2 classes"),
        ({"kind": "classification", "classes": ["a", "a"]}, "for classification of 2 classes"),
        ({"kind": "classification", "classes": ["a", "b"]}, "value is F64 of shape"),
        ({"interval": {}}, "does not fit its card"),
        ({"interval": {"level": 0.9, "score": "luck", "thresholds": [0.1], "ties": []}}, "is damaged"),
        ({"interval": {"level": 0.9, "score": "error", "thresholds": [0.1], "ties": [0.5]}}, "is damaged"),
        ({"files": {"../arrays.safetensors": "0"}}, "not those of a tree model"),
        ({"files": {"arrays.safetensors": "0" * 64}}, "is not the file that model.json describes"),
        ({"shapes": {"image": [5, 1, 1]}}, "impossible input shapes"),
        ({"kinds": {"image": "image"}, "shapes": {"image": [5, 1, 1]}}, "sound trees"),
        ({"kinds": {"image": "photo"}}, "kinds"),
        ({"shapes": {}}, "impossible input shapes"),
        ({"shapes": {"image": [5, 8, -8], "spectrum": [40]}}, "impossible input shapes"),
        ({"shapes": {"radio": [3]}}, "impossible input shapes"),
        ({"shapes": None}, "shapes"),
        ({"metrics": {"r2": "good"}}, "metrics"),
    ],
)
def test_damaged_or_strange_cards_are_refused(changes, fault, saved):
    folder = saved("tree")
    edit(folder, **changes)
    with pytest.raises(StoreError, match=fault) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"format": "skyfuse-model"}'])
def test_cards_that_are_none_are_refused(text, saved):
    folder = saved("tree")
    (folder / "model.json").write_text(text)
    with pytest.raises(StoreError):
        load_model(folder)


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        ("NaN", "no number of JSON"),
        ("1e999", "too large a number"),
        ("9" * 5000, "too large a number"),
        ('0.5, "r2": 0.6', "stands there twice"),
        ("[" * 5000, "recursion|JSON"),
    ],
)
def test_cards_hold_finite_numbers_and_each_entry_once(number, fault, saved):
    path = saved("tree") / "model.json"
    path.write_text(path.read_text().replace('"r2": 0.5', f'"r2": {number}'))
    with pytest.raises(StoreError, match=fault) as caught:
        load_model(path.parent)
    assert len(str(caught.value).splitlines()) == 1


def test_missing_and_wrong_places_are_refused(saved, tmp_path):
    with pytest.raises(StoreError, match="no model folder"):
        load_model(tmp_path / "nowhere")
    folder = saved("tree")
    with pytest.raises(StoreError, match="no model folder"):
        load_model(folder / "arrays.safetensors")
    (folder / "arrays.safetensors").unlink()
    with pytest.raises(StoreError, match=r"arrays\.safetensors: is missing"):
        load_model(folder)
    (folder / "model.json").unlink()
    (folder / "model.json").mkdir()
    with pytest.raises(StoreError, match="cannot be read"):
        load_model(folder)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_truncated_weights_are_refused(kind, saved):
    folder = saved(kind)
    path = folder / WEIGHTS[kind]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StoreError, match="is not the file that"):
        load_model(folder)
    edit(folder)
    with pytest.raises(StoreError):
        load_model(folder)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"scaler": {}, "mean": 0.0, "std": 1.0},
        {"scaler": 3, "mean": 0.0, "std": 1.0},
        {"scaler": None, "mean": 1e999, "std": 1.0},
    ],
)
def test_network_without_its_scaler_is_refused(state, saved):
    folder = saved("vggnet12")
    edit(folder, state=state)
    with pytest.raises(StoreError):
        load_model(folder)


def test_weights_of_another_network_are_refused(saved):
    folder = saved("vggnet12")
    save_file({"dense.0.weight": torch.zeros(3, 3)}, folder / "weights.safetensors")
    edit(folder)
    with pytest.raises(StoreError, match="not those of the network"):
        load_model(folder)


def test_card_claiming_a_huge_network_costs_nothing(saved):
    folder = saved("vggnet12")
    edit(folder, shapes={"image": [2**30, 8, 8], "spectrum": [2**30]})
    with pytest.raises(StoreError):
        load_model(folder)


def forged(path, change):
    """Rewrite the header of a file of safetensors, the numbers left as they are."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = next(name for name in header if name != "__metadata__")
    told = change(header, name)
    text = json.dumps(header).encode()
    path.write_bytes((told or len(text)).to_bytes(8, "little") + text + content[8 + length :])


def _lie(key, value):
    return lambda header, name: header[name].update({key: value})


@pytest.mark.parametrize(
    "change",
    [
        lambda header, name: 2**62,
        lambda header, name: 3,
        _lie("dtype", "F16"),
        _lie("dtype", "U128"),
        _lie("shape", [2**40, 2**30]),
        _lie("shape", []),
        _lie("data_offsets", [0, 2**60]),
        _lie("data_offsets", [0, 4]),
        _lie("data_offsets", [8, 0]),
        lambda header, name: header.pop(name) and None,
        lambda header, name: header.update(more={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
        lambda header, name: header.update(
            more={"dtype": "F32", "shape": [2**32], "data_offsets": [2**20, 2**20 + 2**34]}
        ),
        lambda header, name: header.update({"x" * 2**21: header[name]}),
    ],
)
@pytest.mark.parametrize("kind", ["svm", "vggnet12"])
def test_headers_that_lie_are_refused_before_memory_is_taken(kind, change, saved):
    folder = saved(kind)
    forged(folder / WEIGHTS[kind], change)
    edit(folder)
    tracemalloc.start()
    with pytest.raises(StoreError, match=r"safetensors|belong|fit its card|those of the network") as caught:
        load_model(folder)
    assert len(str(caught.value).splitlines()) == 1
    assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    tracemalloc.stop()


def test_huge_weights_are_refused_unread(saved):
    folder = saved("vggnet12")
    with (folder / WEIGHTS["vggnet12"]).open("r+b") as file:
        file.truncate(10 * 2**30)
    with pytest.raises(StoreError, match="is larger than 4294967296 bytes"):
        load_model(folder)


def test_weights_that_are_not_finite_are_refused(saved):
    folder = saved("vggnet12")
    path = folder / WEIGHTS["vggnet12"]
    content = bytearray(path.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    edit(folder)
    with pytest.raises(StoreError, match="is not finite"):
        load_model(folder)


def test_cards_that_claim_endless_features_or_members_cost_nothing(saved):
    folder = saved("lightgbm")
    edit(folder, kinds={"table": "table"}, shapes={"table": [2**31 - 1]})
    with pytest.raises(StoreError, match="does not name 2147483647 features"):
        load_model(folder)
    with pytest.raises(UsageError, match="members 1000000000"):
        MODELS["star-types"](members=10**9)


@pytest.fixture
def taught(parts, fitted, tmp_path):
    """Return the folder of a model that tells what its training looked like, and that."""
    x, _ = parts[0]
    fitted["tree"].card = {**CARD}
    fitted["tree"].applicability = known = Applicability.fit(summarise(x, ()))
    folder = fitted["tree"].save(tmp_path / "taught")
    fitted["tree"].applicability = None
    return folder, known


def test_what_the_training_looked_like_is_kept(taught, parts):
    folder, known = taught
    model = load_model(folder)
    assert model.applicability.names == known.names
    for name, array in known.arrays.items():
        np.testing.assert_array_equal(model.applicability.arrays[name], array)
    new = summarise({name: 3 * array for name, array in parts[2][0].items()}, ())
    assert model.applicability.outside(new).tolist() == known.outside(new).tolist()
    # Another save without it leaves nothing of it behind.
    model.applicability = None
    model.save(folder)
    assert not (folder / "sample.safetensors").exists()
    assert load_model(folder).applicability is None


@pytest.mark.parametrize("wrong", ["gone", "other", "names", "twice", "points"])
def test_what_is_kept_of_the_training_is_checked(taught, tmp_path, wrong):
    folder, known = taught
    card = json.loads((folder / "model.json").read_text())
    names = card["training"]["names"]
    if wrong == "gone":
        (folder / "sample.safetensors").unlink()
    elif wrong == "other":
        content = bytearray((folder / "sample.safetensors").read_bytes())
        content[-1] ^= 1
        (folder / "sample.safetensors").write_bytes(content)
    elif wrong == "points":
        write_arrays(
            {**known.arrays, "points": np.full_like(known.points, np.nan)}, folder, "sample.safetensors"
        )
        card["training"]["sha256"] = sha256(folder / "sample.safetensors")
    else:
        card["training"]["names"] = names[1:] if wrong == "names" else names[:1] * len(names)
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(StoreError):
        load_model(folder)
