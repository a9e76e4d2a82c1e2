"""Named tensors in a file: byte-valid safetensors, parsed strictly, written deterministically.

The format: a little-endian u64 length, a JSON header of that length, then the tensors' bytes
(https://huggingface.co/docs/safetensors). On top of it this parser bounds every size before it
allocates, refuses duplicate keys, holes, overlaps and trailing bytes, and reads with ``pread``
into memory of its own: a file that shrinks while it is read is an error, not a SIGBUS.
"""

from fit3d_cli.tensorfile.files import (
    Headers,
    TensorFile,
    encode,
    open_tensors,
    read_header,
    read_tensors,
    write_tensors,
)
from fit3d_cli.tensorfile.header import (
    ARCHIVE_LIMITS,
    DTYPES,
    MODEL_LIMITS,
    Header,
    Limits,
    MalformedHeader,
    TensorInfo,
    parse_header,
    strict_json,
)
from fit3d_cli.tensorfile.sealed import check_sealed, read_sealed, write_sealed

__all__ = [
    "ARCHIVE_LIMITS",
    "DTYPES",
    "MODEL_LIMITS",
    "Header",
    "Headers",
    "Limits",
    "MalformedHeader",
    "TensorFile",
    "TensorInfo",
    "check_sealed",
    "encode",
    "open_tensors",
    "parse_header",
    "read_header",
    "read_sealed",
    "read_tensors",
    "strict_json",
    "write_sealed",
    "write_tensors",
]
