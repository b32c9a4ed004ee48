# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx>=0.28", "pandas>=2.3", "psycopg[binary]>=3.2"]
# ///
"""The rival as tutorials have it: JSON lines into pandas, a merge, executemany. Prints rows and seconds.

In an environment of its own, which uv makes: `uv run --script pandas_executemany.py SOURCE WAREHOUSE DAY`.
"""

import io
import json
import sys
import time

import httpx
import pandas
import psycopg

WEATHER = ("temp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")


def read(source: str, table: str) -> pandas.DataFrame:
    """A table of the source."""
    answer = httpx.get(f"{source}/{table}", headers={"accept": "application/x-ndjson"}, timeout=300)
    answer.raise_for_status()
    return pandas.read_json(io.StringIO(answer.text), lines=True, dtype=False)


def main(source: str, warehouse: str, day: str) -> None:
    """Fetch, check, merge, insert."""
    begun = time.monotonic()
    flights, weather = read(source, "flights"), read(source, "weather")
    weather = weather[["origin", "time_hour", *WEATHER]].rename(columns={name: f"weather_{name}" for name in WEATHER})
    good = flights[(flights["distance"] > 0) & flights["carrier"].notna() & flights["origin"].notna()]
    rows = good.drop_duplicates(["time_hour", "carrier", "flight"]).merge(
        weather, on=["origin", "time_hour"], how="left"
    )
    rows.insert(0, "logical_date", day)
    rows = rows.astype(object).where(rows.notna(), None)
    names, places = ", ".join(rows.columns), ", ".join(["%s"] * len(rows.columns))
    with psycopg.connect(warehouse) as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM flights WHERE logical_date = %s", (day,))
        cursor.executemany(f"INSERT INTO flights ({names}) VALUES ({places})", rows.itertuples(index=False, name=None))
    sys.stdout.write(json.dumps({"rows": len(rows), "seconds": time.monotonic() - begun}))


if __name__ == "__main__":
    main(*sys.argv[1:])
