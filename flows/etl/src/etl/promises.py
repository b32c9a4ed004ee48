"""Modules whose code runs once something of them is asked for, and what is told of them before that.

While other modules are imported, whatever those ask of such a module, by `from … import` or in an annotation, is a
promise: it becomes the thing itself when it is called, made a base class, asked for an attribute, or asked whether
something is of its kind. Nothing is caught by it.
"""

import sys
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_loading = threading.RLock()
_promising = threading.Event()


class Promise:
    """What a module that has not run has under a name."""

    def __init__(self, module: ModuleType, name: str) -> None:
        self._module = module
        self._name = name

    def kept(self) -> Any:
        """The thing itself."""
        load(self._module)
        return getattr(self._module, self._name)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """As the thing itself, as are the others."""
        return self.kept()(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.kept(), name)

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[Any, ...]:
        return (self.kept(),)

    def __instancecheck__(self, thing: object) -> bool:
        return isinstance(thing, self.kept())

    def __subclasscheck__(self, kind: type) -> bool:
        return issubclass(kind, self.kept())


def put_off(names: Set[str], *, then: Mapping[str, Callable[[ModuleType], None]]) -> None:
    """From now on these modules' code runs later; what they are asked for is promised until `keep`.

    `then`: what is done to other modules as soon as their code has run.
    """
    _promising.set()
    sys.meta_path.insert(0, _Finder(names, then))


def keep() -> None:
    """From now on these modules' code runs as soon as they are asked for anything."""
    _promising.clear()


def load(module: ModuleType) -> None:
    """Run the code of a module that was put off, after that of the packages it is in."""
    with _loading:
        package = sys.modules.get(module.__name__.rpartition(".")[0])
        if isinstance(package, _Later):
            load(package)
        # which may have loaded this one
        if isinstance(module, _Later) and module.__spec__ is not None and isinstance(module.__spec__.loader, _Loader):
            module.__class__ = ModuleType  # type: ignore[assignment]
            module.__spec__.loader.real.exec_module(module)


class _Later(ModuleType):
    """A module whose code has not run."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if _promising.is_set():
            return Promise(self, name)
        load(self)
        return getattr(self, name)


class _Loader(Loader):
    """Makes the module, and lets its real loader run its code later."""

    def __init__(self, real: Loader, then: Callable[[ModuleType], None] | None) -> None:
        self.real = real
        self._then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Later(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing yet of its code."""
        if self._then is not None:
            self._then(module)


class _Followed(Loader):
    """As its real loader, and then something else."""

    def __init__(self, real: Loader, then: Callable[[ModuleType], None]) -> None:
        self._real = real
        self._then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        self._then(module)


class _Finder(MetaPathFinder):
    def __init__(self, names: Set[str], then: Mapping[str, Callable[[ModuleType], None]]) -> None:
        self._names = names
        self._then = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        then = self._then.get(fullname)
        if fullname not in self._names:
            package = sys.modules.get(fullname.rpartition(".")[0])
            if isinstance(package, _Later):
                load(package)
            if then is None:
                return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            if fullname in self._names:
                spec.loader = _Loader(spec.loader, then)
            elif then is not None:
                spec.loader = _Followed(spec.loader, then)
        return spec
