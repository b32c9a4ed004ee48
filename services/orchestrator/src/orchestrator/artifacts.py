"""What an artifact of a run is: something that the flow left for people. Nothing here does I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One artifact. `type` is Prefect's word, such as markdown, table or image; `data` is what the flow gave."""

    id: UUID
    key: str | None
    type: str
    description: str | None
    data: Any
    at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table's columns and its rows, each as long as there are columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def table(data: Any) -> Table | None:
    """The table in one of the three forms that Prefect takes: a list of rows by name or by place, or lists by name."""
    if isinstance(data, Mapping):
        lists = [one if isinstance(one, list) else [one] for one in data.values()]
        longest = max((len(one) for one in lists), default=0)
        rows = tuple(tuple(one[place] if place < len(one) else None for one in lists) for place in range(longest))
        return Table(columns=tuple(map(str, data)), rows=rows)
    if not isinstance(data, list) or not data:
        return None
    if all(isinstance(one, Mapping) for one in data):
        columns = tuple(dict.fromkeys(str(name) for one in data for name in one))
        return Table(columns=columns, rows=tuple(tuple(one.get(name) for name in columns) for one in data))
    if all(isinstance(one, list) for one in data):
        width = max(len(one) for one in data)
        rows = tuple((*one, *[None] * (width - len(one))) for one in data)
        return Table(columns=tuple(str(number + 1) for number in range(width)), rows=rows)
    return None
