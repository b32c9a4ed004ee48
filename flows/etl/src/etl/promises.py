"""Modules that are imported once something of them is asked for, and what is told of them before that.

While other modules are imported, there is a stand-in under such a module's name, and whatever is asked of it, by
`from … import` or in an annotation, is a promise: it becomes the thing itself when it is called, made a base class,
asked for an attribute, or asked whether something is of its kind. Nothing is caught by it.

After that the stand-ins are taken away, and whoever imports such a module does so as ever. The stand-ins and promises
that others have kept import it when they are asked for something: by Python's own import, with its locks.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

Then = Mapping[str, Callable[[ModuleType], None]]


class Promise:
    """What a module that is not imported yet has under a name."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def kept(self) -> Any:
        """The thing itself."""
        return getattr(load(self._module), self._name)

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


def put_off(names: Set[str], *, then: Then) -> None:
    """From now on these modules have stand-ins, until `keep`.

    `then`: what is done to a module as soon as it is there; a stand-in to which something is done stays.
    """
    sys.meta_path.insert(0, _Finder(names, then))


def keep() -> None:
    """From now on modules are imported as ever."""
    for finder in _finders():
        sys.meta_path.remove(finder)
        _take_away([name for name in sys.modules if name not in finder.then])


def load(name: str) -> ModuleType:
    """The module itself."""
    if isinstance(sys.modules.get(name), _StandIn):
        # while others are imported: with all of its package, whose modules could do little with promises of each other
        package = name.partition(".")[0]
        for finder in _finders():
            finder.names = {one for one in finder.names if one.partition(".")[0] != package}
        _take_away([one for one in sys.modules if one.partition(".")[0] == package])
    return importlib.import_module(name)


def _finders() -> list["_Finder"]:
    return [finder for finder in sys.meta_path if isinstance(finder, _Finder)]


def _take_away(names: Sequence[str]) -> None:
    for name in names:
        if isinstance(sys.modules[name], _StandIn):
            del sys.modules[name]


class _StandIn(ModuleType):
    """A module's stand-in: it promises while others are imported, and has the module's own things after that."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if _finders():
            return Promise(self.__name__, name)
        return getattr(load(self.__name__), name)


class _Loader(Loader):
    """Makes the stand-in of a module."""

    def __init__(self, then: Callable[[ModuleType], None] | None) -> None:
        self._then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing of the module's code."""
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
    def __init__(self, names: Set[str], then: Then) -> None:
        self.names = names
        self.then = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        then = self.then.get(fullname)
        if fullname not in self.names and then is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            if fullname in self.names:
                spec.loader = _Loader(then)
            elif then is not None:
                spec.loader = _Followed(spec.loader, then)
        return spec
