"""A model as data: regression trees, and the names and numbers its columns are made with, as JSON.

JSON, and no pickle nor a format that rebuilds objects: the warehouse's table is others' to write too, and nothing
in it may be executed by who reads it. It also reads without scikit-learn, in another language if need be, and is the
same bytes for the same model. What is read is checked as what a stranger wrote.
"""

import json
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from delay_model.errors import ModelUnreadable
from delay_model.features import COLUMNS, Matrix, Usual, known

FORMAT = "delay-model/1"
_USUAL_OF = frozenset({"carrier", "origin", "dest", "hour"})

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A tree by its nodes: from the first on to `left` where the feature is at most the threshold, else to `right`.

    A node with left = 0 is a leaf, whose `value` is added to the prediction. Where the feature is not known the way is
    left or right by `missing_left`.
    """

    feature: npt.NDArray[np.int64]
    threshold: Vector
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    missing_left: npt.NDArray[np.bool_]
    value: Vector

    def add_to(self, prediction: Vector, matrix: Matrix) -> None:
        """Add each row's leaf."""
        at = np.zeros(len(matrix), dtype=np.int64)
        going = np.arange(len(matrix))
        while len(going := going[self.left[at[going]] > 0]):
            node = at[going]
            seen = matrix[going, self.feature[node]]
            to_left = np.where(np.isnan(seen), self.missing_left[node], seen <= self.threshold[node])
            at[going] = np.where(to_left, self.left[node], self.right[node])
        prediction += self.value[at]


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Trees whose leaves add up, from `start` on, to a delay in minutes."""

    start: float
    usual: Usual
    trees: tuple[Tree, ...]

    def predict(self, flights: pl.DataFrame) -> Vector:
        """The delay of each flight, in minutes. `flights` hold days whole: a day's earlier departures are looked at."""
        return self.add_up(known(flights, self.usual))

    def add_up(self, matrix: Matrix) -> Vector:
        """The same from the columns themselves."""
        prediction = np.full(len(matrix), self.start)
        for tree in self.trees:
            tree.add_to(prediction, matrix)
        return prediction

    def to_bytes(self) -> bytes:
        """The same model is always the same bytes."""
        told = {
            "format": FORMAT,
            "columns": COLUMNS,
            "start": self.start,
            "usual": {"of_all": self.usual.of_all, "of": self.usual.of},
            "trees": [{name: list(map(_plain, getattr(tree, name))) for name in _FIELDS} for tree in self.trees],
        }
        return json.dumps(told, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        """Read a model.

        Raises:
            ModelUnreadable: it is none, is of another format, or looks at columns that this image does not make.
        """
        try:
            told = json.loads(stored)
            if told["format"] != FORMAT or told["columns"] != list(COLUMNS):
                raise ModelUnreadable(f"it is of format {told['format']!r}, or has other columns than {FORMAT!r} here")
            usual = {str(name): _numbers(by) for name, by in told["usual"]["of"].items()}
            read = cls(
                start=_number(told["start"]),
                usual=Usual(of_all=_number(told["usual"]["of_all"]), of=usual),
                trees=tuple(_tree(one) for one in told["trees"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as exc:
            raise ModelUnreadable(f"the stored bytes are no model: {type(exc).__name__}: {exc}") from exc
        if usual.keys() != _USUAL_OF:
            raise ModelUnreadable("the model does not say what is usual of carrier, origin, dest and hour")
        return read


_FIELDS: dict[str, type] = {
    "feature": np.int64,
    "threshold": np.float64,
    "left": np.int64,
    "right": np.int64,
    "missing_left": np.bool_,
    "value": np.float64,
}


def _plain(value: Any) -> Any:
    return value.item()


def _number(value: Any) -> float:
    number = float(value)
    if isinstance(value, str) or not np.isfinite(number):
        raise ValueError(f"{value!r} is no number")
    return number


def _numbers(by: dict[str, Any]) -> dict[str, float]:
    return {str(name): _number(value) for name, value in by.items()}


def _tree(told: dict[str, Any]) -> Tree:
    fields: dict[str, npt.NDArray[Any]] = {name: np.array(told[name], dtype=kind) for name, kind in _FIELDS.items()}
    size = len(fields["left"])
    # Forward only: a walk through the tree ends.
    here = np.arange(size)
    leaf = (fields["left"] == 0) & (fields["right"] == 0)
    inner = (fields["left"] > here) & (fields["right"] > here) & (fields["left"] < size) & (fields["right"] < size)
    fits = (fields["feature"] >= 0) & (fields["feature"] < len(COLUMNS))
    finite = np.isfinite(fields["value"]) & np.isfinite(fields["threshold"])
    if not size or {one.shape for one in fields.values()} != {(size,)} or not ((leaf | inner) & fits & finite).all():
        raise ValueError("a tree's nodes do not hang together")
    return Tree(**fields)
