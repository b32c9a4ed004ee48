"""Fits a model: scikit-learn's gradient boosting on the days before those held out, turned into data (see ensemble)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from delay_model.days import Days
from delay_model.ensemble import Ensemble, Tree
from delay_model.features import COLUMNS, Usual, departed, known

_SEED = 20130101
_TREES = 120
_LEAVES = 24
_LEAST_IN_A_LEAF = 60
_LEARNING_RATE = 0.08


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model, and by column which share of what it learned it owes to each, adding up to 1."""

    model: Ensemble
    importances: dict[str, float]


def train(days: Days) -> Trained:
    """Fit a model on the flights before `held_out_from`; the same days make the same model.

    Its loss is the absolute error, as that of the comparison: a few very late flights shall not pull all others.
    """
    # Only a run that trains needs it, and its import takes longer than the rest of the start.
    from sklearn.ensemble import HistGradientBoostingRegressor  # noqa: PLC0415
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    fitted_on = departed(days.flights, before=days.held_out_from)
    flights = days.flights.filter(fitted_on)
    usual = Usual.learn(flights)
    # The columns are made before rows are left out, and of whole days: what was known does not depend on who is asked.
    whole = days.flights.filter(days.flights["logical_date"] < days.held_out_from)
    matrix = known(whole, usual)[departed(whole).to_numpy()]
    # scikit-learn cannot take a column of which nothing is known at all; one that never changes is never split.
    matrix[:, np.isnan(matrix).all(axis=0)] = 0.0
    regressor = HistGradientBoostingRegressor(
        loss="absolute_error",
        learning_rate=_LEARNING_RATE,
        max_iter=_TREES,
        max_leaf_nodes=_LEAVES,
        min_samples_leaf=_LEAST_IN_A_LEAF,
        early_stopping=False,
        random_state=_SEED,
    )
    # Sums of several threads' parts may differ in their last digit from one time to the next.
    with threadpool_limits(limits=1):
        regressor.fit(matrix, flights["dep_delay"].to_numpy().astype(np.float64))
    model = Ensemble(
        start=float(np.ravel(regressor._baseline_prediction)[0]),
        usual=usual,
        trees=tuple(_tree(predictor.nodes) for (predictor,) in regressor._predictors),
    )
    return Trained(model=model, importances=_importances(regressor))


def _tree(nodes: Any) -> Tree:
    """A tree of scikit-learn's, whose nodes are in the order in which they were made: children after their parents."""
    leaf = nodes["is_leaf"].astype(bool)
    # A split of what is known from what is not has no threshold: any number is below.
    threshold = np.minimum(nodes["num_threshold"], np.finfo(np.float64).max)
    return Tree(
        feature=np.where(leaf, 0, nodes["feature_idx"]).astype(np.int64),
        threshold=np.where(leaf, 0.0, threshold).astype(np.float64),
        left=np.where(leaf, 0, nodes["left"]).astype(np.int64),
        right=np.where(leaf, 0, nodes["right"]).astype(np.int64),
        missing_left=np.where(leaf, False, nodes["missing_go_to_left"]).astype(bool),
        value=np.where(leaf, nodes["value"], 0.0).astype(np.float64),
    )


def _importances(regressor: Any) -> dict[str, float]:
    gains = np.zeros(len(COLUMNS))
    for (predictor,) in regressor._predictors:
        inner = predictor.nodes[predictor.nodes["is_leaf"] == 0]
        np.add.at(gains, inner["feature_idx"], np.maximum(inner["gain"], 0.0))
    total = gains.sum() or 1.0
    return dict(zip(COLUMNS, (gains / total).tolist(), strict=True))
