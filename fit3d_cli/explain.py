"""Any exception as a failure with a remedy and an exit code, for whatever runs a job to its end."""

from __future__ import annotations

import errno
import re
import sys

from fit3d_cli.errors import Fit3dError, MemoryFault, StorageError

EXIT_USAGE = 2
EXIT_ENVIRONMENT = 3
EXIT_BUG = 4

# What torch and the libraries below it say where they have no exception class for it.
_NO_MEMORY = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough)|CUDA error: out of memory"
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|std::bad_alloc"
)


def explain(error: Exception) -> tuple[Fit3dError, int]:
    """The failure that the user reads, and the exit code.

    Args:
        error: What a verb or one of its jobs raised.
    """
    if isinstance(error, Fit3dError):
        return error, error.exit_code
    if out_of_memory(error):
        hint = "lower a width, a batch, a budget of Gaussians or --dim, or use a larger machine"
        return MemoryFault("out of memory", hint=hint), EXIT_ENVIRONMENT
    if isinstance(error, OSError):
        return _system(error)
    what = f"internal error, {type(error).__name__}: {error}"
    hint = "this is a bug of fit3d: run again with --debug and report the traceback"
    return Fit3dError(what, hint=hint), EXIT_BUG


def out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, of the machine or of a GPU, whoever says so."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryFault | MemoryError):
        return True
    if torch and isinstance(error, torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # Torch's CPU allocator raises a bare RuntimeError.
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None


def _system(error: OSError) -> tuple[Fit3dError, int]:
    where = str(error.filename or "system")
    what = error.strerror or str(error)
    if error.errno in (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG):
        hint = "check the path"
        return Fit3dError(what.lower(), where=where, hint=hint), EXIT_USAGE
    hints = {
        errno.ENOSPC: "free some disk space, then run the same command again",
        errno.EDQUOT: "free some of your quota, then run the same command again",
        errno.EACCES: "change the permissions, or choose another --workspace",
        errno.EPERM: "change the permissions, or choose another --workspace",
        errno.EROFS: "choose a --workspace on a writable file system",
        errno.EMFILE: "raise the limit on open files (ulimit -n)",
    }
    hint = hints.get(error.errno or 0, "check the disk and the network, then run again")
    return StorageError(what.lower(), where=where, hint=hint), EXIT_ENVIRONMENT
