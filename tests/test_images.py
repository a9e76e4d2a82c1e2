from __future__ import annotations

import struct
import subprocess
import zlib
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from fit3d_cli.errors import EnvironmentFault, ImageError
from fit3d_cli.images import (
    encode_png,
    fit_size,
    image_header,
    image_size,
    read_depth,
    read_image,
    read_labels,
    read_mask,
    read_photo,
    resize_depth,
    resize_image,
    resize_mask,
    save_png,
)
from fit3d_cli.video import save_video

RGB = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def _save(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def test_colour_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "sub dir" / "é.png"
    save_png(path, RGB)
    assert np.array_equal(read_image(path), RGB)
    assert read_photo(path)[1] is None
    assert image_size(path) == (7, 5)
    assert encode_png(RGB) == path.read_bytes()


def test_alpha_is_not_premultiplied(tmp_path: Path) -> None:
    alpha = np.tile(np.array([0, 1, 127, 128, 254, 255, 0], np.uint8), (5, 1))
    path = _save(tmp_path / "a.png", np.dstack([RGB, alpha]))
    assert np.array_equal(read_image(path), RGB)
    mask = read_photo(path)[1]
    assert mask is not None
    assert mask[0].tolist() == [False, False, False, True, True, True, False]


def test_grey_palette_and_16_bit(tmp_path: Path) -> None:
    grey = _save(tmp_path / "g.png", RGB[:, :, 0])
    assert np.array_equal(read_image(grey), np.repeat(RGB[:, :, :1], 3, axis=2))
    palette = Image.fromarray(RGB[:, :, 0] % 3).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png")[0, 1].tolist() == [70 - 30 * (RGB[0, 1, 0] % 3 == 1) -
        60 * (RGB[0, 1, 0] % 3 == 0) + c for c in (0, 10, 20)]  # fmt: skip
    palette.save(tmp_path / "t.png", transparency=0)
    mask = read_photo(tmp_path / "t.png")[1]
    assert mask is not None and np.array_equal(mask, RGB[:, :, 0] % 3 != 0)
    deep = _save(tmp_path / "d.png", np.array([[0, 128, 257, 65535, 32896]], np.uint16))
    assert read_image(deep)[0, :, 0].tolist() == [0, 0, 1, 255, 128]
    two = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    two.save(tmp_path / "b.png")
    assert read_image(tmp_path / "b.png")[0, :, 1].tolist() == [0, 255]


def test_exif_rotation_is_reported_and_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = _save(tmp_path / "e.jpg", RGB, exif=exif)
    assert image_header(path).orientation == 6
    assert read_image(path).shape == (5, 7, 3)


