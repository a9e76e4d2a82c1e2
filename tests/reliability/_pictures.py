"""Pictures of every kind that PNG, JPEG and WebP know, with the pixels that they mean; bombs."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms

WIDTH, HEIGHT = 21, 13
# Adam7: first column and row of a pass, and its steps.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip
SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}


@dataclass(frozen=True)
class Picture:
    """A file and what reading it must give.

    Attributes:
        name: File name; its suffix need not be true.
        data: The bytes.
        photo: ``[H, W, 3]`` uint8; None: must be refused.
        alpha: ``[H, W]`` bool, or None for "no alpha".
        depth: ``[H, W]`` float32; None: must be refused as depth.
        labels: ``[H, W]`` numbers; None: must be refused as labels.
        off: Mean difference that lossy compression may make.
        says: Words of the refusal.
    """

    name: str
    data: bytes
    photo: np.ndarray | None = None
    alpha: np.ndarray | None = None
    depth: np.ndarray | None = None
    labels: np.ndarray | None = None
    off: float = 0.0
    says: str = ""


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int, bits: int, colour: int, interlaced: bool = False) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced))


def png(
    values: np.ndarray, bits: int, colour: int, *, interlaced: bool = False,
    before: bytes = b"", behind: bytes = b"",
) -> bytes:  # fmt: skip
    """A PNG of ``[H, W, channels]`` samples, its rows unfiltered."""
    height, width = values.shape[:2]
    passes = PASSES if interlaced else ((0, 0, 1, 1),)
    raw = b"".join(rows(values[y::dy, x::dx], bits) for x, y, dx, dy in passes)
    return (SIGNATURE + header(width, height, bits, colour, interlaced) + before
            + chunk(b"IDAT", zlib.compress(raw)) + behind + chunk(b"IEND", b""))  # fmt: skip


def rows(values: np.ndarray, bits: int) -> bytes:
    if not values.size:
        return b""
    if bits == 16:
        packed = values.astype(">u2").reshape(len(values), -1).view(np.uint8)
    elif bits == 8:
        packed = values.astype(np.uint8).reshape(len(values), -1)
    else:
        flat = values.astype(np.uint8).reshape(len(values), -1)
        single = (flat[:, :, None] >> np.arange(bits)[::-1]) & 1
        packed = np.packbits(single.reshape(len(values), -1), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def samples(bits: int, channels: int) -> np.ndarray:
    """``[HEIGHT, WIDTH, channels]`` in 0..2**bits - 1, smooth, with both ends in it."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    top = 2**bits - 1
    planes = [np.clip((x * (3 + c) + y * (5 - c)) * top // 120, 0, top) for c in range(channels)]
    return np.stack(planes, axis=-1)


def png_matrix() -> Iterator[Picture]:
    """Colour types x depths x interlacing x transparency by colour."""
    kinds = [(GREY, b) for b in (1, 2, 4, 8, 16)] + [(PALETTE, b) for b in (1, 2, 4, 8)]
    kinds += [(c, b) for c in (RGB, GREY_ALPHA, RGB_ALPHA) for b in (8, 16)]
    for colour, bits in kinds:
        values = samples(bits, CHANNELS[colour])
        if colour == PALETTE:
            values = values % min(2**bits, 40)
        for interlaced in (False, True):
            for keyed in (False, True) if colour in (GREY, RGB, PALETTE) else (False,):
                name = f"png-{colour}-{bits}{'-laced' * interlaced}{'-keyed' * keyed}.png"
                yield png_picture(name, values, bits, colour, interlaced, keyed)


def png_picture(
    name: str, values: np.ndarray, bits: int, colour: int, interlaced: bool, keyed: bool
) -> Picture:
    before, alpha = b"", None
    table = np.array([[i * 37 % 256, i * 91 % 256, 255 - i] for i in range(min(2**bits, 40))])
    if colour == PALETTE:
        before = chunk(b"PLTE", table.astype(np.uint8).tobytes())
        if keyed:  # every second entry lets the ground through, in two degrees
            through = [0 if i % 4 == 1 else 100 if i % 4 == 3 else 255 for i in range(len(table))]
            before += chunk(b"tRNS", bytes(through))
            alpha = np.array(through)[values[:, :, 0]] > 127
    elif keyed:
        key = values[HEIGHT // 2, WIDTH // 2]
        before = chunk(b"tRNS", key.astype(">u2").tobytes())
        alpha = ~(values == key).all(axis=2)
    eight = {1: values * 255, 2: values * 85, 4: values * 17, 8: values}.get(bits)
    if eight is None:
        grey = colour == GREY
        eight = (values.astype(np.int64) + 128) // 257 if grey else values >> 8
    photo = table[values[:, :, 0]] if colour == PALETTE else eight
    if colour in (GREY, GREY_ALPHA):
        photo = eight[:, :, :1].repeat(3, axis=2)
    if colour in (GREY_ALPHA, RGB_ALPHA):
        alpha = eight[:, :, -1] > 127
    plain = values[:, :, 0] if colour in (GREY, PALETTE) else None
    deep = plain.astype(np.float32) if colour == GREY and bits == 16 else None
    if deep is not None:
        deep[deep >= 65535] = 0
    if keyed and (colour, bits) == (RGB, 16):  # the low bytes of which are not decoded
        return Picture(name, png(values, bits, colour, interlaced=interlaced, before=before),
                       says="transparent colour of 16 bits")  # fmt: skip
    return Picture(
        name, png(values, bits, colour, interlaced=interlaced, before=before),
        photo[:, :, :3].astype(np.uint8), alpha, deep, plain,
    )  # fmt: skip


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    if "append_images" in options:
        options["append_images"] = [more.copy() for more in options["append_images"]]
    # Copies: Pillow notes on a picture how it was last encoded.
    image.copy().save(buffer, format=kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def other_matrix() -> Iterator[Picture]:
    """What Pillow writes: JPEG and WebP of all kinds, and formats that are refused."""
    truth = samples(8, 3).astype(np.uint8)
    grey = truth[:, :, 0]
    flat = grey[:, :, None].repeat(3, axis=2)
    colour, other = Image.fromarray(truth), Image.fromarray(255 - truth)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    opaque = np.full((HEIGHT, WIDTH), True)
    half = opaque.copy()
    half[:, :7] = False
    through = np.dstack([truth, half * np.uint8(255)])
    for turn in range(1, 9):  # the stored pixels, whatever the tag says
        for kind in ("JPEG", "PNG", "WEBP"):
            more = {"lossless": True} if kind == "WEBP" else {"quality": 95}
            data = saved(colour, kind, exif=exif(turn), **more)
            off = 8.0 if kind == "JPEG" else 0.0
            yield Picture(f"exif-{turn}.{kind.lower()}", data, truth, off=off)
    for name, options in {"base": {}, "progressive": {"progressive": True}, "icc":
                          {"icc_profile": icc}, "sub": {"subsampling": 2}}.items():  # fmt: skip
        data = saved(colour, "JPEG", quality=95, **options)
        yield Picture(f"{name}.jpg", data, truth, off=12.0)
    yield Picture("wrong-suffix.png", saved(colour, "JPEG", quality=95), truth, off=8.0)
    yield Picture("wrong-suffix.txt", saved(colour, "PNG"), truth)
    yield Picture("grey.jpg", saved(Image.fromarray(grey), "JPEG", quality=95), flat, off=8.0,
                  labels=grey)  # fmt: skip
    yield Picture("mpo.jpg", saved(colour, "MPO", save_all=True, append_images=[other],
                                   quality=95), truth, off=8.0)  # fmt: skip
    yield Picture("icc.png", saved(colour, "PNG", icc_profile=icc), truth)
    yield Picture("lossy.webp", saved(colour, "WEBP", quality=95), truth, off=12.0)
    yield Picture("lossless.webp", saved(colour, "WEBP", lossless=True), truth)
    yield Picture("alpha.webp", saved(Image.fromarray(through), "WEBP", lossless=True, exact=True),
                  truth, half)  # fmt: skip
    yield Picture("one.png", saved(colour.crop((0, 0, 1, 1)), "PNG"), truth[:1, :1])
    yield Picture("row.png", saved(colour.crop((0, 0, WIDTH, 1)), "PNG"), truth[:1])
    for kind in ("PNG", "WEBP", "GIF", "TIFF"):
        data = saved(colour, kind, save_all=True, append_images=[other])
        says = "animated" if kind in ("PNG", "WEBP") else "not a JPEG, PNG or WebP"
        yield Picture(f"frames.{kind.lower()}", data, says=says)
    for kind in ("BMP", "TIFF", "GIF", "PPM", "ICO", "TGA", "PDF", "JPEG2000"):
        yield Picture(f"other.{kind.lower()}", saved(colour, kind), says="not a JPEG, PNG or WebP")
    yield Picture("cmyk.jpg", saved(colour.convert("CMYK"), "JPEG"), says="CMYK")
    yield Picture("empty.png", b"", says="not a JPEG")
    yield Picture("zeros.jpg", bytes(4096), says="not a JPEG")
    yield Picture("text.png", b"hello, this is no picture", says="not a JPEG")
    yield Picture("behind.png", saved(colour, "PNG") + b"more", truth)


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that would take much memory or time if they were believed."""
    pixels = chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    for width, height in ((8001, 8000), (100_000, 100_000), (2**31 - 1, 2**31 - 1)):
        yield f"declared-{width}.png", SIGNATURE + header(width, height, 16, RGB_ALPHA) + pixels
    start = saved(Image.new("RGB", (16, 16)), "JPEG")
    at = start.index(b"\xff\xc0")
    large = start[: at + 5] + struct.pack(">HH", 65500, 65500) + start[at + 9 :]
    yield "declared.jpg", large
    webp = saved(Image.new("RGB", (16, 16)), "WEBP", lossless=True)
    at = webp.index(b"VP8L") + 9
    yield "declared.webp", webp[:at] + struct.pack("<I", 0x0FFFFFFF) + webp[at + 4 :]
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes([0, 0, 0, 0]) + b"\xff\x3f\x00" * 2
    body = b"WEBP" + canvas + webp[12:]
    yield "canvas.webp", b"RIFF" + struct.pack("<I", len(body)) + body
    nothing = zlib.compress(bytes(1 << 20), 9)
    icc = chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(64 << 20), 9))
    texts = [chunk(b"zTXt", b"k%d\0\0" % i + nothing) for i in range(200)]
    picture = chunk(b"IDAT", zlib.compress(bytes(13))) + chunk(b"IEND", b"")
    top = SIGNATURE + header(4, 1, 8, RGB)
    yield "icc.png", top + icc + picture
    yield "texts.png", top + b"".join(texts) + picture
    yield "texts-behind.png", top + picture[:-12] + b"".join(texts) + picture[-12:]
    stream = zlib.compress(bytes(256 << 20), 9)
    yield "stream.png", top + chunk(b"IDAT", stream) + chunk(b"IEND", b"")
    yield "chunks.png", top + chunk(b"teST", b"") * 50_000 + picture
    markers = start[:2] + b"\xff\xfe\x00\x02" * 150_000 + start[2:]
    yield "markers.jpg", markers
    yield "scans.jpg", scan_bomb()


def scan_bomb() -> bytes:
    """A progressive JPEG of 8000 x 7000 that says nothing, a thousand times over."""
    image = Image.new("L", (16, 16))
    start = saved(image, "JPEG", progressive=True)
    at = start.index(b"\xff\xc2")
    large = start[: at + 5] + struct.pack(">HH", 7000, 8000) + start[at + 9 :]
    scan = large.rindex(b"\xff\xc4")  # the last table and its scan
    return large[:-2] + large[scan:-2] * 1000 + large[-2:]
