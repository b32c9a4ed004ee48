"""What Prefect does at its import and a run hardly ever uses: done once something of it is asked for, or left out.

Prefect imports its blocks for secrets, notifications and webhooks so that they are known by their type's name. Their
classes are costly to make; so are packages that it needs for parameters' schemas, docstrings, schedules, remote files
and names that nobody chose, and httpx's for HTTP/2. Its analytics are for terminals, as httpx's command line is. For
three words in the configuration of its logging it writes out all of its settings, it reads those twice, for the name of
a block's type it describes the whole type, and it reads docstrings without a word about parameters for such.

How something is put off is for etl.promises to say.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from functools import partial
from types import ModuleType
from typing import Any, cast

from etl import promises

BLOCKS = ("prefect.blocks.notifications", "prefect.blocks.system", "prefect.blocks.webhook")
_ANALYTICS = "prefect._internal.analytics"
PUT_OFF = frozenset(
    {
        *BLOCKS,
        _ANALYTICS,
        "coolname",
        "dateutil",
        "dateutil.parser",
        "dateutil.rrule",
        "dateutil.tz",
        "fsspec",
        "fsspec.core",
        "fsspec.implementations",
        "fsspec.implementations.local",
        "griffe",
        "httpcore._async.http2",
        "httpcore._sync.http2",
        "jsonschema",
        "pathspec",
        "referencing",
        "referencing.exceptions",
        "referencing.jsonschema",
    }
)
# What Prefect itself calls of its analytics, in a terminal alone.
_SILENT: dict[str, Any] = {"initialize_analytics": lambda: None, "try_mark_milestone": lambda _milestone: False}
NAMED = ("PREFECT_LOGGING_LEVEL", "PREFECT_INTERNAL_LOGGING_LEVEL", "PREFECT_SERVER_LOGGING_LEVEL")
_TITLES = ("args:", "arguments:", "params:", "parameters:")
_COMMAND_LINE = "httpx._main"

# What is undone once Prefect is imported.
_until_imported = ExitStack()


def put_off() -> None:
    """Have them loaded later; before Prefect is imported."""
    then = {
        _ANALYTICS: _silence,
        "prefect.blocks.core": _name_types,
        "prefect.settings.models.root": _read_once,
        "prefect.utilities.callables": _read_docstrings_that_tell,
    }
    promises.put_off(PUT_OFF, then=then)
    _until_imported.callback(promises.keep)
    # None makes its import raise ImportError: httpx goes without, as where the packages for a command line are missing.
    cast("dict[str, ModuleType | None]", sys.modules).setdefault(_COMMAND_LINE, None)


@contextmanager
def finishing() -> Iterator[None]:
    """While the block runs, in which Prefect sets up its logging, it writes out only the settings that are named.

    After it, Prefect is imported: settings are read when they are asked for, and so are modules loaded.
    """
    from prefect.settings import Settings  # noqa: PLC0415 - see etl.start

    write_out = Settings.to_environment_variables  # inherited: what is set here hides it

    def as_needed(settings: Settings, **options: bool) -> _Named:
        return _Named(settings, partial(write_out, settings, **options))

    type.__setattr__(Settings, write_out.__name__, as_needed)
    try:
        yield
    finally:
        type.__delattr__(Settings, write_out.__name__)
        _until_imported.close()


def know_blocks() -> None:
    """Have the blocks loaded when Prefect is asked for one by its type's name; after Prefect was imported."""
    from prefect.blocks.core import Block  # noqa: PLC0415 - see etl.start

    look_up = vars(Block)["get_block_class_from_key"].__func__

    def look_up_among_all(cls: type[Block], key: str) -> Any:
        for name in BLOCKS:
            promises.load(name)
        return look_up(cls, key)

    type.__setattr__(Block, "get_block_class_from_key", classmethod(look_up_among_all))


def _silence(analytics: ModuleType) -> None:
    for name, silent in _SILENT.items():
        setattr(analytics, name, silent)


def _name_types(core: ModuleType) -> None:
    """Have a block's class known by its type's name, as Prefect has it, without a description of the whole type."""

    def key(cls: Any) -> str | None:
        return None if cls.__name__ == "Block" else cls.get_block_type_slug()

    type.__setattr__(core.Block, "__dispatch_key__", classmethod(key))


def _read_docstrings_that_tell(callables: ModuleType) -> None:
    """Leave docstrings unread that have no section about parameters, whose titles are griffe's."""
    read = callables.parameter_docstrings

    def read_if_it_tells(docstring: str | None) -> Any:
        told = (docstring or "").lower()
        return read(docstring) if any(title in told for title in _TITLES) else {}

    callables.parameter_docstrings = read_if_it_tells  # type: ignore[attr-defined]


def _read_once(root: ModuleType) -> None:
    """Have the settings that nobody gives anything read once, until all is imported."""
    read = root.Settings.__init__  # inherited: what is set here hides it
    first: list[Any] = []

    def read_or_copy(settings: Any, **given: Any) -> None:
        if given or not first:
            read(settings, **given)
        else:
            for name in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"):
                object.__setattr__(settings, name, copy(getattr(first[0], name)))
        if not given:
            first.append(settings)

    type.__setattr__(root.Settings, "__init__", read_or_copy)
    _until_imported.callback(type.__delattr__, root.Settings, "__init__")


class _Named(dict[str, str]):
    """Settings by the names of their environment variables; any but those of Prefect's own configuration on demand."""

    def __init__(self, settings: Any, write_out: Callable[[], Mapping[str, str]]) -> None:
        levels = (settings.logging.level, settings.internal.logging_level, settings.server.logging_level)
        super().__init__(zip(NAMED, levels, strict=True))
        self._write_out = write_out

    def __missing__(self, name: str) -> str:
        self.update(self._write_out())
        return self[name]
