"""Boosted trees: LightGBM's text, read as checked numbers and written again from them, and a walk through.

LightGBM's own parser trusts a text: an index or a size that is wrong makes it read other memory. So it never
sees one here. A text is taken apart by its own rules of lines, each entry by what it may hold, and whatever
else stands in it is refused or, where it has no bearing on a prediction, left behind.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyfuse.errors import StoreError

Numbers = NDArray[np.float64]
Indices = NDArray[np.int64]

LIMIT = 256 * 2**20
"""Bytes beyond which a text is not read: a thousand rounds of twenty classes and 31 leaves are 120 MB."""

MOST_LEAVES = 131_072
"""Leaves of one tree at most, LightGBM's own bound."""

_WIDEST = 32
"""Characters of one number at most, with the blank behind it: 17 digits, sign, point, exponent make 25."""

_SIGNS = frozenset("0123456789+-.e ")

_OF_NODES: dict[str, type] = {
    "split_feature": int,
    "split_gain": float,
    "threshold": float,
    "decision_type": int,
    "left_child": int,
    "right_child": int,
    "internal_value": float,
    "internal_weight": float,
    "internal_count": int,
}
_OF_LEAVES: dict[str, type] = {"leaf_value": float, "leaf_weight": float, "leaf_count": int}
_ARRAYS = _OF_NODES | _OF_LEAVES
_OF_TREE = {"num_leaves", "num_cat", "is_linear", "shrinkage", *_ARRAYS}
_OF_HEAD = {
    "version",
    "num_class",
    "num_tree_per_iteration",
    "label_index",
    "max_feature_idx",
    "objective",
    "feature_names",
    "feature_infos",
    "tree_sizes",
}
_LEFT_IF_MISSING = 2
"""Bit of ``decision_type``; the two above it say what counts as missing."""
_ZERO_IS_MISSING = 1
_BLOCK = 128
_DECISIONS = (0, 2, 4, 6, 8, 10)

_LARGEST = repr(float(np.finfo(np.float64).max))

_ZERO = np.float32(1e-35)
"""Size up to which LightGBM takes a number for zero."""

_NODE = np.dtype(
    [("cut", "f4"), ("none", "f4"), ("feature", "i4"), ("left", "i4"), ("right", "i4"), ("lost", "i4")]
)
"""A node: right above its cut, to ``lost`` where the size is not above ``none``, as of NaN. A leaf leads to
itself."""


