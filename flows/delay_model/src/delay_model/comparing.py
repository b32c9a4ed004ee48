"""Judges models by flights that none of them was fitted on: how far off each is, and whether the new one is better."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from delay_model.days import Days
from delay_model.ensemble import Ensemble, Vector
from delay_model.features import departed

# How far off a prediction may be to count as good, in minutes: what people call on time.
_GOOD = 15
_HOUR = (pl.col("sched_dep_time") // 100).alias("scheduled_hour")


@dataclass(frozen=True, kw_only=True)
class Errors:
    """How far off predictions are: on average and at worst half of them, in minutes; the share within 15 minutes."""

    mean_absolute: float
    root_mean_square: float
    within_15: float

    @classmethod
    def of(cls, predicted: Vector, actual: Vector) -> "Errors":
        """Compare."""
        off = np.abs(predicted - actual)
        return cls(
            mean_absolute=float(off.mean()),
            root_mean_square=float(np.sqrt(np.square(off).mean())),
            within_15=float((off <= _GOOD).mean()),
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The errors on the held-out days; `in_use`: of the model that is in use, where there is a readable one."""

    flights: int
    new: Errors
    baseline: Errors
    in_use: Errors | None
    predicted: Vector
    actual: Vector

    @property
    def is_better(self) -> bool:
        """Whether the new model is better than the baseline and than the model in use."""
        rivals = [self.baseline, *([self.in_use] if self.in_use else [])]
        return all(self.new.mean_absolute < rival.mean_absolute for rival in rivals)

    @property
    def metrics(self) -> Mapping[str, Errors]:
        """By what was judged."""
        told = {"new": self.new, "baseline": self.baseline}
        return told | {"in use": self.in_use} if self.in_use else told

    @property
    def verdict(self) -> str:
        """One line for people."""
        told = ", ".join(f"{name} {errors.mean_absolute:.2f}" for name, errors in self.metrics.items())
        better = "better than the rest" if self.is_better else "not better than the rest"
        return f"the new model is {better} on {self.flights} held-out flights (mean absolute error, minutes: {told})"


def compare(days: Days, new: Ensemble, *, in_use: Ensemble | None) -> Comparison:
    """Have each model predict the held-out flights."""
    held_out = days.flights.filter(days.flights["logical_date"] >= days.held_out_from)
    judged = departed(held_out).to_numpy()
    actual = held_out["dep_delay"].to_numpy()[judged].astype(np.float64)
    predicted = new.predict(held_out)[judged]
    rival = Errors.of(in_use.predict(held_out)[judged], actual) if in_use else None
    return Comparison(
        flights=len(actual),
        new=Errors.of(predicted, actual),
        baseline=Errors.of(_usual(days, held_out)[judged], actual),
        in_use=rival,
        predicted=predicted,
        actual=actual,
    )


def _usual(days: Days, held_out: pl.DataFrame) -> Vector:
    """The baseline: the median delay of the carrier in that hour, on the days that the model was fitted on."""
    fitted_on = days.flights.filter(departed(days.flights, before=days.held_out_from))
    median = pl.col("dep_delay").median()
    by_both = fitted_on.group_by("carrier", _HOUR).agg(both=median)
    by_carrier = fitted_on.group_by("carrier").agg(carrier_alone=median)
    told = (
        held_out.with_columns(_HOUR)
        .join(by_both, on=["carrier", "scheduled_hour"], how="left", maintain_order="left")
        .join(by_carrier, on="carrier", how="left", maintain_order="left")
        .select(pl.coalesce("both", "carrier_alone", pl.lit(fitted_on["dep_delay"].median())))
    )
    return told.to_series().to_numpy().astype(np.float64)
