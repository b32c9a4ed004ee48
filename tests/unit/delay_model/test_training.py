"""The model: better than a plain baseline on real flights, the same from the same rows, and blind to the future."""

import json
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from delay_model.comparing import compare
from delay_model.days import STALE_AFTER, WINDOW, Days, judge, read
from delay_model.ensemble import Ensemble
from delay_model.errors import ModelUnreadable, StaleDays, TooFewDays
from delay_model.features import COLUMNS, Usual, departed, known
from delay_model.training import Trained, train
from sklearn.ensemble import HistGradientBoostingRegressor

from .conftest import LOADED, LOGICAL_DATE, WEATHER, load

# How many nodes a tree with as many leaves as it may have has.
NODES = 2 * 24 - 1


@pytest.fixture(scope="module")
def trained(few: Days) -> Trained:
    return train(few)


def shuffled(flights: pl.DataFrame, *, since: date) -> pl.DataFrame:
    """The same flights, whose delays from a day on are another's."""
    later = pl.col("logical_date") >= since
    return flights.with_columns(
        pl.when(later).then(pl.col("dep_delay").shuffle(seed=7)).otherwise(pl.col("dep_delay")).alias("dep_delay")
    )


async def test_it_is_better_than_the_baseline_on_days_it_never_saw(warehouse: str, window: pl.DataFrame) -> None:
    """Trained from the warehouse's own rows; by a third of a minute on average, and more are within 15 minutes."""
    load(warehouse, window)
    days = read(warehouse, LOGICAL_DATE, least_days=WINDOW, statement_timeout_seconds=60)
    assert (days.number, days.flights.height) == (WINDOW, window.height)
    comparison = compare(days, train(days).model, in_use=None)
    assert comparison.flights > 10_000
    assert comparison.new.mean_absolute < comparison.baseline.mean_absolute - 0.3
    assert comparison.new.within_15 > comparison.baseline.within_15
    assert comparison.is_better


def test_the_same_days_make_the_same_bytes(few: Days, trained: Trained) -> None:
    """And the same figures, whichever day the training is repeated."""
    again = train(few)
    assert again.model.to_bytes() == trained.model.to_bytes()
    assert again.importances == trained.importances
    first, second = (compare(few, one.model, in_use=None).metrics for one in (trained, again))
    assert first == second


def test_what_happens_later_changes_no_model(few: Days, trained: Trained) -> None:
    """The delays of the held-out days, by which it is judged, are another's: the model is the same to the last byte."""
    other = judge(shuffled(few.flights, since=few.held_out_from), LOGICAL_DATE, least_days=21)
    assert other.flights["dep_delay"].to_list() != few.flights["dep_delay"].to_list()
    assert train(other).model.to_bytes() == trained.model.to_bytes()


def test_what_happens_later_on_the_day_is_not_known_of_a_flight(few: Days) -> None:
    """Whatever becomes of an hour's flights and of those after, its columns stay as they are; later ones look back."""
    day = few.flights.filter(pl.col("logical_date") == few.first)
    usual = Usual.learn(day.filter(departed(day)))
    hour = day["time_hour"].unique().sort()[8]
    earlier = (day["time_hour"] <= hour).to_numpy()
    other = day.with_columns(
        pl.when(pl.col("time_hour") >= hour).then(-59).otherwise(pl.col("dep_delay")).cast(pl.Int32).alias("dep_delay"),
        *(
            pl.when(pl.col("time_hour") >= hour)
            .then(-1.0)
            .otherwise(pl.col(f"weather_{name}"))
            .alias(f"weather_{name}")
            for name in WEATHER
        ),
    )
    before, after = known(day, usual), known(other, usual)
    np.testing.assert_array_equal(before[earlier], after[earlier])
    assert not np.array_equal(before[~earlier], after[~earlier], equal_nan=True)


def test_what_is_known_of_a_flight_is_as_counted_by_hand(few: Days) -> None:
    """Departures of its origin in the three hours before its own, counted without the code under test."""
    day = few.flights.filter(pl.col("logical_date") == few.first)
    columns = known(day, Usual.learn(day.filter(departed(day))))
    rows = day.to_dicts()
    number, mean = COLUMNS.index("origin_departures_so_far"), COLUMNS.index("origin_delay_so_far")
    for place in range(0, len(rows), 97):
        at = rows[place]["time_hour"]
        seen = []
        for row in rows:
            if row["origin"] != rows[place]["origin"] or row["dep_delay"] is None or row["time_hour"] >= at:
                continue
            left = row["time_hour"] + timedelta(minutes=row["sched_dep_time"] % 100 + row["dep_delay"])
            if at - timedelta(hours=3) < max(left, row["time_hour"] + timedelta(hours=1)) <= at:
                seen.append(min(max(row["dep_delay"], -30), 180))
        assert columns[place, number] == len(seen)
        assert columns[place, mean] == pytest.approx(sum(seen) / len(seen) if seen else float("nan"), nan_ok=True)


