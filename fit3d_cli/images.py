"""Pictures in and out: reading, resizing, PNG.

Pixels are taken exactly as stored: an EXIF rotation is never applied, because the cameras of
a capture belong to the stored pixels. Pixel centres lie at +0.5.
"""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fit3d_cli.errors import ImageError
from fit3d_cli.pictures import MAX_PIXELS, decode, opened, quiet, raw_mode
from fit3d_cli.shapes import check_dims
from fit3d_cli.storage import write_bytes

__all__ = [
    "MAX_PIXELS", "ImageHeader", "depth_size", "encode_png", "fit_size", "image_header",
    "image_size", "read_depth", "read_image", "read_labels", "read_mask", "read_photo",
    "resize_depth", "resize_image", "resize_mask", "resize_values", "save_png",
]  # fmt: skip
_GREY16 = ("I;16", "I;16L", "I;16B", "I")
# Pillow spreads greys of few bits over 0..255.
_GREY_STEPS = {"L;2": 85, "L;4": 17}


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


def image_header(path: Path) -> ImageHeader:
    """Size, mode and EXIF orientation without decoding.

    Raises:
        ImageError: Missing, not JPEG/PNG/WebP, animated, CMYK or above 64 megapixels.
    """
    with opened(path) as image:
        # Damaged EXIF says nothing; the pixels may be whole.
        orientation = 1
        with quiet(), suppress(SyntaxError, ValueError, struct.error, KeyError, TypeError):
            # Pillow decodes the whole of a PNG to look for EXIF behind the pixels.
            if image.format != "PNG" or "exif" in image.info:
                orientation = image.getexif().get(0x0112, 1)
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

    Grey and palette pictures become RGB, 16-bit grey is divided by 257, of 16-bit colours the high
    byte is taken, and the colour of transparent pixels is kept as stored (not premultiplied).

    Returns:
        ``[H, W, 3]`` uint8 and ``[H, W]`` bool (alpha above one half), None without alpha.

    Raises:
        ImageError: As ``image_header``, or truncated.
    """
    with opened(path) as image:
        stored = raw_mode(image)
        decode(image)
        key = image.info.get("transparency")  # the colour that is transparent
        if image.mode in ("1", "L", *_GREY16):
            values = np.asarray(image).astype(np.int64)
            values *= 255 if image.mode == "1" else 1
            step = 255 if image.mode == "1" else _GREY_STEPS.get(stored, 1)
            alpha = None if key is None else values != key * step
            if image.mode in _GREY16:
                values = (values + 128) // 257
            return np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2), alpha
        if key is not None and stored == "RGB;16B":
            raise ValueError("a transparent colour of 16 bits")  # its low bytes are not decoded
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or key is not None:
            rgba = np.asarray(image.convert("RGBA"))
            return np.ascontiguousarray(rgba[:, :, :3]), rgba[:, :, 3] > 127
        return np.array(image.convert("RGB")), None


def read_image(path: Path) -> NDArray[np.uint8]:
    """``[H, W, 3]`` uint8 colour, see ``read_photo``."""
    return read_photo(path)[0]


def depth_size(path: Path) -> tuple[int, int]:
    """``(width, height)`` of what ``read_depth`` reads, from the header only.

    Raises:
        ImageError: As ``image_header``, or not a single-channel 16-bit picture.
    """
    header = image_header(path)
    _check_depth(header.mode, path)
    return header.width, header.height


def _check_depth(mode: str, path: Path) -> None:
    if mode not in _GREY16:
        raise ImageError(
            f"depth of mode {mode}",
            where=path,
            hint="store depth as a 16-bit single-channel PNG",
        )


def read_depth(path: Path) -> NDArray[np.float32]:
    """A 16-bit depth PNG.

    Returns:
        ``[H, W]`` float32 in the file's units, 0 = unknown. 65535, which several sensors write
        for "no return", becomes 0.

    Raises:
        ImageError: Not a readable single-channel 16-bit picture.
    """
    with opened(path) as image:
        _check_depth(image.mode, path)
        decode(image)
        depth = np.array(image).astype(np.float32)
    depth[(depth >= 65535) | (depth < 0)] = 0
    return depth


def read_mask(path: Path) -> NDArray[np.bool_]:
    """``[H, W]`` bool mask, True = use: pixels with any non-zero colour channel.

    Raises:
        ImageError: Not readable.
    """
    with opened(path) as image:
        decode(image)
        if image.mode in ("1", "L", *_GREY16):
            return np.array(image) > 0
        if image.mode in ("LA", "La"):
            return np.array(image)[:, :, 0] > 0
        # By way of RGBA, for palettes with transparent entries have no other.
        values: NDArray[np.bool_] = np.asarray(image.convert("RGBA"))[:, :, :3].max(axis=2) > 0
        return values


def read_labels(path: Path) -> NDArray[np.int64]:
    """``[H, W]`` int64 class numbers of a single-channel or palette PNG.

    Raises:
        ImageError: Not readable, or a colour picture.
    """
    with opened(path) as image:
        if image.mode not in ("1", "L", "P", *_GREY16):
            raise ImageError(
                f"labels of mode {image.mode}",
                where=path,
                hint="store labels as a single-channel or palette PNG",
            )
        step = _GREY_STEPS.get(raw_mode(image), 1)
        decode(image)
        return np.array(image).astype(np.int64) // step


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
