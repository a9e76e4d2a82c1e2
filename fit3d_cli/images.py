"""Pictures in and out: reading, resizing, PNG.

Pixels are taken exactly as stored: an EXIF rotation is never applied, because the cameras of
a capture belong to the stored pixels. Pixel centres lie at +0.5.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fit3d_cli.errors import ImageError
from fit3d_cli.shapes import check_dims
from fit3d_cli.storage import write_bytes

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 64_000_000
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError)
_GREY16 = ("I;16", "I;16L", "I;16B", "I")
_OPEN_LOCK = threading.Lock()  # warnings.catch_warnings is not safe across threads


@dataclass(frozen=True)
class ImageHeader:
    """What a picture says of itself before it is decoded.

    Attributes:
        width: Stored width, pixels.
        height: Stored height, pixels.
        mode: Pillow's pixel mode.
        orientation: EXIF orientation, 1 to 8; 5 to 8 show the picture turned by 90 degrees.
    """

    width: int
    height: int
    mode: str
    orientation: int


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An opened, not yet decoded picture; every failure in the block becomes ImageError."""
    try:
        with path.open("rb") as file:
            with _OPEN_LOCK, warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
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
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(
            f"cannot be read as a picture ({reason})",
            where=path,
            hint="copy it again from the source, or save it anew",
        ) from error


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


def image_header(path: Path) -> ImageHeader:
    """Size, mode and EXIF orientation without decoding.

    Raises:
        ImageError: Missing, not JPEG/PNG/WebP, animated, CMYK or above 64 megapixels.
    """
    with _opened(path) as image:
        # Pillow decodes the whole of a PNG to look for EXIF behind the pixels.
        tags = {} if image.format == "PNG" and "exif" not in image.info else image.getexif()
        orientation = tags.get(0x0112, 1)
        known = isinstance(orientation, int) and 1 <= orientation <= 8
        return ImageHeader(image.width, image.height, image.mode, orientation if known else 1)


def image_size(path: Path) -> tuple[int, int]:
    """``(width, height)`` as stored, from the header only.

    Raises:
        ImageError: As ``image_header``.
    """
    header = image_header(path)
    return header.width, header.height


def read_photo(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """Colour and opacity of a photo.

    Grey and palette pictures become RGB, 16-bit grey is divided by 257, and the colour of
    transparent pixels is kept as stored (not premultiplied).

    Returns:
        ``[H, W, 3]`` uint8 and ``[H, W]`` bool (alpha above one half), None without alpha.

    Raises:
        ImageError: As ``image_header``, or truncated.
    """
    with _opened(path) as image:
        image.load()
        if image.mode in _GREY16:
            grey = (np.asarray(image).astype(np.int64) + 128) // 257
            return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2), None
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            rgba = np.asarray(image.convert("RGBA"))
            return np.ascontiguousarray(rgba[:, :, :3]), rgba[:, :, 3] > 127
        return np.array(image.convert("RGB")), None


def read_image(path: Path) -> NDArray[np.uint8]:
    """``[H, W, 3]`` uint8 colour, see ``read_photo``."""
    return read_photo(path)[0]


def read_depth(path: Path) -> NDArray[np.float32]:
    """A 16-bit depth PNG.

    Returns:
        ``[H, W]`` float32 in the file's units, 0 = unknown. 65535, which several sensors write
        for "no return", becomes 0.

    Raises:
        ImageError: Not a readable single-channel 16-bit picture.
    """
    with _opened(path) as image:
        if image.mode not in _GREY16:
            raise ImageError(
                f"depth of mode {image.mode}",
                where=path,
                hint="store depth as a 16-bit single-channel PNG",
            )
        depth = np.array(image).astype(np.float32)
    depth[(depth >= 65535) | (depth < 0)] = 0
    return depth


