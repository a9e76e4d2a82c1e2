"""Opening pictures that may be damaged or made to do harm.

Whatever is wrong with a file becomes one ``ImageError``; size, memory and time are bounded before
anything is decoded, and Pillow's warnings about metadata that nobody reads are kept quiet.
"""

from __future__ import annotations

import io
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from PIL import Image, ImageFile, UnidentifiedImageError

from fit3d_cli.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 64_000_000
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError)
# No program writes more; a few hundred kilobytes of them would keep a decoder busy for minutes.
_MOST_PARTS = 2000
_MOST_TEXTS = 32
_MOST_SCANS = 100
_DEFLATE = 1040  # more than it can shrink anything
_QUIET_LOCK = threading.Lock()  # warnings.catch_warnings is not safe across threads


@contextmanager
def opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """An opened, not yet decoded picture; every failure in the block becomes ImageError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, for ever
            raise ImageError("not a file", where=path, hint="name a picture")
        with path.open("rb") as file:
            _check_parts(file)
            with quiet():
                image = Image.open(file, formats=FORMATS)
            with image:
                _check_header(image, path)
                yield image
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except FileNotFoundError as error:
        raise ImageError("no such picture", where=path, hint="restore the file") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            "not a JPEG, PNG or WebP picture", where=path, hint="convert it to PNG or JPEG"
        ) from error
    except _DAMAGE as error:
        reason = error.strerror if isinstance(error, OSError) else ""
        reason = " ".join((reason or str(error) or type(error).__name__).split())
        raise ImageError(
            f"cannot be read as a picture ({reason[:60]})",
            where=path,
            hint="copy it again from the source, or save it anew",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Pillow warns of what is wrong in metadata that is not used."""
    with _QUIET_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_parts(file: IO[bytes], *, behind: bool = False) -> None:
    """Refuse a picture whose parts beside the pixels are made to take long.

    Args:
        file: Is left at its start.
        behind: Also look behind the pixels of a PNG.

    Raises:
        ValueError: It has too many of them.
    """
    file.seek(0)
    start = file.read(8)
    parts = texts = 0
    if start == b"\x89PNG\r\n\x1a\n":
        while len(head := file.read(8)) == 8 and (behind or head[4:] != b"IDAT"):
            parts += head[4:] != b"IDAT"
            texts += head[4:] in (b"zTXt", b"iTXt")
            if parts > _MOST_PARTS or texts > _MOST_TEXTS:
                raise ValueError(f"more than {_MOST_TEXTS} texts or {_MOST_PARTS} parts")
            file.seek(int.from_bytes(head[:4], "big") + 4, io.SEEK_CUR)
    elif start[:2] == b"\xff\xd8":
        file.seek(2)
        while len(head := file.read(4)) == 4 and head[0] == 0xFF and head[1] != 0xDA:
            parts += 1
            if parts > _MOST_PARTS:
                raise ValueError(f"more than {_MOST_PARTS} parts")
            file.seek(max(0, int.from_bytes(head[2:], "big") - 2), io.SEEK_CUR)
    file.seek(0)


def decode(image: ImageFile.ImageFile) -> None:
    """Decode the pixels, unless the file cannot hold them or is made to take long."""
    file = image.fp
    assert file is not None
    at = file.tell()
    if image.format == "PNG":
        _check_parts(file, behind=True)
    # Among the pixels of a JPEG 0xFF is followed by 0 or the number of a restart.
    scans = file.read().count(b"\xff\xda") if image.info.get("progressive") else 0
    size = file.seek(0, io.SEEK_END)
    file.seek(at)
    if scans > _MOST_SCANS:
        raise ValueError(f"{scans} scans")
    pixels = image.width * image.height
    if image.format == "PNG":
        few = raw_mode(image).endswith(("1", ";2", ";4"))
        least = pixels * (1 if few else 8 * len(image.getbands())) // 8 // _DEFLATE
    else:  # JPEG: a bit for every 8x8 block; WebP can say all with nothing
        least = pixels // 512 if image.format in ("JPEG", "MPO") else 0
    if size < least:
        raise ValueError("fewer bytes than its pixels need")
    image.load()


def _too_large(path: Path) -> ImageError:
    return ImageError(
        f"larger than {MAX_PIXELS // 1_000_000} megapixels",
        where=path,
        hint="scale the pictures down before use",
    )


def _check_header(image: Image.Image, path: Path) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path)
    # MPO is what phones and drones write: a JPEG followed by previews. The first is the photo.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ImageError("animated picture", where=path, hint="save one frame as PNG")
    if image.mode in ("CMYK", "YCCK", "LAB", "HSV", "F"):
        raise ImageError(f"{image.mode} colours", where=path, hint="convert it to RGB")


def raw_mode(image: ImageFile.ImageFile) -> str:
    """How the pixels are packed in the file, as Pillow calls it; known before decoding."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) else args)
