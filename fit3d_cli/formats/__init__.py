"""Gaussians in the files that viewers and trainers exchange: one file of this package per format.

Every reader gives ``Gaussians`` in the numbers of a 3DGS ``.ply``: the world frame of the capture
is never turned, and a format that prescribes another one (``.spz``) is converted both ways.
"""

from fit3d_cli.formats.base import (
    FORMATS,
    Contents,
    Format,
    describe_gaussians,
    read_gaussians,
    suffixes,
    write_gaussians,
)

__all__ = [
    "FORMATS",
    "Contents",
    "Format",
    "describe_gaussians",
    "read_gaussians",
    "suffixes",
    "write_gaussians",
]