def read_mask(path: Path) -> NDArray[np.bool_]:
    """``[H, W]`` bool mask, True = use: pixels with any non-zero colour channel.

    Raises:
        ImageError: Not readable.
    """
    with _opened(path) as image:
        image.load()
        if image.mode in ("1", "L", *_GREY16):
            return np.array(image) > 0
        if image.mode in ("LA", "La"):
            return np.array(image)[:, :, 0] > 0
        values: NDArray[np.bool_] = np.asarray(image.convert("RGB")).max(axis=2) > 0
        return values


def read_labels(path: Path) -> NDArray[np.int64]:
    """``[H, W]`` int64 class numbers of a single-channel or palette PNG.

    Raises:
        ImageError: Not readable, or a colour picture.
    """
    with _opened(path) as image:
        if image.mode not in ("1", "L", "P", *_GREY16):
            raise ImageError(
                f"labels of mode {image.mode}",
                where=path,
                hint="store labels as a single-channel or palette PNG",
            )
        return np.array(image).astype(np.int64)


def fit_size(width: int, height: int, target_width: int, multiple: int = 1) -> tuple[int, int]:
    """The size for a picture of about ``target_width`` whose sides are multiples.

    The width is the multiple nearest to ``target_width``, whether or not that enlarges the
    picture; the height is the multiple that keeps the aspect best. Each is at least one
    multiple.

    Args:
        width: Width of the source, pixels.
        height: Height of the source, pixels.
        target_width: Wanted width, pixels.
        multiple: Both sides become a multiple of it (the backbone's patch size).

    Returns:
        ``(width, height)``.
    """
    fitted_width = max(1, (2 * target_width + multiple) // (2 * multiple)) * multiple
    ideal = fitted_width * height / width
    return fitted_width, max(1, int(ideal / multiple + 0.5)) * multiple


def resize_image(image: NDArray[np.uint8], width: int, height: int) -> Tensor:
    """Resize with a triangle filter as wide as the shrinkage (bilinear when enlarging).

    Args:
        image: ``[H, W, 3]`` uint8.
        width: New width, pixels.
        height: New height, pixels.

    Returns:
        ``[height, width, 3]`` float32 in 0..1.
    """
    check_dims(image=(image, "H W 3"))
    return resize_values(torch.from_numpy(image).to(torch.float32) / 255, width, height)


def resize_values(values: Tensor, width: int, height: int) -> Tensor:
    """``[H, W, C]`` float to ``[height, width, C]``, antialiased, pixel centres at +0.5."""
    if values.shape[:2] == (height, width):
        return values
    planes = values.permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        planes, size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )
    return resized[0].permute(1, 2, 0).contiguous()


def resize_depth(depth: Tensor, width: int, height: int) -> Tensor:
    """Nearest sample of ``[H, W]``: depths never mix across edges or holes."""
    check_dims(depth=(depth, "H W"))
    rows = ((torch.arange(height) * 2 + 1) * depth.shape[0]).div(2 * height, rounding_mode="floor")
    cols = ((torch.arange(width) * 2 + 1) * depth.shape[1]).div(2 * width, rounding_mode="floor")
    return depth[rows[:, None], cols[None, :]]


def resize_mask(mask: Tensor, width: int, height: int) -> Tensor:
    """``[H, W]`` bool to ``[height, width]``: True where at least half of the area is True."""
    check_dims(mask=(mask, "H W"))
    share = resize_values(mask[:, :, None].to(torch.float32), width, height)[:, :, 0]
    return share > 0.5 - 1e-4


def encode_png(array: NDArray[np.uint8] | NDArray[np.bool_] | NDArray[np.uint16]) -> bytes:
    """PNG bytes, the same for the same array.

    Args:
        array: ``[H, W]`` bool (stored as 0 and 255), uint8 or uint16, or ``[H, W, 3 or 4]`` uint8.
    """
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def save_png(path: Path, array: NDArray[np.uint8] | NDArray[np.bool_] | NDArray[np.uint16]) -> None:
    """Write ``encode_png(array)`` durably.

    Raises:
        StorageError: The file cannot be written.
    """
    write_bytes(path, encode_png(array))
