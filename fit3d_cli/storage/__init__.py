"""Every byte that fit3d persists: atomic, durable, and a typed error when the disk says no.

A file is written to a temporary name in its own directory, forced to disk, and only then given
its final name, so that a reader, a crash or a full disk meets the old file or the new file and
nothing between. A failed ``fsync`` is never retried: the kernel may have dropped the pages.
"""

from fit3d_cli.storage.aside import set_aside
from fit3d_cli.storage.folders import require_room, scratch_folder, temporary_folder
from fit3d_cli.storage.locking import locked
from fit3d_cli.storage.partial import Partial, write_link
from fit3d_cli.storage.temporaries import sweep
from fit3d_cli.storage.writing import (
    require_writable,
    sha256_bytes,
    sha256_file,
    temporary_sibling,
    write_bytes,
    write_json,
    write_text,
)

__all__ = [
    "Partial",
    "locked",
    "require_room",
    "require_writable",
    "scratch_folder",
    "set_aside",
    "sha256_bytes",
    "sha256_file",
    "sweep",
    "temporary_folder",
    "temporary_sibling",
    "write_bytes",
    "write_json",
    "write_link",
    "write_text",
]
