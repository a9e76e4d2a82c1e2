"""The refusals with fit3d's assertions dropped: ``python [-O] -m tests.reliability._optimised``.

Under -O Python drops those of every package, and first compiles them all anew, which takes longer
than the cases themselves; without it, only fit3d's own are dropped here.
"""

from __future__ import annotations

import importlib.machinery
import sys
from types import CodeType


class Loader(importlib.machinery.SourceFileLoader):
    """Compiles without assertions, from the source."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return compile(self.get_data(path), path, "exec", dont_inherit=True, optimize=1)


class Finder(importlib.machinery.PathFinder):
    """Finds fit3d's modules only."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name.partition(".")[0] != "fit3d_cli":
            return None
        spec = super().find_spec(name, path, target)
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


if __name__ == "__main__":
    if __debug__:
        sys.meta_path.insert(0, Finder)
    from tests.reliability.refusals import main

    main()
