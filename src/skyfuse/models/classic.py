"""Trees: one decision tree, and gradient boosting with LightGBM."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from skyfuse.errors import StoreError, UsageError
from skyfuse.models import files
from skyfuse.models.base import Arrays, History, Model, Progress, rmse


def _matrix(x: Arrays) -> NDArray[np.float32]:
    """Flatten and join the modalities: (n, features), NaN kept; a single modality is a view, not a copy."""
    flat = [array.reshape(len(array), -1) for array in x.values()]
    return flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)


def _features(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


class DecisionTree(Model):
    """Regression tree (CART, scikit-learn), which sends missing values to the better side of each cut.

    Parameters
    ----------
    max_depth : int, default 4
        1 to 6 in the star-formation study.
    """

    name: ClassVar[str] = "tree"

    def __init__(self, *, max_depth: int = 4) -> None:
        if max_depth < 1:
            raise UsageError(f"max_depth is {max_depth}", remedy="give 1 or more")
        super().__init__(max_depth=max_depth)
        self._tree: Any = None

    def _fit(
        self,
        train: Arrays,
        y: NDArray[np.float64],
        valid: Arrays,
        y_valid: NDArray[np.float64],
        *,
        seed: int,
        folder: Path | None,
        progress: Progress | None,
    ) -> History:
        from sklearn.tree import DecisionTreeRegressor

        # Leaves of a few objects carry the label's scatter, not its mean: five at least.
        tree = DecisionTreeRegressor(
            max_depth=self.params["max_depth"], min_samples_leaf=5, random_state=seed
        )
        x = _matrix(train)
        self._tree = tree.fit(x, y)
        if progress is not None:
            progress(1, 1, f"tree of {tree.get_n_leaves()} leaves")
        return History(
            train=[rmse(tree.predict(x) - y)], valid=[rmse(tree.predict(_matrix(valid)) - y_valid)], best=0
        )

    def _predict(self, x: Arrays) -> NDArray[np.float64]:
        return np.asarray(self._tree.predict(_matrix(x)), dtype=np.float64)

    def _write(self, folder: Path) -> dict[str, Any]:
        files.write_tree(self._tree, folder)
        return {}

    @classmethod
    def _read(
        cls, folder: Path, params: dict[str, Any], shapes: dict[str, tuple[int, ...]], state: dict[str, Any]
    ) -> Self:
        model = cls(**params)
        model._tree = files.read_tree(folder)
        _check_width(model._tree.n_features_in_, shapes, folder)
        model.shapes = shapes
        return model


class LightGBM(Model):
    """Gradient boosting of trees with early stopping on the validation part.

    Parameters
    ----------
    learning_rate : float, default 0.1
    max_depth : int, default 4
        Depth of each tree; its leaves are at most ``min(2**max_depth, 31)``.
    max_rounds : int, default 1000
        Trees at most; the best number on the validation part is kept.
    patience : int, default 10
        Rounds without a better validation error after which boosting stops (10 in the star-formation study).
    threads : int, default 1
        The model does not depend on it. One, because threads that wait for a core that others use cost far
        more than they gain (5 times the time, measured on two busy cores); cells of a study run side by side
        instead.

    Notes
    -----
    Wide inputs (an image of zoom 0 is 20,480 features) are kept affordable by 63 histogram bins instead of
    255 and, beyond 2,000 features, by showing each tree a random part of them, 2,000 in the mean:
    neighbouring pixels and bins say nearly the same, so that the trees lose little.
    """

    name: ClassVar[str] = "lightgbm"

    def __init__(
        self,
        *,
        learning_rate: float = 0.1,
        max_depth: int = 4,
        max_rounds: int = 1000,
        patience: int = 10,
        threads: int = 1,
    ) -> None:
        if not 0 < learning_rate <= 1:
            raise UsageError(f"learning_rate is {learning_rate}", remedy="give more than 0 and at most 1")
        if min(max_depth, max_rounds, patience, threads) < 1:
            raise UsageError(
                f"max_depth {max_depth}, max_rounds {max_rounds}, patience {patience} "
                f"or threads {threads} is below 1",
                remedy="give 1 or more for each",
            )
        super().__init__(
            learning_rate=learning_rate,
            max_depth=max_depth,
            max_rounds=max_rounds,
            patience=patience,
            threads=threads,
        )
        self._booster: Any = None

    def _fit(
        self,
        train: Arrays,
        y: NDArray[np.float64],
        valid: Arrays,
        y_valid: NDArray[np.float64],
        *,
        seed: int,
        folder: Path | None,
        progress: Progress | None,
    ) -> History:
        import lightgbm

        params = self.params
        x = _matrix(train)
        settings = {
            "objective": "regression",
            "metric": "rmse",
            "learning_rate": params["learning_rate"],
            "max_depth": params["max_depth"],
            "num_leaves": min(2 ** params["max_depth"], 31),
            "max_bin": MAX_BIN,
            # Pixels and bins are dense: there is nothing to bundle, and looking for it doubles the set-up.
            "enable_bundle": False,
            "feature_fraction": min(1.0, FEATURES_PER_TREE / x.shape[1]),
            "num_threads": params["threads"],
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }
        parts = lightgbm.Dataset(x, y, params=settings)
        curves: dict[str, dict[str, list[float]]] = {}

        def report(env: Any) -> None:
            if progress is not None:
                progress(
                    env.iteration + 1,
                    params["max_rounds"],
                    f"valid RMSE {env.evaluation_result_list[1][2]:.4f}",
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
            valid_sets=[parts, lightgbm.Dataset(_matrix(valid), y_valid, reference=parts)],
            valid_names=["train", "valid"],
            callbacks=callbacks,
        )
        # Through its own text, so that a fitted model is to the last bit the one that a file gives back.
        self._booster = lightgbm.Booster(
            model_str=booster.model_to_string(num_iteration=booster.best_iteration)
        )
        return History(
            train=curves["train"]["rmse"], valid=curves["valid"]["rmse"], best=booster.best_iteration - 1
        )

    def _predict(self, x: Arrays) -> NDArray[np.float64]:
        value = self._booster.predict(_matrix(x), num_threads=self.params["threads"])
        return np.asarray(value, dtype=np.float64)

    def _write(self, folder: Path) -> dict[str, Any]:
        files.write_text(self._booster.model_to_string(), folder)
        return {}

    @classmethod
    def _read(
        cls, folder: Path, params: dict[str, Any], shapes: dict[str, tuple[int, ...]], state: dict[str, Any]
    ) -> Self:
        import lightgbm

        model = cls(**params)
        text = files.read_text(folder)
        try:
            model._booster = lightgbm.Booster(model_str=text)
        except lightgbm.basic.LightGBMError as error:
            raise StoreError(
                f"holds no LightGBM model ({error})", remedy="train the model again", path=folder
            ) from error
        _check_width(model._booster.num_feature(), shapes, folder)
        model.shapes = shapes
        return model


MAX_BIN = 63
"""Histogram bins a feature; LightGBM's documentation recommends 63 for speed at hardly any loss."""

FEATURES_PER_TREE = 2000
"""Features that one boosted tree sees, in the mean."""


def _check_width(features: int, shapes: dict[str, tuple[int, ...]], folder: Path) -> None:
    if features != _features(shapes):
        raise StoreError(
            f"reads {features} features where its card describes {_features(shapes)}",
            remedy="train the model again",
            path=folder,
        )
