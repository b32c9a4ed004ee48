"""What Prefect does at its import and a run hardly ever uses: done once something of it is asked for, or left out.

Prefect imports its blocks for notifications and webhooks so that they are known by their type's name. Their classes are
costly to make; so are packages that it needs for parameters' schemas and for names that nobody chose. Its analytics are
for terminals, as httpx's command line is. And for three words in the configuration of its logging it writes out all of
its settings.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, cast

BLOCKS = ("prefect.blocks.notifications", "prefect.blocks.webhook")
_ANALYTICS = "prefect._internal.analytics"
PUT_OFF = frozenset({*BLOCKS, _ANALYTICS, "coolname", "jsonschema"})
# What Prefect itself calls of its analytics, in a terminal alone.
_SILENT: dict[str, Any] = {"initialize_analytics": lambda: None, "try_mark_milestone": lambda _milestone: False}
NAMED = ("PREFECT_LOGGING_LEVEL", "PREFECT_INTERNAL_LOGGING_LEVEL", "PREFECT_SERVER_LOGGING_LEVEL")
_COMMAND_LINE = "httpx._main"

_loading = threading.RLock()


def put_off() -> None:
    """Have them loaded later; before Prefect is imported."""
    sys.meta_path.insert(0, _Finder())
    # None makes its import raise ImportError: httpx goes without, as where the packages for a command line are missing.
    cast("dict[str, ModuleType | None]", sys.modules).setdefault(_COMMAND_LINE, None)


@contextmanager
def settings_as_needed() -> Iterator[None]:
    """While the block runs, in which Prefect sets up its logging, it writes out only the settings that are named."""
    from prefect.settings import Settings  # noqa: PLC0415 - see etl.start

    write_out = Settings.to_environment_variables  # inherited: what is set here hides it

    def as_needed(settings: Settings, **options: bool) -> _Named:
        return _Named(settings, partial(write_out, settings, **options))

    type.__setattr__(Settings, write_out.__name__, as_needed)
    try:
        yield
    finally:
        type.__delattr__(Settings, write_out.__name__)


def know_blocks() -> None:
    """Have the blocks loaded when Prefect is asked for one by its type's name; after Prefect was imported."""
    from prefect.blocks.core import Block  # noqa: PLC0415 - see etl.start

    look_up = vars(Block)["get_block_class_from_key"].__func__

    def look_up_among_all(cls: type[Block], key: str) -> Any:
        for name in BLOCKS:
            _load(sys.modules[name])
        return look_up(cls, key)

    type.__setattr__(Block, "get_block_class_from_key", classmethod(look_up_among_all))


class _Named(dict[str, str]):
    """Settings by the names of their environment variables; any but those of Prefect's own configuration on demand."""

    def __init__(self, settings: Any, write_out: Callable[[], Mapping[str, str]]) -> None:
        levels = (settings.logging.level, settings.internal.logging_level, settings.server.logging_level)
        super().__init__(zip(NAMED, levels, strict=True))
        self._write_out = write_out

    def __missing__(self, name: str) -> str:
        self.update(self._write_out())
        return self[name]


class _Later(ModuleType):
    """A module whose code has not run."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _load(self)
        return getattr(self, name)


class _Loader(Loader):
    """Makes the module, and lets its real loader run its code later."""

    def __init__(self, real: Loader) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Later(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing yet."""
        if module.__name__ == _ANALYTICS:
            vars(module).update(_SILENT)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package = sys.modules.get(fullname.rpartition(".")[0])
        if isinstance(package, _Later):
            _load(package)
        spec = PathFinder.find_spec(fullname, path, target) if fullname in PUT_OFF else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def _load(module: ModuleType) -> None:
    with _loading:
        if isinstance(module, _Later) and module.__spec__ is not None and isinstance(module.__spec__.loader, _Loader):
            module.__class__ = ModuleType  # type: ignore[assignment]
            module.__spec__.loader.real.exec_module(module)
