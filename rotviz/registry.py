"""Names for methods: one decorator in the method's own file, found without a central list.

A registry belongs to one package folder. The first look-up imports every module of that folder (which registers what it
defines) and the entry points of the same group, so a new method is one new file and an outside package needs no change here.

    ROTATIONS = Registry("rotation", package="rotviz.rotations")

    @ROTATIONS.register("hadamard")
    @dataclass(frozen=True)
    class Hadamard: ...

    ROTATIONS["hadamrd"]   # UnknownName: no rotation 'hadamrd'; did you mean 'hadamard'?
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import TypeVar

from rotviz.errors import unknown

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """A mapping from names to methods, filled on first use.

    Args:
        kind: what one entry is, for messages ("rotation").
        package: dotted name of the folder whose modules register themselves; also the entry-point group.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files what it decorates under `name`; a second use of a name is an error."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        self._discover()
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(self._entries)

    def __len__(self) -> int:
        self._discover()
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        self._discover()  # Mapping's own version swallows the helpful KeyError at some cost
        return name in self._entries

    def name_of(self, entry: T) -> str:
        """The name that an entry is registered under."""
        self._discover()
        return next(name for name, known in self._entries.items() if known is entry)

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True  # first, so that a module that looks something up while it loads does not recurse
        folder = importlib.import_module(self.package)
        for module in sorted(m.name for m in pkgutil.iter_modules(folder.__path__)):
            importlib.import_module(f"{self.package}.{module}")
        for point in entry_points(group=self.package):
            point.load()
