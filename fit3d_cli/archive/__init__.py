"""Scenes in ``.f3d`` files: one file, byte-valid safetensors, every tensor's sha256 inside.

``docs/f3d-format.md`` is the specification.
"""

from fit3d_cli.archive.reading import describe, read_archive, read_manifest, verify_archive
from fit3d_cli.archive.schema import Manifest, TensorRecord
from fit3d_cli.archive.writing import write_archive

__all__ = [
    "Manifest",
    "TensorRecord",
    "describe",
    "read_archive",
    "read_manifest",
    "verify_archive",
    "write_archive",
]
