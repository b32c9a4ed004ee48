"""What a training's artifacts show: errors beside its rivals', what it goes by, and how true its predictions are."""

from collections.abc import Mapping, Sequence

import numpy as np
from etl.artifacts import Artifact
from etl.drawing import Axis, Chart

from delay_model.comparing import Comparison
from delay_model.days import Days

METRICS, IMPORTANCES, CALIBRATION = "delay-model-metrics", "delay-model-importances", "delay-model-calibration"

# How many of the columns are drawn, and into how many equal parts the flights are divided.
_MOST_COLUMNS = 10
_PARTS = 10


def artifacts(days: Days, comparison: Comparison, importances: Mapping[str, float], *, note: str) -> Sequence[Artifact]:
    """The three of them; `note`: what was decided."""
    held_out = f"{comparison.flights} flights held out, {days.held_out_from} to {days.last}"
    return (
        Artifact.table(METRICS, metrics(comparison), description=f"{note}. Judged on {held_out}"),
        Artifact.drawing(
            IMPORTANCES,
            importances_drawn(importances),
            description=f"Fitted on the days from {days.first} up to {days.held_out_from}: what the model goes by",
        ),
        Artifact.drawing(
            CALIBRATION, calibration(comparison), description=f"Predicted and actual delays of {held_out}"
        ),
    )


def metrics(comparison: Comparison) -> list[dict[str, str | float]]:
    """A row a model; errors in minutes."""
    return [
        {
            "model": name,
            "mean absolute error (min)": round(errors.mean_absolute, 3),
            "root mean square error (min)": round(errors.root_mean_square, 3),
            "within 15 min (%)": round(100 * errors.within_15, 1),
        }
        for name, errors in comparison.metrics.items()
    ]


def importances_drawn(importances: Mapping[str, float]) -> str:
    """The columns that count most, the most important one on top."""
    most = sorted(importances.items(), key=lambda one: -one[1])[:_MOST_COLUMNS]
    chart = Chart(
        "What the model goes by",
        across=Axis.around([100 * share for _, share in most], label="share of what it learned, %"),
        up=Axis(
            label="",
            low=-0.5,
            high=len(most) - 0.5,
            ticks=[(len(most) - 1 - place, name.replace("_", " ")) for place, (name, _) in enumerate(most)],
        ),
        left=190,
    )
    for place, (name, share) in enumerate(most):
        chart.lying_bar("a", len(most) - 1 - place, 100 * share, text=f"{name}: {100 * share:.1f} %")
    return chart.svg()


def calibration(comparison: Comparison) -> str:
    """Flights in ten parts by what was predicted of them: the median of each part's delays against its prediction."""
    order = np.argsort(comparison.predicted, kind="stable")
    parts = [part for part in np.array_split(order, _PARTS) if len(part)]
    points = [
        (float(comparison.predicted[part].mean()), float(np.median(comparison.actual[part])), len(part))
        for part in parts
    ]
    every = [value for x, y, _ in points for value in (x, y)]
    chart = Chart(
        "Predicted and actual departure delay",
        across=Axis.around(every, label="predicted delay, minutes (mean of a tenth of the flights)"),
        up=Axis.around(every, label="actual delay, minutes"),
    )
    low, high = min((0.0, *every)), max((0.0, *every))
    chart.line("b", [(low, low), (high, high)], dashed=True)
    for x, y, number in points:
        chart.dot("a", x, y, text=f"{number} flights: predicted {x:.1f} min, median {y:.1f} min")
    chart.legend("a", "median of the tenth's delays")
    chart.legend("b", "where both are the same")
    return chart.svg()
