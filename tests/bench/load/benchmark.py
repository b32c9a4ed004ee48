"""`load`: a day through the whole ETL, against the rows alone by `\\copy`, and against what tutorials do."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from etl.migrate import migrate
from source.records import Records

from ..benchmark import Benchmark, Figures, Growth, Setting, Target, Variant
from ..machine import Postgres, Unready, free_port, measured, postgres, psql, serving
from ..series import ROOT
from . import day

ROWS = {"5m": 5_000_000, "25m": 25_000_000, "100k": 100_000}
SHORT_ROWS = {"5m": 100_000, "25m": 500_000, "100k": 2_000}

_PANDAS = Path(__file__).parent / "pandas_executemany.py"


@contextmanager
def opened(setting: Setting) -> Iterator[Callable[[Variant], Figures]]:
    """The days, as files; a source that sends them; a warehouse."""
    records = Records.load()
    rows = SHORT_ROWS if setting.short else ROWS
    with ExitStack() as stack:
        days, sources = dict[str, Path](), dict[str, str]()
        for size, count in rows.items():
            folder = setting.folder / f"{count}-{setting.seed}"
            if not (folder / "made").exists():
                setting.say(f"  a day of {count:,} flights is made")
                _make(records, count, folder, seed=setting.seed, for_pandas=size == "100k")
            port = free_port()
            command = [sys.executable, "-m", "tests.bench.load.server", str(folder), str(port)]
            stack.enter_context(serving(command, port=port, log=setting.folder / f"source-{size}.log"))
            days[size], sources[size] = folder, f"http://127.0.0.1:{port}"
        setting.say("  an environment with pandas is made")
        _make_environment()
        server = stack.enter_context(postgres(setting.folder))
        warehouse = server.database("bench_load")
        asyncio.run(migrate(warehouse))

        def take(variant: Variant) -> Figures:
            how, _, size = variant.name.partition("-")
            server.execute("bench_load", "TRUNCATE flights, rejects, loads, claims", "CHECKPOINT")
            figures = _HOW[how](days[size], sources[size], warehouse)
            _require(server, rows[size])
            return {**figures, "rows_per_second": rows[size] / figures["seconds"]}

        yield take


def _make(records: Records, rows: int, folder: Path, *, seed: int, for_pandas: bool) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    day.write(records, rows, folder, seed=seed)
    day.write_csv(folder, folder / "flights.csv")
    if for_pandas:
        day.write_ndjson(folder)
    (folder / "made").touch()


def _whole(_: Path, source: str, warehouse: str) -> dict[str, float]:
    used = measured([sys.executable, "-m", "tests.bench.load.whole", source, warehouse])
    told = used.told
    steps = ("seconds", "fetch_seconds", "transform_seconds", "load_seconds")
    return {**{step: told[step] for step in steps}, "cpu_seconds": used.cpu_seconds, "peak_bytes": used.peak_bytes}


def _copy(folder: Path, _: str, warehouse: str) -> dict[str, float]:
    command = f"\\copy flights FROM '{folder / 'flights.csv'}' (FORMAT csv)"
    used = measured([str(psql()), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", warehouse, "--command", command])
    return {"seconds": used.seconds, "cpu_seconds": used.cpu_seconds, "peak_bytes": used.peak_bytes}


def _pandas(_: Path, source: str, warehouse: str) -> dict[str, float]:
    used = measured([*_uv("run"), "--script", str(_PANDAS), source, warehouse, day.LOGICAL.isoformat()])
    return {"seconds": used.told["seconds"], "cpu_seconds": used.cpu_seconds, "peak_bytes": used.peak_bytes}


def _make_environment() -> None:
    """What the rival needs, in an environment of its own, before anything is timed."""
    made = subprocess.run([*_uv("sync"), "--script", str(_PANDAS)], capture_output=True, text=True, check=False)
    if made.returncode:
        raise Unready(f"uv cannot make the environment of {_PANDAS.name}:\n{made.stderr[-2000:]}")


def _uv(command: str) -> list[str]:
    found = shutil.which("uv") or shutil.which(ROOT / ".local" / "uv" / "bin" / "uv")
    if found is None:
        raise Unready("the rival with pandas needs uv: `make environment` installs it, or put it on PATH")
    return [found, command, "--quiet", "--python", sys.executable]


def _require(server: Postgres, rows: int) -> None:
    """A sample that did not load the day is none."""
    found = server.fetch("bench_load", "SELECT count(*) FROM flights")
    if found != rows:
        raise Unready(f"{found:,} rows were loaded, not {rows:,}")


_HOW = {"etl": _whole, "copy": _copy, "pandas": _pandas}

LOAD = Benchmark(
    name="load",
    what="a day of flights fetched, validated, joined with the weather and loaded, against its rows alone by \\copy",
    variants=(
        Variant(name="etl-5m", title="the ETL, 5 M rows", ours=True),
        Variant(name="copy-5m", title="\\copy, 5 M rows"),
        Variant(name="pandas-100k", title="pandas, executemany, 0.1 M rows"),
        Variant(name="etl-25m", title="the ETL, 25 M rows", ours=True, most=2),
        Variant(name="copy-25m", title="\\copy, 25 M rows", most=2),
    ),
    targets=(
        Target(
            what="the whole ETL's rows a second, against `\\copy` of the same rows",
            figure="rows_per_second",
            of="etl-5m",
            against="copy-5m",
            must=0.5,
            aim=0.7,
            least=True,
        ),
        Target(
            what="the same for 25 M rows",
            figure="rows_per_second",
            of="etl-25m",
            against="copy-25m",
            must=0.5,
            aim=0.7,
            least=True,
        ),
        Target(what="the ETL's peak memory, 5 M rows", figure="peak_bytes", of="etl-5m", must=400e6, aim=256e6),
        Target(
            what="peak memory for 25 M rows, against 5 M",
            figure="peak_bytes",
            of="etl-25m",
            against="etl-5m",
            must=1.15,
        ),
        Target(
            what="rows a second, against pandas and executemany",
            figure="rows_per_second",
            of="etl-5m",
            against="pandas-100k",
            must=1.0,
            least=True,
        ),
    ),
    growth=(
        Growth(what="rows of a day, 5 M → 25 M", figure="rows_per_second", before="etl-5m", after="etl-25m"),
        Growth(what="rows of a day, 5 M → 25 M", figure="peak_bytes", before="etl-5m", after="etl-25m"),
    ),
    opened=opened,
    rounds=3,
    notes="""
The rows are real flights of a month, moved to one day and copied under new flight numbers, sent as Arrow from files.
The ETL does all that a run does but for Prefect's calls: it claims, fetches, checks every row, joins, sums up, and
replaces the day in one fenced transaction; its memory is that of the whole process, Prefect's modules included.
`\\copy` reads a CSV file of the rows that come of it into the same empty table; its CPU seconds are psql's
alone. PostgreSQL is the embedded one with its default settings.
""",
)
