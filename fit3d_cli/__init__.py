"""fit3d: make 2D vision backbones 3D-aware.

Nothing happens at import: no torch, no device probe, no logging handler. The names of the Python
interface (``open_scene``, ``load_backbone``, ``dense_features``, ...) are loaded from
``fit3d_cli.api`` when they are first used::

    import fit3d_cli as f3d

    scene = f3d.open_scene("room.f3d")
    features = scene.query_points([[0.0, 1.0, 2.0]]).features
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("fit3d")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_LAZY = ("LiftedScene", "PointAnswers", "RayAnswers", "dense_features", "load_backbone",
         "open_scene")  # fmt: skip
__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    """One of the lazy names (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module("fit3d_cli.api"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