def _bomb(path: Path, width: int, height: int) -> None:
    """A PNG header that announces a huge picture."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    size = struct.pack(">I", len(chunk) - 4)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + size + chunk + struct.pack(">I", zlib.crc32(chunk))
        + b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )  # fmt: skip


def _bad(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"bad {kind}.png"
    if kind == "cmyk":
        Image.new("CMYK", (4, 4)).save(path, format="JPEG")
    elif kind == "animated":
        frames = [Image.fromarray(RGB + np.uint8(i)) for i in range(2)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    elif kind == "animated webp":
        frames = [Image.fromarray(RGB + np.uint8(i * 90)) for i in range(2)]
        frames[0].save(path, format="WEBP", save_all=True, append_images=frames[1:])
    elif kind == "gif":
        Image.fromarray(RGB).save(path, format="GIF")
    elif kind == "large":
        _bomb(path, 8001, 8000)
    elif kind == "larger":
        _bomb(path, 10_000, 10_000)
    elif kind == "bomb":
        _bomb(path, 100_000, 100_000)
    elif kind == "truncated":
        _save(path, RGB)
        path.write_bytes(path.read_bytes()[:-30])
    elif kind == "damaged":
        _save(path, RGB)
        data = bytearray(path.read_bytes())
        data[50] ^= 255
        path.write_bytes(bytes(data))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("no picture")
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    "kind",
    ["cmyk", "animated", "animated webp", "gif", "large", "larger", "bomb", "truncated", "damaged",
     "empty", "text", "folder", "absent"],
)  # fmt: skip
def test_bad_pictures(tmp_path: Path, kind: str) -> None:
    path = _bad(tmp_path, kind)
    with pytest.raises(ImageError, match=f"bad {kind}") as caught:
        read_image(path)
    assert caught.value.hint
    if kind not in ("truncated", "damaged"):
        with pytest.raises(ImageError):
            image_size(path)


def test_every_cut_of_a_jpeg(tmp_path: Path) -> None:
    path = _save(tmp_path / "j.jpg", np.tile(RGB, (5, 5, 1)))
    whole = path.read_bytes()
    for size in range(0, len(whole) - 2, 37):
        path.write_bytes(whole[:size])
        with pytest.raises(ImageError):
            read_image(path)


def test_depth_and_labels(tmp_path: Path) -> None:
    values = np.array([[0, 1, 1234, 65534, 65535]], np.uint16)
    path = _save(tmp_path / "d.png", values)
    assert read_depth(path).tolist() == [[0, 1, 1234, 65534, 0]]
    assert read_depth(path).dtype == np.float32
    assert read_labels(path).tolist() == values.tolist()
    assert read_mask(path).tolist() == [[False, True, True, True, True]]
    small = _save(tmp_path / "l.png", np.array([[0, 11, 255]], np.uint8))
    assert read_labels(small).tolist() == [[0, 11, 255]] and read_labels(small).dtype == np.int64
    assert read_mask(small).tolist() == [[False, True, True]]
    colour = _save(tmp_path / "c.png", np.array([[[0, 0, 0], [0, 0, 1]]], np.uint8))
    assert read_mask(colour).tolist() == [[False, True]]
    with pytest.raises(ImageError, match=r"l\.png: depth of mode L"):
        read_depth(small)
    with pytest.raises(ImageError, match=r"c\.png: labels of mode RGB"):
        read_labels(colour)


def test_fit_size() -> None:
    assert fit_size(640, 480, 320) == (320, 240)
    assert fit_size(640, 480, 448, 14) == (448, 336)
    assert fit_size(540, 960, 450, 16) == (448, 800)
    assert fit_size(640, 480, 1280, 16) == (1280, 960)  # larger than the source, as asked
    assert fit_size(1000, 10, 3, 14) == (14, 14)
    for width, height, target, multiple in [(641, 479, 333, 14), (100, 700, 224, 16)]:
        w, h = fit_size(width, height, target, multiple)
        assert w % multiple == 0 == h % multiple
        assert abs(w - target) <= multiple / 2
        assert abs(h - w * height / width) <= multiple / 2


def test_resize_keeps_pixel_centres() -> None:
    ramp = np.repeat((np.arange(60) * 4).astype(np.uint8)[None, :, None], 8, axis=0).repeat(3, 2)
    for width in (20, 30, 45, 90):
        small = resize_image(ramp, width, 4)
        assert small.shape == (4, width, 3) and small.dtype == torch.float32
        centres = (torch.arange(width) + 0.5) * 60 / width - 0.5
        inner = slice(3, -3)
        found = small[2, inner, 0] * 255 / 4
        torch.testing.assert_close(found, centres[inner], atol=0.02, rtol=0)
    same = resize_image(RGB, 7, 5)
    assert torch.equal(same, torch.from_numpy(RGB).float() / 255)


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((16, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize_image(stripes, 16, 4)
    assert float((small[:, 2:-2] - 0.5).abs().max()) < 0.02


def test_resize_depth_and_mask() -> None:
    depth = torch.tensor([[0.0, 1.0, 5.0, 0.0]]).repeat(4, 1)
    assert resize_depth(depth, 2, 2).tolist() == [[1, 0], [1, 0]]
    assert resize_depth(depth, 8, 1).tolist() == [[0, 0, 1, 1, 5, 5, 0, 0]]
    assert torch.equal(resize_depth(depth, 4, 4), depth)
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[:, 3:] = True
    assert torch.equal(resize_mask(mask, 6, 6), mask)
    assert resize_mask(mask, 2, 2).tolist() == [[False, True], [False, True]]


def test_png_kinds(tmp_path: Path) -> None:
    mask = np.array([[True, False]])
    save_png(tmp_path / "m.png", mask)
    assert read_mask(tmp_path / "m.png").tolist() == mask.tolist()
    assert read_image(tmp_path / "m.png")[0, 0].tolist() == [255, 255, 255]
    deep = np.array([[0, 300, 65534]], np.uint16)
    save_png(tmp_path / "d.png", deep)
    assert read_depth(tmp_path / "d.png").tolist() == deep.tolist()


def _frames(count: int = 4, width: int = 33, height: int = 21) -> list[np.ndarray]:
    y, x = np.mgrid[:height, :width]
    return [
        np.stack([x * 7 % 256, y * 11 % 256, np.full_like(x, 40 * i)], axis=-1).astype(np.uint8)
        for i in range(count)
    ]


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_video(tmp_path: Path, suffix: str) -> None:
    path, again = tmp_path / f"v 1{suffix}", tmp_path / f"w{suffix}"
    save_video(path, iter(_frames()), 10)
    save_video(again, _frames(), 10)
    assert path.read_bytes() == again.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, again.name])
    if suffix == ".gif":
        with Image.open(path) as gif:
            assert (gif.n_frames, gif.size, gif.info["duration"]) == (4, (33, 21), 100)
        return
    # Odd sides are padded to even ones.
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo",
               "-pix_fmt", "rgb24", "-"]  # fmt: skip
    decoded = subprocess.run(command, capture_output=True, check=True)
    assert b"34x22" in decoded.stderr and b"10 fps" in decoded.stderr
    pictures = np.frombuffer(decoded.stdout, np.uint8).reshape(-1, 22, 34, 3)
    assert len(pictures) == 4
    for picture, frame in zip(pictures, _frames(), strict=True):
        assert np.abs(picture[:21, :33].astype(int) - frame).mean() < 12


def test_video_refusals(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"v\.avi.*\.mp4 or \.gif"):
        save_video(tmp_path / "v.avi", _frames(), 10)
    with pytest.raises(ImageError, match="without frames"):
        save_video(tmp_path / "v.mp4", [], 10)
    broken = [*_frames(2), _frames(1, 20, 20)[0]]
    with pytest.raises(ImageError, match=r"v\.mp4: frame of 20x20 after one of 33x21"):
        save_video(tmp_path / "v.mp4", broken, 10)
    assert list(tmp_path.iterdir()) == []


def test_failing_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: "false")
    with pytest.raises(EnvironmentFault, match=r"v\.mp4: the video encoder failed"):
        save_video(tmp_path / "v.mp4", _frames(50, 320, 240), 10)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(tmp_path / "absent"))
    with pytest.raises(EnvironmentFault, match=r"v\.mp4: no video encoder.*\.gif"):
        save_video(tmp_path / "v.mp4", _frames(), 10)
    assert list(tmp_path.iterdir()) == []
