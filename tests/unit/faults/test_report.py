"""The report: its tables count what the samples hold, and the pages here are made from the samples here."""

from pathlib import Path

from ...faults import report
from ...faults.__main__ import DATA
from ...faults.catalogue import FAULTS
from ...faults.facts import Attempt, Case, Effect, FlowRun, Job, Row, Sample, Scenario, Seen
from .test_checker import DAY, GOOD

ROOT = Path(__file__).parents[3]


def sample(fault: str, seed: int, *cases: Case, **more: object) -> Sample:
    scenario = Scenario(
        side="stock" if not any(case.rows for case in cases) else "ours",
        fault=fault,
        seed=seed,
        runs=len(cases),
        rate=1,
        within=300,
        revision="abc",
        date=DAY,
        injected_at=10,
        healed_at=20,
        ended_at=60,
        at_injection={"Running": 2, "Pending": 0},
    )
    return Sample(scenario=scenario.model_copy(update=more), cases=cases)


def written(folder: Path, *samples: Sample) -> str:
    for one in samples:
        one.save(folder / "data" / one.scenario.side / f"{one.scenario.fault}-{one.scenario.seed}.jsonl")
    report.write(folder / "data", folder)
    return (folder / "README.md").read_text()


def row(page: str, title: str, *, after: str) -> list[str]:
    """The cells of the first row of that title after a heading."""
    line = next(line for line in page.partition(f"## {after}\n")[2].splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_both_sides_stand_beside_each_other(tmp_path: Path) -> None:
    """The seeds of a fault are added up; what was not played is not counted as none."""
    twice = (Effect(run_id="f", flow_run_id="f", rows=842, at=7), Effect(run_id="f", flow_run_id="f", rows=842, at=9))
    doubled = Case(
        key="d",
        day=DAY,
        attempts=(Attempt(at=0, status=201, run_id="f"),),
        flow_runs=(FlowRun(flow_run_id="f", state="Completed"),),
        effects=twice,
    )
    stuck = doubled.model_copy(
        update={"key": "s", "effects": (), "flow_runs": (FlowRun(flow_run_id="f", state="Pending"),)}
    )
    page = written(
        tmp_path,
        sample("worker-sigkill", 1, GOOD, GOOD.model_copy(update={"key": "k2"})),
        sample("worker-sigkill", 2, GOOD),
        sample("worker-sigkill", 1, doubled, stuck),
        sample("eviction", 1, GOOD),
    )
    assert row(page, FAULTS["worker-sigkill"].title, after="By fault")[1:] == [
        *("3", "3", "0", "0", "0", "0", "0"),
        *("2", "0", "0", "0", "**1**", "**1**", "0"),
    ]
    assert row(page, FAULTS["eviction"].title, after="By fault")[8] == "not played"
    assert row(page, "this platform", after="Summary")[1:] == ["2", "4", "4", "0", "0", "0", "0"]
    assert row(page, "stock Prefect", after="Summary")[1:] == ["1", "2", "0", "0", "0", "**1**", "**1**"]
    assert "- stuck: s: still Pending" in page


def states(*seen: tuple[str, float]) -> tuple[FlowRun, ...]:
    return (FlowRun(flow_run_id="f", state="Completed", states=tuple(Seen(state=name, at=at) for name, at in seen)),)


def test_recovery_is_timed_from_what_was_recorded(tmp_path: Path) -> None:
    """A killed run by its next Running state, a killed worker by the next Job, a backlog by its last start."""
    again = GOOD.model_copy(update={"flow_runs": states(("Running", 5), ("Crashed", 11), ("Running", 24.5))})
    jobs = GOOD.model_copy(update={"jobs": tuple(Job(name="j", flow_run_id="f", created_at=at) for at in (3, 17, 40))})
    waiting = GOOD.model_copy(
        update={
            "rows": (Row(run_id="r", state="Completed", accepted_at=15),),
            "flow_runs": states(("Pending", 21), ("Running", 33), ("Completed", 35)),
        }
    )
    page = written(
        tmp_path,
        sample("flow-sigkill", 1, again, victims=("f",)),
        sample("worker-sigkill", 1, jobs),
        sample("prefect-sigkill", 1, waiting),
    )
    assert row(page, FAULTS["flow-sigkill"].title, after="Recovery, in seconds")[2:5] == ["14.5", "14.5", "1"]
    assert row(page, FAULTS["worker-sigkill"].title, after="Recovery, in seconds")[2:5] == ["7.0", "7.0", "1"]
    assert row(page, FAULTS["prefect-sigkill"].title, after="Recovery, in seconds")[2:5] == ["13.0", "13.0", "1"]


def test_the_pages_are_made_from_the_samples(tmp_path: Path) -> None:
    """`make faults-report` would change nothing, and the README shows the summary as it is."""
    assert list(DATA.rglob("*.jsonl")), "no raw samples"
    report.write(DATA, tmp_path)
    for name in ("README.md", "summary.md"):
        assert (DATA.parent / name).read_text() == (tmp_path / name).read_text(), f"run make faults-report: {name}"
    shown = (ROOT / "README.md").read_text().partition(report.BEGIN)[2].partition(report.END)[0]
    assert shown == (tmp_path / "summary.md").read_text()
