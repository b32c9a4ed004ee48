"""Modules that Prefect imports and a run hardly ever uses: they are loaded once something of theirs is asked for.

Prefect imports its blocks for notifications and webhooks so that they are known by their type's name. Their classes are
costly to make, and httpx's command line is of use on a command line only: together a good part of a run's start.
"""

import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, cast

BLOCKS = ("prefect.blocks.notifications", "prefect.blocks.webhook")
_COMMAND_LINE = "httpx._main"

_loading = threading.RLock()


def put_off() -> None:
    """Have them loaded later; before Prefect is imported."""
    sys.meta_path.insert(0, _Finder())
    # None makes its import raise ImportError: httpx goes without, as where the packages for a command line are missing.
    cast("dict[str, ModuleType | None]", sys.modules).setdefault(_COMMAND_LINE, None)


def know_blocks() -> None:
    """Have the blocks loaded when Prefect is asked for one by its type's name; after Prefect was imported."""
    from prefect.blocks.core import Block  # noqa: PLC0415 - see etl.start

    look_up = vars(Block)["get_block_class_from_key"].__func__

    def look_up_among_all(cls: type[Block], key: str) -> Any:
        for name in BLOCKS:
            _load(sys.modules[name])
        return look_up(cls, key)

    type.__setattr__(Block, "get_block_class_from_key", classmethod(look_up_among_all))


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


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in BLOCKS else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def _load(module: ModuleType) -> None:
    with _loading:
        if isinstance(module, _Later) and module.__spec__ is not None and isinstance(module.__spec__.loader, _Loader):
            module.__class__ = ModuleType  # type: ignore[assignment]
            module.__spec__.loader.real.exec_module(module)
