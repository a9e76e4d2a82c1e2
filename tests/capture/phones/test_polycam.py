from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fit3d_cli.capture.base import READERS
from fit3d_cli.capture.read import read_capture

CAMERAS = "keyframes/corrected_cameras"
PHOTOS = "keyframes/corrected_images"
FIRST = "65505281644"


def test_a_point_falls_where_arkit_says(phones, tmp_path: Path) -> None:
    phones.polycam(tmp_path / "p")
    for view in read_capture(tmp_path / "p").views:
        camera = json.loads((tmp_path / f"p/{CAMERAS}/{view.image_path.stem}.json").read_text())
        rows = np.array([[camera[f"t_{r}{c}"] for c in range(4)] for r in range(3)])
        # ARKit: x right, y up, looking along -z.
        x, y, z = rows[:, :3].T @ (np.array(phones.point) - rows[:, 3])
        expected = [camera["cx"] + camera["fx"] * x / -z, camera["cy"] - camera["fy"] * y / -z]
        assert phones.pixel(view) == pytest.approx(expected, abs=1e-6)


def test_uncorrected_photos_are_the_second_choice(phones, tmp_path: Path) -> None:
    phones.polycam(tmp_path / "p")
    corrected = read_capture(tmp_path / "p")
    assert corrected.notes == ()
    shutil.rmtree(tmp_path / "p/keyframes/corrected_images")
    capture = read_capture(tmp_path / "p")
    assert capture.views[0].name == f"keyframes/images/{FIRST}.jpg"
    assert len(capture.notes) == 1 and "ARKit's own poses" in capture.notes[0]
    moved = [torch.linalg.inv(v.viewmat)[:3, 3] for v in capture.views]
    for place, view in zip(moved, corrected.views, strict=True):
        expected = torch.linalg.inv(view.viewmat)[:3, 3] + 0.01
        torch.testing.assert_close(place, expected, atol=1e-9, rtol=0)


def test_the_folder_itself_and_missing_extras(phones, tmp_path: Path) -> None:
    phones.polycam(tmp_path / "p")
    shutil.rmtree(tmp_path / "p/keyframes/depth")
    (tmp_path / f"p/{CAMERAS}/{FIRST}.json").unlink()
    capture = read_capture(tmp_path / "p/keyframes")
    assert capture.views[0].name == "corrected_images/65505281651.jpg"
    assert dict(capture.dropped) == {"no camera file": 1}
    assert all(view.depth_path is None for view in capture.views)


def test_photos_of_another_resolution(phones, tmp_path: Path) -> None:
    phones.polycam(tmp_path / "p")
    shutil.rmtree(tmp_path / "p/keyframes/corrected_images")
    for photo in (tmp_path / "p/keyframes/images").iterdir():
        Image.open(photo).resize((32, 24)).save(photo)
    capture = read_capture(tmp_path / "p")
    torch.testing.assert_close(capture.views[0].K, phones.depth_K)
    assert any("rescaled" in note for note in capture.notes)


def test_photo_mode_has_no_cameras(phones, tmp_path: Path, told: Callable[..., None]) -> None:
    phones.polycam(tmp_path / "p")
    for name in ("cameras", "corrected_cameras"):
        shutil.rmtree(tmp_path / f"p/keyframes/{name}")
    assert READERS.get("polycam").sniff(tmp_path / "p")
    told(tmp_path / "p", "keyframes", "LiDAR and Room captures only")


DAMAGES = {
    "missing key": (lambda d: d.pop("t_12"), "t_12: expected a number, found nothing"),
    "no focal length": (lambda d: d.pop("fx"), "fx: expected a number, found nothing"),
    "text": (lambda d: d.update(cx="31"), "cx: expected a number, found a text"),
    "huge": (lambda d: d.update(t_03=10**400), "t_03: expected a finite number"),
    "size": (lambda d: d.update(width=64.5, height=48), "width: expected a positive whole number"),
    "half a size": (lambda d: d.update(width=64), "height: expected a number"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_camera(
    phones, tmp_path: Path, case: str, told: Callable[..., None], edit: Callable[..., None]
) -> None:
    phones.polycam(tmp_path / "p")
    damage, words = DAMAGES[case]
    edit(tmp_path / f"p/{CAMERAS}/{FIRST}.json", damage)
    told(tmp_path / "p", f"corrected_cameras/{FIRST}.json", words)


FILES = {
    "bad JSON": (lambda r: (r / CAMERAS / f"{FIRST}.json").write_text("{"), FIRST, "not JSON"),
    "a list": (lambda r: (r / CAMERAS / f"{FIRST}.json").write_text("[]"), FIRST, "an object"),
    "infinity": (
        lambda r: (r / CAMERAS / f"{FIRST}.json").write_text('{"fx": Infinity}'), FIRST,
        "Infinity is not JSON"),
    "no photo": (
        lambda r: (r / PHOTOS / f"{FIRST}.jpg").unlink(), f"{FIRST}.json",
        "1 cameras without a photo in corrected_images"),
    "photo empty": (
        lambda r: (r / PHOTOS / f"{FIRST}.jpg").write_bytes(b""), f"{FIRST}.jpg", "not a JPEG"),
    "photo of another shape": (
        lambda r: Image.new("RGB", (48, 64)).save(r / "keyframes/images" / f"{FIRST}.jpg"),
        f"{FIRST}.jpg", "do not match"),
    "depth of another shape": (
        lambda r: Image.new("I;16", (24, 32)).save(r / f"keyframes/depth/{FIRST}.png"),
        f"{FIRST}.png", "24x32"),
    "depth in 8 bit": (
        lambda r: Image.new("L", (32, 24)).save(r / f"keyframes/depth/{FIRST}.png"),
        f"{FIRST}.png", "16-bit"),
    "depth damaged": (
        lambda r: (r / f"keyframes/depth/{FIRST}.png").write_bytes(b"x"), f"{FIRST}.png",
        "not a JPEG, PNG"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_damaged_file(phones, tmp_path: Path, case: str, told: Callable[..., None]) -> None:
    phones.polycam(tmp_path / "p")
    damage, name, words = FILES[case]
    if case == "photo of another shape":  # the corrected cameras do not say a size
        shutil.rmtree(tmp_path / "p" / PHOTOS)
    damage(tmp_path / "p")
    told(tmp_path / "p", name, words)