@dataclass(frozen=True)
class Boosted:
    """Trees whose leaf values add up, one tree for each output in turn.

    Attributes
    ----------
    features : int
        Number of features that the trees may read.
    outputs : int
        1 for a regression, the number of classes for a classification.
    leaves : ndarray of int64, shape (trees,)
        Number of leaves of each tree; it has one inner node fewer.
    shrinkage : ndarray of float64, shape (trees,)
        Learning rate of each tree, which its leaf values hold already.
    arrays : dict of str to ndarray
        LightGBM's arrays, of all trees one after the other. A child is an inner node of the same tree, or
        −1 − i for its leaf i.
    """

    features: int
    outputs: int
    leaves: Indices
    shrinkage: Numbers
    arrays: dict[str, NDArray[Any]]

    @cached_property
    def _links(self) -> tuple[Indices, Indices, Indices]:
        """Roots, left and right children, counted through all trees."""
        nodes = self.leaves - 1
        node, leaf = np.cumsum(nodes) - nodes, np.cumsum(self.leaves) - self.leaves
        sides = []
        for key in ("left_child", "right_child"):
            child = self.arrays[key]
            sides.append(np.where(child < 0, child - np.repeat(leaf, nodes), child + np.repeat(node, nodes)))
        return np.where(nodes > 0, node, -1 - leaf), sides[0], sides[1]

    @cached_property
    def _nodes(self) -> tuple[Indices, NDArray[Any]]:
        """Roots, and all inner nodes followed by all leaves, as `_NODE`."""
        roots, left, right = self._links
        cuts = self.arrays["threshold"]
        missing = self.arrays["decision_type"] >> 2
        nodes = np.zeros(len(cuts) + int(self.leaves.sum()), dtype=_NODE)
        inner, leaves = np.split(nodes, [len(cuts)])
        inner["cut"] = _below(cuts)
        inner["none"] = np.where(missing == _ZERO_IS_MISSING, _ZERO, -1)
        inner["feature"] = self.arrays["split_feature"]
        for side, child in (("left", left), ("right", right)):
            inner[side] = np.where(child < 0, len(cuts) - 1 - child, child)
            leaves[side] = np.arange(len(cuts), len(nodes))
        # Where NaN is not set apart, LightGBM takes it for 0.
        told = (self.arrays["decision_type"] & _LEFT_IF_MISSING) != 0
        inner["lost"] = np.where(np.where(missing == 0, cuts >= 0, told), inner["left"], inner["right"])
        leaves["lost"], leaves["none"] = leaves["left"], -1
        return np.where(roots < 0, len(cuts) - 1 - roots, roots), nodes

    def predict(self, x: NDArray[np.float32], *, threads: int = 1) -> Numbers:
        """Return the values (n,) of a regression, or the probabilities (n, outputs) of a classification.

        They are LightGBM's own to the last bit: the same decisions, and sums in the same order.

        Parameters
        ----------
        x : ndarray of float32, shape (n, features)
            NaN where unknown.
        threads : int
            Number of threads that share the objects.
        """
        found = np.zeros((len(x), self.outputs))
        walked = partial(_add, *self._nodes, self.arrays["leaf_value"])
        threads = min(threads, -(-len(x) // _BLOCK))
        if threads > 1:
            parts = zip(np.array_split(found, threads), np.array_split(x, threads), strict=True)
            with ThreadPoolExecutor(threads) as pool:
                # Views of `found`: each thread fills its own objects.
                list(pool.map(lambda part: walked(*part), parts))
        else:
            walked(found, x)
        if self.outputs == 1:
            return found[:, 0]
        _softmax(found)
        return found

    def text(self) -> str:
        """Return the model as a text that LightGBM reads."""
        ends = {True: np.cumsum(self.leaves - 1), False: np.cumsum(self.leaves)}
        blocks = []
        for i, leaves in enumerate(self.leaves.tolist()):
            lines = [f"Tree={i}", f"num_leaves={leaves}", "num_cat=0"]
            for key in _ARRAYS:
                end = ends[key in _OF_NODES][i]
                values = self.arrays[key][end - leaves + (key in _OF_NODES) : end]
                lines.append(f"{key}={' '.join(map(repr, values.tolist()))}")
            lines += ["is_linear=0", f"shrinkage={float(self.shrinkage[i])!r}"]
            blocks.append("\n".join(lines) + "\n\n\n")
        head = {
            "version": "v4",
            "num_class": self.outputs,
            "num_tree_per_iteration": self.outputs,
            "label_index": 0,
            "max_feature_idx": self.features - 1,
            "objective": _objective(self.outputs),
            "feature_names": _names(self.features),
            # Their ranges are told for the reader's interest alone, and no prediction depends on them.
            "feature_infos": " ".join(["none"] * self.features),
            "tree_sizes": " ".join(str(len(block)) for block in blocks),
        }
        lines = [f"{key}={value}" for key, value in head.items()]
        return "\n".join(["tree", *lines, "", "".join(blocks) + "end of trees", ""])


def read_boosted(path: Path, features: int, outputs: int) -> Boosted:
    """Read a LightGBM text.

    Parameters
    ----------
    path : Path
    features, outputs : int
        As in `Boosted`; the text must agree.

    Raises
    ------
    StoreError
        If the file is larger than `LIMIT`, or holds anything but sound trees.
    """
    try:
        if path.stat().st_size > LIMIT:
            raise ValueError(f"it is larger than {LIMIT} bytes")
        return parse_boosted(path.read_text(encoding="ascii"), features, outputs)
    except (OSError, ValueError, OverflowError) as error:
        raise StoreError(
            f"is no LightGBM text with sound trees ({error})",
            remedy="train the model again, or get the folder again from where it came",
            path=path,
        ) from error


def parse_boosted(text: str, features: int, outputs: int) -> Boosted:
    """Return the trees of a LightGBM text, as `read_boosted`.

    Raises
    ------
    ValueError, OverflowError
        If it holds anything else.
    """
    # Each feature has a name in the text, so that a card cannot claim more than it pays for.
    if features > len(text):
        raise ValueError(f"it does not name {features} features")
    # What follows (importances, parameters of the training) has no bearing on a prediction.
    trees, mark, _ = text.partition("\nend of trees\n")
    first, *blocks = trees.split("\nTree=")
    if not mark or not blocks or len(blocks) % outputs:
        raise ValueError("it does not begin with trees that end")
    _check_head(first, [len(block) + len("Tree=\n") for block in blocks], features, outputs)
    leaves, shrinkage = np.empty(len(blocks), dtype=np.int64), np.empty(len(blocks))
    lines: dict[str, list[str]] = {key: [] for key in _ARRAYS}
    for i, block in enumerate(blocks):
        number, _, rest = block.partition("\n")
        entries = _entries(rest, _OF_TREE)
        leaves[i] = count = int(entries["num_leaves"])
        shrinkage[i] = float(entries["shrinkage"])
        # Neither categories nor linear leaves are ever fitted here, and both would add indices to follow.
        plain = entries["num_cat"] == "0" and entries["is_linear"] == "0" and number == str(i)
        if not plain or not 1 <= count <= MOST_LEAVES:
            raise ValueError(f"tree {i} is none of numbers alone")
        for key, found in lines.items():
            found.append(_line(key, entries[key], count))
    arrays = {key: _numbers(key, found) for key, found in lines.items()}
    boosted = Boosted(features, outputs, leaves, shrinkage, arrays)
    _check(boosted)
    return boosted


def _check(boosted: Boosted) -> None:
    """Refuse trees on which a walk would leave the arrays, turn in circles or meet no number."""
    arrays, leaves = boosted.arrays, boosted.leaves
    if not all(np.isfinite(array).all() for array in (*arrays.values(), boosted.shrinkage)):
        raise ValueError("a number is not finite")
    feature = arrays["split_feature"]
    if ((feature < 0) | (feature >= boosted.features)).any():
        raise ValueError(f"a cut reads a feature other than its {boosted.features}")
    if not np.isin(arrays["decision_type"], _DECISIONS).all():
        raise ValueError("a cut is of no known kind")
    # LightGBM numbers an inner child after its parent. Each node but the root, and each leaf, is one child.
    nodes = leaves - 1
    count, node = (
        np.repeat(leaves, nodes),
        np.arange(nodes.sum()) - np.repeat(np.cumsum(nodes) - nodes, nodes),
    )
    sides = (arrays["left_child"], arrays["right_child"])
    inside = all(
        (((side < 0) | (side > node)) & (side >= -count) & (side < count - 1)).all() for side in sides
    )
    if not inside or len(np.unique(np.concatenate(boosted._links[1:]))) < 2 * len(node):
        raise ValueError("the nodes of a tree lead astray")


def _objective(outputs: int) -> str:
    return "regression" if outputs == 1 else f"multiclass num_class:{outputs}"


def _names(features: int) -> str:
    return " ".join(f"Column_{i}" for i in range(features))


def _check_head(block: str, sizes: list[int], features: int, outputs: int) -> None:
    kind, _, rest = block.partition("\n")
    entries = _entries(rest, _OF_HEAD)
    expected = {
        "version": "v4",
        "num_class": str(outputs),
        "num_tree_per_iteration": str(outputs),
        "label_index": "0",
        "max_feature_idx": str(features - 1),
        "objective": _objective(outputs),
        "feature_names": _names(features),
        "tree_sizes": " ".join(map(str, sizes)),
    }
    wrong = [key for key, value in expected.items() if entries[key] != value]
    if kind != "tree" or wrong or len(entries["feature_infos"].split(" ")) != features:
        raise ValueError(f"{(wrong or ['its head'])[0]} is not that of the model on its card")


def _entries(block: str, keys: set[str]) -> dict[str, str]:
    """Return the entries of a block, which must be these and each stand there once."""
    pairs = [line.partition("=") for line in block.split("\n") if line]
    entries = {key: value for key, _, value in pairs}
    if entries.keys() != keys or len(pairs) != len(keys):
        odd = sorted(entries.keys() ^ keys)
        raise ValueError(f"{odd[0][:40]!r} is missing or unknown" if odd else "an entry stands there twice")
    return entries


def _line(key: str, line: str, leaves: int) -> str:
    """Return one array of a tree as it stands, once it is as many words as it must be numbers."""
    count = leaves - (key in _OF_NODES)
    if leaves == 1 and key != "leaf_value":
        # Of a tree that is a single leaf LightGBM leaves out what has no meaning.
        return "0" if count else ""
    if line.count(" ") != count - 1 or len(line) > _WIDEST * count:
        raise ValueError(f"{key} is not {count} numbers")
    return line


def _numbers(key: str, lines: list[str]) -> NDArray[Any]:
    """Return one array of all trees."""
    joined = " ".join(line for line in lines if line)
    if key != "leaf_value":
        # A cut between known and missing alone lies at infinity; every number is below the largest one.
        joined = joined.replace("inf", _LARGEST)
    if not _SIGNS.issuperset(joined):
        raise ValueError(f"{key} is not of numbers alone")
    kind = _ARRAYS[key]
    return np.array([kind(word) for word in joined.split(" ")] if joined else [], dtype=kind)


def _below(cuts: Numbers) -> NDArray[np.float32]:
    """Return cuts as float32 that part every float32 as these do, where tiny samples count as 0."""
    with np.errstate(over="ignore"):
        near = cuts.astype(np.float32)
    least = np.float32(-np.inf)
    near = np.where(near.astype(np.float64) > cuts, np.nextafter(near, least), near)
    near = np.where((cuts >= 0) & (near < _ZERO), _ZERO, near)
    return np.where((cuts < 0) & (near >= -_ZERO), np.nextafter(-_ZERO, least), near)


@njit(cache=True, nogil=True)
def _add(roots: Indices, nodes: NDArray[Any], value: Numbers, found: Numbers, x: NDArray[np.float32]) -> None:
    """Add the values of the leaves in which each object ends to `found`, (n, outputs)."""
    outputs, inner = found.shape[1], len(nodes) - len(value)
    at = np.empty(_BLOCK, np.int32)
    # By blocks of objects, so that a tree stays in the processor's nearest memory. All objects of a block
    # take a step before any takes the next: the processor works on many at once, where the way of one alone
    # leaves it waiting. Those that are in their leaf stay there.
    for start in range(0, len(x), _BLOCK):
        count = min(_BLOCK, len(x) - start)
        for tree in range(len(roots)):
            output = tree % outputs
            at[:count] = roots[tree]
            walking = roots[tree] < inner
            while walking:
                walking = False
                for k in range(count):
                    # Unsigned, an index costs no look at whether it counts from the end.
                    node = nodes[np.uint32(at[k])]
                    sample = x[np.uint64(start + k), np.uint32(node.feature)]
                    # All three are read, so that no branch has to be guessed.
                    left, right, lost = node.left, node.right, node.lost
                    known = right if sample > node.cut else left
                    step = known if abs(sample) > node.none else lost
                    at[k] = step
                    walking |= step < inner
            for k in range(count):
                found[start + k, output] += value[np.uint64(at[k] - inner)]


@njit(cache=True, nogil=True)
def _softmax(score: Numbers) -> None:
    """Turn rows of sums into probabilities, in LightGBM's own order of operations."""
    for row in score:
        most, total = row.max(), 0.0
        for k in range(len(row)):
            row[k] = np.exp(row[k] - most)
            total += row[k]
        for k in range(len(row)):
            row[k] /= total
