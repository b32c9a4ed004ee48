"""Every check at once, each with a deadline of its own, and all of them within ten seconds.

A check waits for those that it needs, and is skipped where one of them failed; a warning does not hinder it. A look
that is caught in something (a server that does not answer) is left behind: its thread ends with the process.
"""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines_client.doctor.checks import Check, Finding, NotApplicable, Result
from pipelines_client.doctor.sights import Sights, Unseen
from pipelines_client.errors import ClientError

SECONDS = 10.0  # within which all of it is over, where nobody says otherwise
RUN_SECONDS = 9.0  # of which so many are for the checks: there is a beginning and an end
BROKEN = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a check; `hint` is the command to paste. None of a check: it is about nothing here."""

    check: Check
    result: Result
    error: str | None = None
    hint: str | None = None


def run(
    checks: Sequence[Check], sights: Sights, *, seconds: float = RUN_SECONDS, patience: float = 1.0
) -> Iterator[tuple[str, Outcome | None]]:
    """Each check's id and outcome, as they come.

    `seconds`: what is not done by then has failed. `patience` multiplies each check's own time.
    """
    ends = time.monotonic() + seconds
    left = {check.id: check for check in checks}
    going: dict[str, float] = {}
    results: dict[str, Result] = {}
    done: queue.SimpleQueue[tuple[str, Outcome | None]] = queue.SimpleQueue()
    while left or going:
        for check in [one for one in left.values() if all(need in results for need in one.needs)]:
            del left[check.id]
            failed = [need for need in check.needs if results[need] in {Result.ERROR, Result.SKIPPED}]
            if failed:
                done.put((check.id, _skipped(check, failed[0])))
            else:
                threading.Thread(target=_look, args=(check, sights, done), daemon=True).start()
            going[check.id] = min(ends, time.monotonic() + check.seconds * patience)
        try:
            name, outcome = done.get(timeout=max(0.0, min(going.values()) - time.monotonic()))
        except queue.Empty:
            name = min(going, key=lambda one: going[one])
            check = next(one for one in checks if one.id == name)
            outcome = _late(check, sights, check.seconds * patience)
        if going.pop(name, None) is not None:  # else it is known as late
            results[name] = outcome.result if outcome is not None else Result.SUCCESS
            yield name, outcome


def _look(check: Check, sights: Sights, done: "queue.SimpleQueue[tuple[str, Outcome | None]]") -> None:
    done.put((check.id, look(check, sights)))


def look(check: Check, sights: Sights) -> Outcome | None:
    """Make one check."""
    try:
        found = check.look(sights)
    except NotApplicable:
        return None
    except Unseen as exc:
        return Outcome(check=check, result=Result.WARNING, error=str(exc), hint=exc.command)
    except ClientError as exc:
        found = Finding(what=f"{exc} ({exc.hint})" if exc.hint else str(exc))
    except BROKEN as exc:
        found = Finding(what=f"what was answered is not what this client knows ({type(exc).__name__}: {exc})")
    if found is None:
        return Outcome(check=check, result=Result.SUCCESS)
    result = Result.WARNING if found.warning else Result.ERROR
    return Outcome(check=check, result=result, error=" ".join(found.what.split()), hint=_hint(check, sights, found))


def _hint(check: Check, sights: Sights, found: Finding) -> str:
    if found.command is not None:
        return found.command
    here = check.here if check.here is not None and not sights.in_cluster else check.command
    return sights.command(here, found.names)


def _skipped(check: Check, need: str) -> Outcome:
    return Outcome(check=check, result=Result.SKIPPED, error=f"not looked at: {need} did not pass")


def _late(check: Check, sights: Sights, seconds: float) -> Outcome:
    found = Finding(what=f"no answer within {seconds:g} s")
    return Outcome(check=check, result=Result.ERROR, error=found.what, hint=_hint(check, sights, found))
