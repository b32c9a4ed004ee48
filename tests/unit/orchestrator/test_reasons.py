"""The catalogue of reasons, the commands it fills in, and how reasons are written down."""

import re
import shlex
import string
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orchestrator.catalogue import CATALOGUE, Kind
from orchestrator.ledger import reasons
from orchestrator.ledger.connection import transaction
from orchestrator.ledger.tables import run_events
from orchestrator.ledger.tables import runs as runs_table
from orchestrator.reasons import Commands, Reason
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from .test_dispatch import accept

IN_CLUSTER = Commands(namespace="flows", prefect_api="http://mine-prefect-server.flows.svc:4200/api")
ON_LAPTOP = Commands(namespace=None, prefect_api="http://127.0.0.1:4200/api")
PART = Path(__file__).parents[3] / "services" / "orchestrator"
README = (PART / "README.md").read_text()
SOURCES = {path.name: path.read_text() for path in (PART / "src" / "orchestrator").rglob("*.py")}
BEGUN = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)


def names_of(kind: Kind) -> dict[str, object]:
    fields = {name for text in (kind.fix, kind.fix_here or "") for _, name, _, _ in string.Formatter().parse(text)}
    return dict.fromkeys(fields - {None, "kubectl", "prefect", "prefect_api"}, "a b'$(reboot)")


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=list(CATALOGUE))
def test_every_kind_is_whole(kind: Kind) -> None:
    """A stable id, a title, a meaning, and a command that a shell takes as it is, whatever the names are."""
    assert re.fullmatch(r"PL[01]\d\d", kind.id)
    assert kind.ends == (kind.id >= reasons.FIRST_END)
    assert kind.title[0].isupper()
    assert not kind.title.endswith(".")
    assert kind.meaning.endswith(".")
    for commands in (IN_CLUSTER, ON_LAPTOP):
        fix = commands.fix(kind, names_of(kind))
        words = shlex.split(fix, comments=True)
        assert words[0] in {"kubectl", "prefect", "curl"}, fix
        assert "$(reboot)" not in words, "a name stayed one word"
        assert "{" not in fix


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=list(CATALOGUE))
def test_every_kind_is_documented_and_used(kind: Kind) -> None:
    """The README has its id, title and meaning; some rule finds it."""
    mark = " ↻" if kind.goes_on else ""
    assert f"\n| `{kind.id}` | {kind.title}{mark} | {kind.meaning} |" in README
    assert any(f'"{kind.id}"' in rules for name, rules in SOURCES.items() if name != "catalogue.py")


def test_titles_are_told_apart() -> None:
    """No two kinds have one title."""
    titles = [kind.title for kind in CATALOGUE.values()]
    assert len(set(titles)) == len(titles)


def test_in_a_cluster_prefect_is_asked_in_its_own_pod() -> None:
    """By the Service that this orchestrator itself uses; on a laptop as it is."""
    reason = IN_CLUSTER.reason("PL002", "pool p is paused", since=BEGUN, pool="p")
    assert reason.fix == "kubectl --namespace flows exec service/mine-prefect-server -- prefect work-pool resume p"
    assert ON_LAPTOP.reason("PL002", "", since=BEGUN, pool="p").fix == "prefect work-pool resume p"
    assert ON_LAPTOP.reason("PL001", "", since=BEGUN, pool="p").fix == "prefect worker start --pool p"


@settings(deadline=None)
@given(st.text())
def test_a_name_is_one_word_for_the_shell(name: str) -> None:
    """Names come from Prefect, where people may write anything."""
    fix = ON_LAPTOP.reason("PL002", "", since=BEGUN, pool=name).fix
    assert shlex.split(fix) == ["prefect", "work-pool", "resume", name]


def test_a_reason_reads_as_one_line() -> None:
    """Id, title, evidence; one of a newer release by its id."""
    reason = Reason(id="PL001", detail="no worker of pool p", fix="", since=BEGUN)
    assert str(reason) == "PL001 No worker online: no worker of pool p"
    assert str(Reason(id="PL098", detail="?", fix="", since=BEGUN)) == "PL098 PL098: ?"


def held(kind: str, detail: str = "as seen", *, since: datetime = BEGUN) -> Reason:
    return Reason(id=kind, detail=detail, fix="a command", since=since)


async def events(db: AsyncEngine) -> list[tuple[str, str | None, str | None]]:
    query = select(run_events).where(run_events.c.kind == "held").order_by(run_events.c.id)
    async with transaction(db) as connection:
        return [(row.state, row.reason, row.message) for row in await connection.execute(query)]


async def test_a_reason_is_told_when_it_appears_changes_and_goes(db: AsyncEngine) -> None:
    """Once each; new evidence for the same reason is kept without a word, and so is its beginning."""
    (run_id,) = await accept(db, 1)
    first = held("PL001")
    (noted,) = await reasons.hold(db, {run_id: first})
    assert (noted.run_id, noted.pipeline, noted.before, noted.after) == (run_id, "etl", None, first)
    assert await reasons.hold(db, {run_id: first}) == []
    later = held("PL001", "for longer", since=BEGUN + timedelta(minutes=1))
    assert await reasons.hold(db, {run_id: later}) == []
    assert await reasons.read(db, [run_id]) == {run_id: held("PL001", "for longer")}
    (noted,) = await reasons.hold(db, {run_id: held("PL010", since=BEGUN + timedelta(minutes=2))})
    assert noted.before is not None
    assert noted.after is not None
    assert (noted.before.id, noted.after.id) == ("PL001", "PL010")
    (noted,) = await reasons.hold(db, {run_id: None})
    assert noted.after is None
    assert await reasons.hold(db, {run_id: None}) == []
    assert await reasons.read(db, [run_id]) == {}
    assert await events(db) == [
        ("Scheduled", "PL001", "PL001 No worker online: as seen"),
        ("Scheduled", "PL010", "PL010 Pod cannot be scheduled: as seen"),
        ("Scheduled", None, None),
    ]


async def test_runs_that_are_over_are_not_held(db: AsyncEngine) -> None:
    """Nor are runs that nobody knows."""
    (run_id,) = await accept(db, 1)
    async with transaction(db) as connection:
        await connection.execute(update(runs_table).values(state="Cancelled", ended_at=BEGUN))
    assert await reasons.hold(db, {run_id: held("PL001"), uuid4(): held("PL001")}) == []
    assert await reasons.read(db, [run_id, UUID(int=1)]) == {}


async def test_a_cause_replaces_what_held_the_run_and_stays(db: AsyncEngine) -> None:
    """Whoever looked before it ended does not overwrite it."""
    (run_id,) = await accept(db, 1)
    await reasons.hold(db, {run_id: held("PL016")})
    await reasons.explain(db, run_id, held("PL105"))
    async with transaction(db) as connection:
        await reasons._put(connection, {run_id: held("PL016")}, over_an_end=False)
    assert (await reasons.read(db, [run_id]))[run_id].id == "PL105"


async def test_a_run_taken_up_again_is_held_by_something_else(db: AsyncEngine) -> None:
    """After a crash that was taken back, the cause of that crash gives way."""
    (run_id,) = await accept(db, 1)
    await reasons.explain(db, run_id, held("PL109"))
    (noted,) = await reasons.hold(db, {run_id: held("PL001")})
    assert noted.after is not None
    assert noted.after.id == "PL001"
    async with transaction(db) as connection:
        await connection.execute(update(runs_table).values(state="Completed", ended_at=BEGUN))
    await reasons.settle(db)
    assert await reasons.read(db, [run_id]) == {}
