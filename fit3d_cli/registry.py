"""A registry whose entries live in the sibling files of a package.

Adding a backbone, a capture reader or a dataset is adding one file: the registry imports
the modules of its package on first use, so there is no list to edit and nothing runs at
start-up.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Generic, TypeVar

from fit3d_cli.errors import UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to entries, filled by the modules of ``package``.

    Args:
        kind: What an entry is called in messages, e.g. ``"backbone"``.
        package: Dotted name of the package whose modules register entries.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}
        self._loaded = False

    def add(self, name: str, entry: T) -> T:
        """Register ``entry`` under ``name``.

        Raises:
            ValueError: The name is taken, which is a bug in the registering file.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = entry
        return entry

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._load()
        return sorted(self._entries)

    def items(self) -> Iterator[tuple[str, T]]:
        """Pairs of name and entry, sorted by name."""
        self._load()
        return iter(sorted(self._entries.items()))

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._entries

    def get(self, name: str, *, where: str = "") -> T:
        """The entry called ``name``.

        Raises:
            UnknownNameError: No such entry; the message offers the nearest names.
        """
        self._load()
        if name in self._entries:
            return self._entries[name]
        raise UnknownNameError(
            f"unknown {self.kind} {name!r}", where=where, hint=self.suggestion(name)
        )

    def suggestion(self, name: str) -> str:
        """A remedy for an unknown name: near matches, else the whole list."""
        near = difflib.get_close_matches(name, self.names(), n=3, cutoff=0.5)
        if near:
            return "did you mean " + " or ".join(near) + "?"
        return f"choose one of {', '.join(self.names())}"

    def _load(self) -> None:
        if self._loaded:
            return
        package = importlib.import_module(self._package)
        for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
            importlib.import_module(f"{self._package}.{module.name}")
        self._loaded = True