def test_what_is_stored_predicts_as_scikit_learn_does(few: Days, trained: Trained) -> None:
    """The trees are taken out of scikit-learn by parts of it that another release may change."""
    flights = few.flights.filter(few.flights["logical_date"] < few.held_out_from)
    told = departed(flights).to_numpy()
    matrix = known(flights, trained.model.usual)[told]
    theirs = HistGradientBoostingRegressor(
        loss="absolute_error",
        learning_rate=0.08,
        max_iter=len(trained.model.trees),
        max_leaf_nodes=24,
        min_samples_leaf=60,
        early_stopping=False,
        random_state=20130101,
    ).fit(matrix, flights["dep_delay"].to_numpy()[told].astype(float))
    read_back = Ensemble.from_bytes(trained.model.to_bytes())
    held_out = few.flights.filter(few.flights["logical_date"] >= few.held_out_from)
    columns = known(held_out, trained.model.usual)
    np.testing.assert_allclose(read_back.add_up(columns), theirs.predict(columns), rtol=1e-9, atol=1e-9)


def test_days_without_any_weather_are_learned_from_all_the_same(few: Days) -> None:
    """A source that has none: those columns are of no use, and no reason to fail."""
    bare = few.flights.with_columns(pl.lit(None, dtype=pl.Float64).alias(f"weather_{name}") for name in WEATHER)
    days = judge(bare, LOGICAL_DATE, least_days=21)
    trained = train(days)
    assert {share for column, share in trained.importances.items() if column.startswith("weather_")} == {0.0}
    assert np.isfinite(trained.model.predict(bare)).all()


def test_importances_are_shares(trained: Trained) -> None:
    """Of what the model learned, by column."""
    assert set(trained.importances) == set(COLUMNS)
    assert sum(trained.importances.values()) == pytest.approx(1.0)
    assert min(trained.importances.values()) >= 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda told: "no JSON at all",
        lambda told: b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.".decode("latin-1"),
        lambda told: json.dumps(told | {"format": "delay-model/2"}),
        lambda told: json.dumps(told | {"columns": ["minute_of_day"]}),
        lambda told: json.dumps(told | {"usual": {"of_all": 1.0, "of": {"carrier": {}}}}),
        lambda told: json.dumps(told | {"start": None}),
        lambda told: json.dumps(told | {"trees": [told["trees"][0] | {"left": [0] * len(told["trees"][0]["left"])}]}),
        lambda told: json.dumps(
            told | {"trees": [told["trees"][0] | {"feature": [99] * len(told["trees"][0]["left"])}]}
        ),
        lambda told: json.dumps(told | {"trees": [told["trees"][0] | {"value": [1.0]}]}),
        lambda told: "[" * 100_000,
    ],
)
def test_bytes_that_are_no_model_are_refused(trained: Trained, spoil: object) -> None:
    """The table is others' to write: a loop, a pickle, another's format end in one kind of error, and run nothing."""
    assert callable(spoil)
    with pytest.raises(ModelUnreadable):
        Ensemble.from_bytes(spoil(json.loads(trained.model.to_bytes())).encode())


def test_too_few_days_are_refused(window: pl.DataFrame) -> None:
    """With how many there are, how many are needed, and what to do."""
    some = window.filter(pl.col("logical_date") >= LOGICAL_DATE - timedelta(days=20))
    with pytest.raises(TooFewDays, match=r"20 days from 2013-01-08 on .* at least 21 are needed: .*backfill of etl"):
        judge(some, LOGICAL_DATE, least_days=21)


async def test_an_empty_warehouse_is_refused(warehouse: str) -> None:
    """As too few days; nothing fails on the way."""
    with pytest.raises(TooFewDays, match="0 days"):
        read(warehouse, LOGICAL_DATE, least_days=5, statement_timeout_seconds=60)


@pytest.mark.parametrize(("age", "refused"), [(STALE_AFTER, False), (STALE_AFTER + 1, True)])
def test_stale_days_are_refused(window: pl.DataFrame, age: int, refused: bool) -> None:
    """Where the newest loaded day is more than eight days older than the logical date."""
    old = window.filter(pl.col("logical_date") <= LOGICAL_DATE - timedelta(days=age))
    if not refused:
        assert judge(old, LOGICAL_DATE, least_days=60).last == LOGICAL_DATE - timedelta(days=age)
        return
    with pytest.raises(StaleDays, match=r"2013-03-30, 9 days older, at most 8 .* backfill"):
        judge(old, LOGICAL_DATE, least_days=60)


async def test_days_outside_the_window_are_not_read(warehouse: str, flights: pl.DataFrame) -> None:
    """Neither older ones, nor the logical date itself, nor what lies after it."""
    some = flights.filter(
        pl.col("logical_date").is_in([LOGICAL_DATE - timedelta(days=before) for before in (91, 90, 1, 0, -1)])
    ).select("logical_date", *LOADED, *(f"weather_{name}" for name in WEATHER))
    load(warehouse, some)
    days = read(warehouse, LOGICAL_DATE, least_days=2, statement_timeout_seconds=60)
    assert (days.first, days.last, days.number) == (date(2013, 1, 8), date(2013, 4, 7), 2)
