"""Classic models: linear, logistic, nearest neighbours, support vectors, trees and gradient boosting.

All read any mix of modalities as one flat row of features. Where an estimator cannot take them as they come,
they are made ready by the training part's own statistics: missing features become the median, and features
are scaled by what holds against the outliers of catalogues. On disk a model is its arrays or LightGBM's text.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyfuse.errors import DataError, StoreError, UsageError
from skyfuse.models import files
from skyfuse.models.base import METRIC, History, Lesson, Model, log_loss
from skyfuse.models.boosted import Boosted, parse_boosted, read_boosted
from skyfuse.models.inputs import Arrays
from skyfuse.words import Kind

Matrix = NDArray[np.float32]
Numbers = NDArray[np.float64]

BOTH: frozenset[Kind] = frozenset({"regression", "classification"})


def _matrix(x: Arrays) -> Matrix:
    """Flatten and join the arrays: (n, features), NaN kept; a single one is a view, not a copy."""
    flat = [array.reshape(len(array), -1) for array in x.values()]
    matrix = flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)
    infinite = np.isinf(matrix)
    return np.where(infinite, np.float32(np.nan), matrix) if infinite.any() else matrix


class _Classic(Model):
    @property
    def _features(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    @property
    def _outputs(self) -> int:
        return len(self.classes) or 1

    def _say(self, lesson: Lesson, what: str) -> None:
        if lesson.progress is not None:
            lesson.progress(1, 1, what)

    def _require_positive(self, *names: str, optional: str = "") -> None:
        """Refuse parameters that are not above 0; the optional one may be None, which is its default."""
        if optional and self.params[optional] is not None:
            names = (*names, optional)
        wrong = [name for name in names if self.params[name] is None or not self.params[name] > 0]
        if wrong:
            raise UsageError(f"{wrong[0]} is {self.params[wrong[0]]}", remedy="give a number above 0")


# ------------------------------------------------------------------------------------ where the scale matters


class _Scaled(_Classic):
    """A model of scaled features without gaps, kept as its arrays.

    Features are told in robust standard deviations from the median, and those beyond `limit` count as at it:
    one magnitude of 99, or the long tail of an error column, would otherwise rule the distances.
    """

    weights: ClassVar[tuple[str, ...]] = (files.ARRAYS,)
    layout: ClassVar[files.Layout]
    limit: ClassVar[float] = 5.0

    _columns: dict[str, Numbers]
    _own: dict[str, NDArray[Any]]

    @abstractmethod
    def _learn(self, train: Matrix, valid: Matrix, lesson: Lesson) -> dict[str, NDArray[Any]]:
        """Return the arrays of `layout`."""

    @abstractmethod
    def _apply(self, x: Matrix) -> Numbers:
        """Predict from scaled features."""

    def _fit(self, lesson: Lesson) -> History:
        train = _matrix(lesson.train)
        self._columns = _column_statistics(train)
        train, valid = self._scale(train), self._scale(_matrix(lesson.valid))
        self._own = self._learn(train, valid, lesson)
        self._say(lesson, f"{self.name} of {self._features} features")
        return lesson.history(self._apply(train), self._apply(valid))

    def _scale(self, x: Matrix) -> Matrix:
        scaled = (x - self._columns["median"]) / self._columns["scale"]
        return np.clip(np.nan_to_num(scaled), -self.limit, self.limit).astype(np.float32)

    def _predict(self, x: Arrays) -> Numbers:
        return self._apply(self._scale(_matrix(x)))

    def _write(self, folder: Path) -> dict[str, Any]:
        files.write_arrays(self._columns | self._own, folder)
        return {}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        columns: files.Layout = dict.fromkeys(("median", "scale"), ("f8", ("features",)))
        arrays = files.read_arrays(
            folder, {**columns, **self.layout}, features=self._features, outputs=self._outputs
        )
        self._columns = {name: arrays[name] for name in columns}
        self._own = {name: arrays[name] for name in self.layout}
        if not (self._columns["scale"] > 0).all():
            raise StoreError("has a scale that is not positive", remedy="train the model again", path=folder)


def _column_statistics(x: Matrix) -> dict[str, Numbers]:
    """Return the median (0 where nothing is known) and half the width of the middle 68 % of each column."""
    known = ~np.isnan(x).all(axis=0)
    low, median, high = np.zeros((3, x.shape[1]))
    scale, spread = np.zeros((2, x.shape[1]))
    if known.any():
        low[known], median[known], high[known] = np.nanpercentile(x[:, known], GAUSSIAN, axis=0)
        scale = (high - low) / 2
        spread[known] = np.nanstd(x[:, known], axis=0, dtype=np.float64)
    # A column that nearly always has one value is scaled by the rest; a constant one, of which rounding may
    # leave a trace, not at all.
    scale = np.where(scale > 0, scale, spread)
    return {"median": median, "scale": np.where(scale > 1e-7 * np.abs(median), scale, 1.0)}


GAUSSIAN = (15.87, 50.0, 84.13)
"""Percentiles at −1, 0 and 1 standard deviation of a Gaussian."""


def _softmax(score: Numbers) -> Numbers:
    raised = np.exp(score - score.max(axis=1, keepdims=True))
    probability: Numbers = raised / raised.sum(axis=1, keepdims=True)
    return probability


class Linear(_Scaled):
    """Linear regression: ordinary least squares, or ridge where there are many features.

    Parameters
    ----------
    alpha : float, optional
        Ridge penalty: the mean square error + alpha · |coefficients|² is minimised, with features scaled. 0:
        ordinary least squares (of least norm). By default 0 where there are ten objects or more for each
        feature, else the power of ten from 1e-6 to 1e3 that is best on the validation part.
    """

    name: ClassVar[str] = "linear"
    title: ClassVar[str] = "Linear regression"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"regression"})
    layout: ClassVar[files.Layout] = {"slope": ("f8", ("features",)), "intercept": ("f8", ("outputs",))}
    # A line goes on as far as the data do.
    limit: ClassVar[float] = np.inf

    def __init__(self, *, alpha: float | None = None) -> None:
        if alpha is not None and not alpha >= 0:
            raise UsageError(f"alpha is {alpha}", remedy="give 0 or more")
        super().__init__(alpha=alpha)

    def _learn(self, train: Matrix, valid: Matrix, lesson: Lesson) -> dict[str, NDArray[Any]]:
        weight = np.ones(len(train)) if lesson.weight is None else lesson.weight
        root = np.sqrt(weight / weight.sum())
        x, y = train.astype(np.float64), lesson.y
        centre, intercept = weight @ x / weight.sum(), float(weight @ y / weight.sum())
        left, size, right = np.linalg.svd(root[:, None] * (x - centre), full_matrices=False)
        aim = left.T @ (root * (y - intercept))
        # Features arrive as float32: what is smaller than their rounding is no direction of its own.
        kept = size > size.max() * 1e-6 * np.sqrt(x.shape[1])
        alphas = [self.params["alpha"]]
        if alphas[0] is None:
            alphas = [0.0] if len(x) >= 10 * x.shape[1] else [10.0**power for power in range(-6, 4)]
        best, slope = np.inf, np.zeros(x.shape[1])
        for alpha in alphas:
            shrunk = np.divide(size, size**2 + alpha, where=kept, out=np.zeros_like(size))
            found = right.T @ (shrunk * aim)
            error = np.mean(np.square((valid - centre) @ found + intercept - lesson.y_valid))
            if error < best:
                best, slope = error, found
        return {"slope": slope, "intercept": np.array([intercept - centre @ slope])}

    def _apply(self, x: Matrix) -> Numbers:
        value: Numbers = x @ self._own["slope"] + self._own["intercept"]
        return value


class Logistic(_Scaled):
    """Multinomial logistic regression with a ridge penalty (scikit-learn, L-BFGS).

    Parameters
    ----------
    C : float, default 1
        Inverse of the penalty's strength.
    """

    name: ClassVar[str] = "logistic"
    title: ClassVar[str] = "Logistic regression"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})
    libraries: ClassVar[tuple[str, ...]] = ("scikit-learn",)
    layout: ClassVar[files.Layout] = {
        "slope": ("f8", ("features", "outputs")),
        "intercept": ("f8", ("outputs",)),
    }

    def __init__(self, *, C: float = 1.0) -> None:
        super().__init__(C=C)
        self._require_positive("C")

    def _learn(self, train: Matrix, valid: Matrix, lesson: Lesson) -> dict[str, NDArray[Any]]:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        estimator = LogisticRegression(C=self.params["C"], max_iter=1000)
        with warnings.catch_warnings():
            # Short of the optimum by less than the penalty's own arbitrariness.
            warnings.simplefilter("ignore", ConvergenceWarning)
            estimator.fit(train.astype(np.float64), lesson.y, sample_weight=lesson.weight)
        slope, intercept = estimator.coef_.T, estimator.intercept_
        if len(estimator.classes_) == 2:
            slope, intercept = np.hstack([0 * slope, slope]), np.append(0.0, intercept)
        # A class that the training part lacks has no chance.
        slopes, intercepts = np.zeros((train.shape[1], self._outputs)), np.full(self._outputs, -1e9)
        slopes[:, estimator.classes_], intercepts[estimator.classes_] = slope, intercept
        return {"slope": slopes, "intercept": intercepts}

    def _apply(self, x: Matrix) -> Numbers:
        return _softmax(x @ self._own["slope"] + self._own["intercept"])


class Neighbours(_Scaled):
    """K nearest neighbours: the mean label, or the share of each class, of the nearest training objects.

    Parameters
    ----------
    k : int, default 20
        5, 20 and 100 in the table studies; all training objects where there are fewer.
    """

    name: ClassVar[str] = "knn"
    title: ClassVar[str] = "k nearest neighbours"
    kinds: ClassVar[frozenset[Kind]] = BOTH
    libraries: ClassVar[tuple[str, ...]] = ("scikit-learn",)
    layout: ClassVar[files.Layout] = {
        "points": ("f4", ("objects", "features")),
        "labels": ("f8", ("objects", "outputs")),
        "weight": ("f8", ("objects",)),
    }

    _index: Any = None

    def __init__(self, *, k: int = 20) -> None:
        super().__init__(k=k)
        self._require_positive("k")

    def _learn(self, train: Matrix, valid: Matrix, lesson: Lesson) -> dict[str, NDArray[Any]]:
        self._index = None
        labels = np.eye(self._outputs)[lesson.y] if self.classes else lesson.y[:, None]
        return {
            "points": train,
            "labels": labels,
            "weight": np.ones(len(train)) if lesson.weight is None else lesson.weight,
        }

    def _apply(self, x: Matrix) -> Numbers:
        from sklearn.neighbors import NearestNeighbors

        labels, weight = self._own["labels"], self._own["weight"]
        if self._index is None:
            k = min(self.params["k"], len(labels))
            self._index = NearestNeighbors(n_neighbors=k).fit(self._own["points"])
        rows = self._index.kneighbors(x, return_distance=False)
        near = weight[rows] / weight[rows].sum(axis=1, keepdims=True)
        mean: Numbers = np.einsum("ij,ijk->ik", near, labels[rows])
        return mean if self.classes else mean[:, 0]

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        super()._read(folder, state)
        if not len(self._own["weight"]) or not (self._own["weight"] > 0).all():
            raise StoreError("has no objects of positive weight", remedy="train the model again", path=folder)
        self._index = None


class SupportVectors(_Scaled):
    """Support vector machine with a Gaussian kernel (scikit-learn, libsvm).

    Parameters
    ----------
    C : float, default 1
        Price of an error against smoothness.
    gamma : float, optional
        Of the kernel exp(−gamma · distance²) between scaled features; by default 1 / features.
    epsilon : float, default 0.1
        Regression: error that costs nothing, in standard deviations of the label.

    Notes
    -----
    Probabilities come from the decisions d between two classes each: class c has p ∝ Π σ(a · d(c, other)),
    and the one slope a is what is most likely on the validation part (Platt 1999's calibration without its
    offset, so that the decisions stand). Training time grows with the square of the number of objects.
    """

    name: ClassVar[str] = "svm"
    title: ClassVar[str] = "SVM"
    kinds: ClassVar[frozenset[Kind]] = BOTH
    libraries: ClassVar[tuple[str, ...]] = ("scikit-learn",)
    layout: ClassVar[files.Layout] = {
        "vectors": ("f4", ("vectors", "features")),
        "dual": ("f8", ("vectors", "decisions")),
        "intercept": ("f8", ("decisions",)),
        "sides": ("i4", ("decisions", "both")),
        "unit": ("f8", ("both",)),
    }

    def __init__(self, *, C: float = 1.0, gamma: float | None = None, epsilon: float = 0.1) -> None:
        super().__init__(C=C, gamma=gamma, epsilon=epsilon)
        self._require_positive("C", "epsilon", optional="gamma")

    def _learn(self, train: Matrix, valid: Matrix, lesson: Lesson) -> dict[str, NDArray[Any]]:
        from sklearn.svm import SVC, SVR

        settings = {"C": self.params["C"], "gamma": self._gamma, "cache_size": 500}
        if not self.classes:
            mean, std = float(lesson.y.mean()), float(lesson.y.std()) or 1.0
            machine = SVR(epsilon=self.params["epsilon"], **settings)
            machine.fit(train, (lesson.y - mean) / std, sample_weight=lesson.weight)
            return {
                "vectors": train[machine.support_],
                "dual": machine.dual_coef_.T,
                "intercept": machine.intercept_,
                "sides": np.zeros((1, 2), dtype=np.int32),
                "unit": np.array([mean, std]),
            }
        machine = SVC(**settings).fit(train, lesson.y, sample_weight=lesson.weight)
        count, ends = len(machine.classes_), np.cumsum(machine.n_support_)
        spans = [slice(end - n, end) for end, n in zip(ends, machine.n_support_, strict=True)]
        pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
        dual = np.zeros((len(machine.support_), len(pairs)))
        # libsvm's layout: a class's vectors hold one row of factors for each other class, in order.
        for column, (i, j) in enumerate(pairs):
            dual[spans[i], column] = machine.dual_coef_[j - 1, spans[i]]
            dual[spans[j], column] = machine.dual_coef_[i, spans[j]]
        # A decision is positive for the first of a pair, but with two classes scikit-learn turns it round.
        sides = machine.classes_[np.array(pairs if count > 2 else [(1, 0)])].astype(np.int32)
        own = {
            "vectors": train[machine.support_],
            "dual": dual,
            "intercept": machine.intercept_,
            "sides": sides,
        }
        from scipy.optimize import minimize_scalar

        decisions = self._decisions(valid, own)
        found = minimize_scalar(
            lambda power: log_loss(_coupled(decisions, sides, np.exp(power), self._outputs), lesson.y_valid),
            bounds=(-5, 5),
            method="bounded",
        )
        return own | {"unit": np.array([np.exp(found.x), 0.0])}

    @property
    def _gamma(self) -> float:
        return float(self.params["gamma"] or 1 / self._features)

    def _decisions(self, x: Matrix, own: dict[str, NDArray[Any]]) -> Numbers:
        vectors = own["vectors"].astype(np.float64)
        norms = np.square(vectors).sum(axis=1)
        decisions = np.empty((len(x), len(own["intercept"])))
        for start in range(0, len(x), ROWS):
            part = x[start : start + ROWS].astype(np.float64)
            distance = np.square(part).sum(axis=1)[:, None] + norms - 2 * part @ vectors.T
            decisions[start : start + ROWS] = np.exp(-self._gamma * distance) @ own["dual"] + own["intercept"]
        return decisions

    def _apply(self, x: Matrix) -> Numbers:
        decisions, unit = self._decisions(x, self._own), self._own["unit"]
        if self.classes:
            return _coupled(decisions, self._own["sides"], unit[0], self._outputs)
        value: Numbers = decisions[:, 0] * unit[1] + unit[0]
        return value

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        super()._read(folder, state)
        sides, count = self._own["sides"], self._own["sides"].shape[0]
        if sides.shape[1] != 2 or (sides < 0).any() or (sides >= self._outputs).any() or not count:
            raise StoreError("decides between no classes", remedy="train the model again", path=folder)


ROWS = 1000
"""Objects whose distances to all support vectors are in memory at a time."""


def _coupled(decisions: Numbers, sides: NDArray[np.int32], slope: float, outputs: int) -> Numbers:
    """Return probabilities (n, outputs) from decisions between pairs of classes; see `SupportVectors`."""
    score = np.full((len(decisions), outputs), -np.inf)
    score[:, np.unique(sides)] = 0
    for decision, (first, second) in zip(decisions.T, sides, strict=True):
        score[:, first] -= np.logaddexp(0, -slope * decision)
        score[:, second] -= np.logaddexp(0, slope * decision)
    return _softmax(score)


# ----------------------------------------------------------------------------------------------------- trees


class _Trees(_Classic):
    """One tree or many (CART, scikit-learn), which send missing values to the better side of each cut."""

    kinds: ClassVar[frozenset[Kind]] = BOTH
    weights: ClassVar[tuple[str, ...]] = (files.ARRAYS,)
    libraries: ClassVar[tuple[str, ...]] = ("scikit-learn",)
    layout: ClassVar[files.Layout] = {
        "roots": ("i4", ("trees",)),
        "left": ("i4", ("nodes",)),
        "right": ("i4", ("nodes",)),
        "feature": ("i4", ("nodes",)),
        "threshold": ("f8", ("nodes",)),
        "missing_left": ("u1", ("nodes",)),
        "value": ("f8", ("nodes", "outputs")),
    }

    _nodes: dict[str, NDArray[Any]]

    @abstractmethod
    def _grow(self, x: Matrix, lesson: Lesson) -> list[Any]:
        """Return fitted scikit-learn trees; the labels of a classification are indices of all classes."""

    def _fit(self, lesson: Lesson) -> History:
        x = _matrix(lesson.train)
        present = np.unique(lesson.y) if self.classes else np.array([0])
        trees = [estimator.tree_ for estimator in self._grow(x, lesson)]
        roots = np.cumsum([0, *(tree.node_count for tree in trees)])[:-1].astype(np.int32)
        value = np.zeros((sum(tree.node_count for tree in trees), self._outputs))
        value[:, present] = np.concatenate([tree.value[:, 0, :] for tree in trees])
        self._nodes = {
            "roots": roots,
            "feature": np.concatenate([tree.feature for tree in trees]).astype(np.int32),
            # A cut between known and missing alone lies at infinity; every number is below the largest one.
            "threshold": np.nan_to_num(np.concatenate([tree.threshold for tree in trees])),
            "missing_left": np.concatenate([tree.missing_go_to_left for tree in trees]).astype(np.uint8),
            "value": value,
        }
        for side in ("left", "right"):
            children = [getattr(tree, f"children_{side}") for tree in trees]
            self._nodes[side] = np.concatenate(
                [np.where(child < 0, -1, child + root) for child, root in zip(children, roots, strict=True)]
            ).astype(np.int32)
        leaves = int((self._nodes["left"] < 0).sum())
        self._say(lesson, f"{len(trees)} trees of {leaves} leaves")
        return lesson.history(self._predict(lesson.train), self._predict(lesson.valid))

    def _predict(self, x: Arrays) -> Numbers:
        nodes = self._nodes
        mean: Numbers = _walk(_matrix(x), *(nodes[name] for name in self.layout))
        return mean if self.classes else mean[:, 0]

    def _write(self, folder: Path) -> dict[str, Any]:
        files.write_arrays(self._nodes, folder)
        return {}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        nodes = files.read_arrays(folder, self.layout, outputs=self._outputs)
        left, right, feature = nodes["left"], nodes["right"], nodes["feature"]
        inner = left != -1
        # Children are numbered after their parent; so no walk can leave the arrays or turn in circles.
        parents, count = np.flatnonzero(inner), len(left)
        sound = (
            len(nodes["roots"]) > 0
            and ((nodes["roots"] >= 0) & (nodes["roots"] < count)).all()
            and (right[~inner] == -1).all()
            and all(((child[inner] > parents) & (child[inner] < count)).all() for child in (left, right))
            and ((feature[inner] >= 0) & (feature[inner] < self._features)).all()
        )
        if not sound:
            raise StoreError(
                "does not hold sound trees", remedy="train the model again", path=folder / files.ARRAYS
            )
        self._nodes = nodes


@njit(cache=True, nogil=True)
def _walk(
    x: Matrix,
    roots: NDArray[np.int32],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    feature: NDArray[np.int32],
    threshold: Numbers,
    missing_left: NDArray[np.uint8],
    value: Numbers,
) -> Numbers:
    """Return the mean over trees of the value of the leaf in which each object ends: (n, outputs)."""
    mean = np.zeros((len(x), value.shape[1]))
    for i in range(len(x)):
        for root in roots:
            node = root
            while left[node] >= 0:
                sample = x[i, feature[node]]
                goes_left = missing_left[node] == 1 if np.isnan(sample) else sample <= threshold[node]
                node = left[node] if goes_left else right[node]
            for output in range(value.shape[1]):
                mean[i, output] += value[node, output]
    return mean / len(roots)


class DecisionTree(_Trees):
    """One decision tree.

    Parameters
    ----------
    max_depth : int, default 4
        1 to 6 in the star-formation study.
    min_leaf : int, default 5
        Objects in a leaf at least: leaves of fewer carry the label's scatter, not its mean.
    """

    name: ClassVar[str] = "tree"
    title: ClassVar[str] = "Decision tree"

    def __init__(self, *, max_depth: int = 4, min_leaf: int = 5) -> None:
        super().__init__(max_depth=max_depth, min_leaf=min_leaf)
        self._require_positive("max_depth", "min_leaf")

    def _grow(self, x: Matrix, lesson: Lesson) -> list[Any]:
        from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

        tree = (DecisionTreeClassifier if self.classes else DecisionTreeRegressor)(
            max_depth=self.params["max_depth"],
            min_samples_leaf=self.params["min_leaf"],
            random_state=lesson.seed,
        )
        return [tree.fit(x, lesson.y, sample_weight=lesson.weight)]


class Forest(_Trees):
    """Random forest: the mean of trees that each saw other objects and, at each cut, other features.

    A cut is sought among a third of the features (regression) or as many as the root of their number
    (classification), as Breiman (2001, Machine Learning 45, 5) and Hastie, Tibshirani & Friedman (2009,
    section 15.3) recommend.

    Parameters
    ----------
    trees : int, default 200
        Number of trees.
    max_depth : int, optional
        By default trees grow until their leaves are pure or too small to part.
    min_leaf : int, default 2
        Objects in a leaf at least.
    """

    name: ClassVar[str] = "forest"
    title: ClassVar[str] = "Random forest"

    def __init__(self, *, trees: int = 200, max_depth: int | None = None, min_leaf: int = 2) -> None:
        super().__init__(trees=trees, max_depth=max_depth, min_leaf=min_leaf)
        self._require_positive("trees", "min_leaf", optional="max_depth")

    def _grow(self, x: Matrix, lesson: Lesson) -> list[Any]:
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

        forest = (RandomForestClassifier if self.classes else RandomForestRegressor)(
            n_estimators=self.params["trees"],
            max_depth=self.params["max_depth"],
            min_samples_leaf=self.params["min_leaf"],
            max_features="sqrt" if self.classes else 1 / 3,
            random_state=lesson.seed,
        )
        return list(forest.fit(x, lesson.y, sample_weight=lesson.weight).estimators_)


class LightGBM(_Classic):
    """Gradient boosting of trees with early stopping on the validation part.

    Parameters
    ----------
    learning_rate : float, default 0.1
        Share of what is left to learn that each tree takes.
    max_depth : int, default 4
        Depth of each tree; its leaves are at most ``min(2**max_depth, leaves)``.
    leaves : int, default 31
        Leaves of each tree at most.
    min_leaf : int, default 20
        Objects in a leaf at least.
    features : float, default 1
        Share of the features that each tree sees, in the mean.
    rows : float, default 1
        Share of the objects that each tree sees.
    bins : int, default 63
        Histogram bins a feature; LightGBM's documentation recommends 63 for speed at hardly any loss. Tables
        of few columns can afford 255.
    max_rounds : int, default 1000
        Rounds at most, each of one tree or of one tree for each class; the best number on the validation part
        is kept.
    patience : int, default 10
        Rounds without a better validation error after which boosting stops (10 in the star-formation study).
    threads : int, default 1
        The model does not depend on it. One, because threads that wait for a core that others use cost far
        more than they gain (5 times the time, measured on two busy cores); cells of a study run side by side
        instead.

    Notes
    -----
    Wide inputs (an image of zoom 0 is 20,480 features) are kept affordable by the few bins and, beyond 2,000
    features, by showing each tree a random part of them, 2,000 in the mean: neighbouring pixels and bins say
    nearly the same, so that the trees lose little.
    """

    name: ClassVar[str] = "lightgbm"
    title: ClassVar[str] = "LightGBM"
    kinds: ClassVar[frozenset[Kind]] = BOTH
    weights: ClassVar[tuple[str, ...]] = (files.TEXT,)
    libraries: ClassVar[tuple[str, ...]] = ("lightgbm",)
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "learning_rate": 0.1,
            "max_depth": 4,
            "leaves": 31,
            "min_leaf": 20,
            "features": 1.0,
            "rows": 1.0,
            "bins": 63,
            "max_rounds": 1000,
            "patience": 10,
            "threads": 1,
        }
    )

    _boosted: Boosted

    def __init__(self, **params: Any) -> None:
        super().__init__(**self.completed(params))
        self._require_positive(*self.params)
        above = [name for name in ("learning_rate", "features", "rows") if self.params[name] > 1]
        if above:
            raise UsageError(f"{above[0]} is {self.params[above[0]]}", remedy="give at most 1")
        few = [name for name in ("leaves", "bins") if self.params[name] < 2]
        if few:
            raise UsageError(f"{few[0]} is {self.params[few[0]]}", remedy="give 2 or more")

    def _fit(self, lesson: Lesson) -> History:
        import lightgbm

        params = self.params
        x = _matrix(lesson.train)
        settings = self._settings(x.shape[1], lesson.seed)
        parts = lightgbm.Dataset(x, lesson.y, weight=lesson.weight, params=settings)
        curves: dict[str, dict[str, list[float]]] = {}

        def report(env: Any) -> None:
            if lesson.progress is not None:
                lesson.progress(
                    env.iteration + 1,
                    params["max_rounds"],
                    f"valid {METRIC[self.kind]} {env.evaluation_result_list[1][2]:.4f}",
                )

        callbacks = [
            lightgbm.early_stopping(params["patience"], first_metric_only=True, verbose=False),
            lightgbm.record_evaluation(curves),
            report,
        ]
        booster = lightgbm.train(
            settings,
            parts,
            num_boost_round=params["max_rounds"],
            valid_sets=[parts, lightgbm.Dataset(_matrix(lesson.valid), lesson.y_valid, reference=parts)],
            valid_names=["train", "valid"],
            callbacks=callbacks,
        )
        text = booster.model_to_string(num_iteration=booster.best_iteration)
        try:
            self._boosted = parse_boosted(text, x.shape[1], self._outputs)
        except ValueError as error:
            raise DataError(
                f"boosting ended in no sound trees ({error})", remedy="look for labels of impossible size"
            ) from error
        return History(
            train=curves["train"][settings["metric"]],
            valid=curves["valid"][settings["metric"]],
            best=booster.best_iteration - 1,
            metric=METRIC[self.kind],
        )

    def _settings(self, features: int, seed: int) -> dict[str, Any]:
        """Return the parameters as LightGBM calls them."""
        params = self.params
        return {
            "objective": "multiclass" if self.classes else "regression",
            "num_class": self._outputs,
            "metric": "multi_logloss" if self.classes else "rmse",
            "learning_rate": params["learning_rate"],
            "max_depth": params["max_depth"],
            "num_leaves": min(2 ** params["max_depth"], params["leaves"]),
            "min_data_in_leaf": params["min_leaf"],
            "max_bin": params["bins"],
            # Pixels and bins are dense: there is nothing to bundle, and looking for it doubles the set-up.
            "enable_bundle": False,
            "feature_fraction": min(params["features"], FEATURES_PER_TREE / features),
            "bagging_fraction": params["rows"],
            "bagging_freq": int(params["rows"] < 1),
            "num_threads": params["threads"],
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }

    def _predict(self, x: Arrays) -> Numbers:
        return self._boosted.predict(_matrix(x), threads=self.params["threads"])

    def _write(self, folder: Path) -> dict[str, Any]:
        (folder / files.TEXT).write_text(self._boosted.text(), encoding="ascii")
        return {}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        self._boosted = read_boosted(folder / files.TEXT, self._features, self._outputs)


FEATURES_PER_TREE = 2000
"""Features that one boosted tree sees, in the mean."""
