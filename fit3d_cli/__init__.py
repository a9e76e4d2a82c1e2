"""fit3d: make 2D vision backbones 3D-aware.

Nothing happens at import: no torch, no device probe, no logging handler.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fit3d")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
