"""Which pipeline and which run somebody means: by an id or its beginning, by a day, or the latest one."""

import re
from datetime import date, datetime, timedelta
from itertools import islice
from uuid import UUID

from pipelines_client.answers import Run
from pipelines_client.api import Api
from pipelines_client.errors import Misused, NotFound

DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
BEGINNING = re.compile(r"[0-9a-f-]{4,35}")
LOOKED_THROUGH = 1000  # runs, for one whose id begins so


def day(text: str) -> date:
    """YYYY-MM-DD, `yesterday` or `today` where this machine is. Raises Misused."""
    days_ago = {"today": 0, "yesterday": 1}.get(text)
    if days_ago is not None:
        return datetime.now().astimezone().date() - timedelta(days=days_ago)
    try:
        if DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError as exc:
        raise Misused(f"{text} is not a day of the calendar: {exc}") from exc
    raise Misused(f"{text!r} is not a day", hint="write YYYY-MM-DD, yesterday or today")


def pipeline(api: Api, name: str | None) -> str:
    """The pipeline of that name, and the only one where none is named. Raises Misused."""
    if name is not None:
        return name
    names = [one.name for one in api.pipelines().pipelines]
    if len(names) != 1:
        raise Misused(f"there are several pipelines: {', '.join(names)}" if names else "there is no pipeline for you")
    return names[0]


def run(api: Api, text: str | None, *, of: str | None) -> Run:
    """The run that `text` means, of that pipeline or of any: the latest one where nothing is said.

    Raises NotFound, and Misused where several could be meant.
    """
    if text is not None and (run_id := _uuid(text)) is not None:
        return _by_id(api, run_id, of)
    name = pipeline(api, of)
    if text is None:
        found = api.runs(name, limit=1).runs
        missing = f"{name} has no run yet"
    elif BEGINNING.fullmatch(text) and not DAY.fullmatch(text):
        runs = islice(api.every_run(name), LOOKED_THROUGH)
        found = [one for one in runs if str(one.run_id).startswith(text)]
        missing = f"{name} has no run whose id begins with {text}, of the latest {LOOKED_THROUGH}"
        if len(found) > 1:
            raise Misused(f"{len(found)} runs begin with {text}", hint="write more of the id")
    else:
        about = day(text)
        found = api.runs(name, limit=1, day=about).runs
        missing = f"{name} has no run of {about}"
    if not found:
        raise NotFound(
            missing, hint=f"pipelines start {name}" + (f" --date {text}" if text and DAY.match(text) else "")
        )
    return found[0]


def _by_id(api: Api, run_id: UUID, of: str | None) -> Run:
    names = [of] if of else [one.name for one in api.pipelines().pipelines]
    for name in names:
        try:
            return api.status(name, run_id)
        except NotFound:
            if of is not None:
                raise
    raise NotFound(f"no pipeline has a run {run_id}; there is: {', '.join(names) or 'none'}", hint="pipelines runs")


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
