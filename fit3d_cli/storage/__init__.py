"""Every byte that fit3d persists: atomic, durable, and a typed error when the disk says no.

A file is written to a temporary name in its own directory, forced to disk, and only then given
its final name, so that a reader, a crash or a full disk meets the old file or the new file and
nothing between. A failed ``fsync`` is never retried: the kernel may have dropped the pages.
"""

from fit3d_cli.storage.folders import require_room, temporary_folder
from fit3d_cli.storage.locking import locked
from fit3d_cli.storage.writing import (
    append_line,
    require_writable,
    sha256_bytes,
    sha256_file,
    sweep,
    temporary_sibling,
    write_bytes,
    write_json,
    write_text,
)

__all__ = [
    "append_line",
    "locked",
    "require_room",
    "require_writable",
    "sha256_bytes",
    "sha256_file",
    "sweep",
    "temporary_folder",
    "temporary_sibling",
    "write_bytes",
    "write_json",
    "write_text",
]
