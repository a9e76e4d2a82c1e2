"""``fit3d lift`` of captures that are wrong, in every layout."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults.case import Case, nothing

Damage = Callable[[Path], object]
ROOTS = {
    "rgbd": "rooms/room-0",
    "transforms": "layouts/transforms",
    "cameras-json": "layouts/cameras-json",
    "colmap-txt": "layouts/colmap-txt",
    "colmap-bin": "layouts/colmap-bin",
}
PHOTOS = {layout: "images/shot-2.png" for layout in ROOTS} | {"rgbd": "frame-000002.color.png"}
LISTS = {"transforms": "transforms.json", "cameras-json": "cameras.json"}
POSES = {"transforms": "transform_matrix", "cameras-json": "c2w_opencv"}


def photo(root: Path, layout: str) -> Path:
    return root / PHOTOS[layout]


def missing_photo(root: Path, layout: str) -> str:
    photo(root, layout).unlink()
    return photo(root, layout).name


def no_photos(root: Path, layout: str) -> str:
    for file in photo(root, layout).parent.glob("*.png"):
        if ".depth" not in file.name:
            file.unlink()
    return "shot-0.png" if layout != "rgbd" else "frame-000000.color"


def other_size(root: Path, layout: str) -> str:
    Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(photo(root, layout))
    return photo(root, layout).name


def truncated_photo(root: Path, layout: str) -> str:
    data = photo(root, layout).read_bytes()
    photo(root, layout).write_bytes(data[: len(data) * 2 // 3])
    return photo(root, layout).name


def not_a_photo(root: Path, layout: str) -> str:
    photo(root, layout).write_text("hello")
    return photo(root, layout).name


def animated_photo(root: Path, layout: str) -> str:
    shots = [Image.fromarray(np.full((32, 48, 3), v, np.uint8)) for v in (0, 99)]
    shots[0].save(photo(root, layout), "PNG", save_all=True, append_images=shots[1:])
    return photo(root, layout).name


def spoil_poses(root: Path, layout: str, which: list[int]) -> str:
    """NaN in the poses of the given views; names what the message must name."""
    if layout == "rgbd":
        for i in which:
            (root / f"frame-{i:06d}.pose.txt").write_text("nan " * 16)
        return root.name
    if layout in LISTS:
        path = root / LISTS[layout]
        data = json.loads(path.read_text())
        for i in which:
            data["frames"][i][POSES[layout]][0][3] = float("nan")
        path.write_text(json.dumps(data))
        return path.name
    if layout == "colmap-txt":
        path = root / "sparse/0/images.txt"
        lines = path.read_text().split("\n")
        for i in which:
            words = lines[2 * i].split()
            lines[2 * i] = " ".join([*words[:5], "nan", *words[6:]])
        path.write_text("\n".join(lines))
        return root.name
    path = root / "sparse/0/images.bin"
    data = bytearray(path.read_bytes())
    record = (len(data) - 8) // 5
    for i in which:
        struct.pack_into("<d", data, 8 + i * record + 4 + 32, float("nan"))
    path.write_bytes(bytes(data))
    return root.name


def all_poses_nan(root: Path, layout: str) -> str:
    return spoil_poses(root, layout, [0, 1, 2, 3, 4])


def empty(root: Path, layout: str) -> str:
    """The layout is there, and holds no view."""
    if layout == "rgbd":
        for file in root.glob("*.pose.txt"):
            file.unlink()
        return root.name
    if layout in LISTS:
        path = root / LISTS[layout]
        path.write_text(json.dumps(json.loads(path.read_text()) | {"frames": []}))
        return root.name
    path = root / ("sparse/0/images.txt" if layout == "colmap-txt" else "sparse/0/images.bin")
    path.write_bytes(b"# none\n" if path.suffix == ".txt" else struct.pack("<Q", 0))
    return path.name


def cut_list(root: Path, layout: str) -> str:
    """The file that lists the views ends too early."""
    path = {
        "rgbd": root / "frame-000002.pose.txt",
        "colmap-txt": root / "sparse/0/cameras.txt",
        "colmap-bin": root / "sparse/0/images.bin",
    }.get(layout) or root / LISTS[layout]
    path.write_bytes(path.read_bytes()[:20])
    return path.name


def lost_list(root: Path, layout: str) -> str:
    path = {
        "rgbd": root / "intrinsics.txt",
        "colmap-txt": root / "sparse/0/cameras.txt",
        "colmap-bin": root / "sparse/0/cameras.bin",
    }.get(layout) or root / LISTS[layout]
    path.unlink()
    return path.name if layout == "rgbd" else root.name


DAMAGES = (missing_photo, no_photos, other_size, truncated_photo, not_a_photo, animated_photo,
           all_poses_nan, empty, cut_list, lost_list)  # fmt: skip


NO_CAPTURE: dict[str, tuple[Damage, str, str]] = {
    "missing": (nothing, "gone", "no such file or directory"),
    "file": (lambda r: (r / "file").touch(), "file", "neither a capture"),
    "empty folder": (lambda r: (r / "void").mkdir(), "void", "neither a"),
    "folder of nothing": (lambda r: (r / "void/a/b").mkdir(parents=True), "void", "neither a"),
    "photos without poses": (
        lambda r: shutil.copytree(r / "layouts/transforms/images", r / "shots"), "shots", "a pose"),
    "unreadable by the named reader": (
        nothing, "rooms/room-0 --set lift.reader=colmap", "not laid out like colmap"),
    "unknown reader": (
        nothing, "rooms/room-0 --set lift.reader=colmat", "did you mean colmap"),
    "two layouts at once": (
        lambda r: shutil.copy(r / "layouts/transforms/transforms.json", r / "rooms/room-0"),
        "rooms/room-0", "choose with --set lift.reader="),
    "one view": (nothing, "rooms/room-0 --set lift.max_views=1", "one view"),
    "same name twice": (
        lambda r: shutil.copytree(r / "rooms/room-0", r / "more/room-0"), "rooms more", "room-0"),
    "depth asked, none there": (
        nothing, "layouts/transforms --set lift.init=depth", "no depth maps"),
    "points asked, none there": (
        nothing, "rooms/room-0 --set lift.init=points", "no sparse points"),
    "ply not named": (nothing, "rooms/room-0 --set lift.init=ply", "lift.geometry.ply"),
    "ply missing": (
        nothing, "rooms/room-0 --set lift.init=ply --set lift.ply=a.ply", "no such file"),
    "ply not read": (
        nothing, "rooms/room-0 --set lift.ply=small.toml", "lift.geometry.init=ply"),
    "ply is something else": (
        nothing, "rooms/room-0 --set lift.init=ply --set lift.ply=small.toml", "not a file of"),
}  # fmt: skip


def of_layout(layout: str, damage: Callable[[Path, str], str]) -> Damage:
    return lambda root: damage(root / ROOTS[layout], layout)


def edited(**fields: object) -> Damage:
    """Fields at the top of ``transforms.json``."""

    def change(root: Path) -> None:
        path = root / ROOTS["transforms"] / "transforms.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def renamed(*names: str) -> Damage:
    """The first photos of ``transforms.json`` under other names."""

    def change(root: Path) -> None:
        top = root / ROOTS["transforms"]
        data = json.loads((top / "transforms.json").read_text())
        for frame, name in zip(data["frames"], names, strict=False):
            if not name.startswith(("/", "..")):
                (top / frame["file_path"]).rename(top / "images" / name)
                name = f"images/{name}"
            frame["file_path"] = name
        (top / "transforms.json").write_text(json.dumps(data))

    return change


def far_away(root: Path) -> None:
    """Poses in UTM coordinates."""
    path = root / ROOTS["transforms"] / "transforms.json"
    data = json.loads(path.read_text())
    for frame in data["frames"]:
        frame["transform_matrix"][0][3] += 443_000
        frame["transform_matrix"][1][3] += 5_411_000
    path.write_text(json.dumps(data))


def swapped(root: Path, layout: str) -> str:
    """Pixels turned, EXIF telling how to turn them back; the camera is of the turned picture."""
    picture = Image.open(photo(root, layout)).convert("RGB").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(photo(root, layout), exif=exif)
    return photo(root, layout).name


def picture(mode: str, kind: str, size: tuple[int, int] = (48, 32)) -> Damage:
    """A photo of another kind."""

    def change(root: Path) -> None:
        path = root / ROOTS["transforms"] / "images/shot-2.png"
        Image.new(mode, size).save(path, format=kind)

    return change


def model_file(layout: str, name: str, data: bytes | str) -> Damage:
    def change(root: Path) -> None:
        path = root / ROOTS[layout] / "sparse/0" / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    return change


def replaced(path: str, change: Callable[[Path], object]) -> Damage:
    def damage(root: Path) -> None:
        (root / path).unlink()
        change(root / path)

    return damage


LIFT = "lift {} --backbone tiny"
TRANSFORMS = LIFT.format(ROOTS["transforms"])
DEEP = "rooms/room-0/frame-000002.depth.png"
CASES: dict[str, Case] = {
    f"{layout}: {damage.__name__.replace('_', ' ')}": Case(
        LIFT.format(root), "*", damage=of_layout(layout, damage))
    for layout, root in ROOTS.items() for damage in (*DAMAGES, swapped)
} | {
    f"capture {name}": Case(LIFT.format(words), "", says, damage=damage)
    for name, (damage, words, says) in NO_CAPTURE.items()
} | {
    f"{layout}: a NaN": Case(LIFT.format(ROOTS[layout]), LISTS[layout], "NaN", damage=of_layout(
        layout, lambda root, layout: spoil_poses(root, layout, [3])))
    for layout in LISTS
} | {
    # What no archive could hold is refused before it is fitted.
    "principal point in another unit": Case(
        TRANSFORMS, "transforms", "impossible intrinsics", damage=edited(cx=24_000)),
    "size of a camera zero": Case(TRANSFORMS, "transforms.json", "w:", damage=edited(w=0)),
    "size of a camera beyond belief": Case(
        TRANSFORMS, "transforms.json", "w:", damage=edited(w=2**60)),
    "camera of another aspect": Case(
        TRANSFORMS, "shot-0.png", "photo 48x32, camera 32x48", damage=edited(w=32, h=48)),
    "focal length negative": Case(TRANSFORMS, "shot-0.png", "positive", damage=edited(fl_x=-40)),
    "focal length a text": Case(
        TRANSFORMS, "transforms.json", "fl_x", damage=edited(fl_x="forty")),
    "lens unknown": Case(
        TRANSFORMS, "transforms.json", "FOV", damage=edited(camera_model="FOV", k1=0.1)),
    "frames no list": Case(TRANSFORMS, "transforms.json", "frames", damage=edited(frames={})),
    "points named and missing": Case(
        TRANSFORMS, "gone.ply", "no such", damage=edited(ply_file_path="gone.ply")),
    "points a device": Case(
        TRANSFORMS, "zero", "not a file", damage=edited(ply_file_path="../" * 40 + "dev/zero")),
    "photo twice": Case(TRANSFORMS, "transforms", "more than once", damage=renamed(
        "a.png", "../transforms/images/a.png")),
    "photos differ in case": Case(
        TRANSFORMS, "transforms", "case", damage=renamed("a.png", "A.png")),
    "photos differ in accents": Case(
        TRANSFORMS, "transforms", "accents", damage=renamed("e\u0301.png", "\u00e9.png")),
    "photo outside": Case(
        TRANSFORMS, "transforms.json", "absolute path", damage=renamed("/etc/passwd")),
    "photo no picture far away": Case(
        TRANSFORMS, "etc/passwd", "not a JPEG", damage=renamed("../" * 40 + "etc/passwd")),
    "photo with a strange name missing": Case(
        TRANSFORMS, "\\n", "missing", damage=lambda r: (
            renamed("a \u00e9\n.png")(r),
            (r / ROOTS["transforms"] / "images/a \u00e9\n.png").unlink())),
    "photo a pipe": Case(TRANSFORMS, "shot-2.png", "missing", damage=replaced(
        "layouts/transforms/images/shot-2.png", os.mkfifo)),
    "photo a loop of links": Case(TRANSFORMS, "shot-2.png", "missing", damage=replaced(
        "layouts/transforms/images/shot-2.png", lambda p: p.symlink_to(p))),
    "photo a folder": Case(TRANSFORMS, "shot-2.png", "missing", damage=replaced(
        "layouts/transforms/images/shot-2.png", Path.mkdir)),
    "photo empty": Case(TRANSFORMS, "shot-2.png", "not a JPEG", damage=replaced(
        "layouts/transforms/images/shot-2.png", Path.touch)),
    "photo CMYK": Case(TRANSFORMS, "shot-2.png", "CMYK", damage=picture("CMYK", "JPEG")),
    "photo a TIFF": Case(TRANSFORMS, "shot-2.png", "not a JPEG", damage=picture("RGB", "TIFF")),
    "photo a GIF": Case(TRANSFORMS, "shot-2.png", "not a JPEG", damage=picture("P", "GIF")),
    "photo of one pixel": Case(
        TRANSFORMS, "shot-2.png", "1x1", damage=picture("RGB", "PNG", (1, 1))),
    "photo a bomb": Case(
        TRANSFORMS, "shot-2.png", "megapixels", damage=picture("1", "PNG", (9000, 9000))),
    "places in UTM": Case(TRANSFORMS, "transforms", "offset", damage=far_away),
    "depth of 8 bit": Case(
        LIFT.format("rooms/room-0"), "frame-000002.depth.png", "16-bit",
        damage=lambda r: Image.new("L", (48, 32)).save(r / DEEP)),
    "depth of another aspect": Case(
        LIFT.format("rooms/room-0"), "frame-000002.depth.png", "32x48",
        damage=lambda r: Image.new("I;16", (32, 48)).save(r / DEEP)),
    "depth cut": Case(
        LIFT.format("rooms/room-0"), "frame-000002.depth.png", "cannot be read",
        damage=lambda r: (r / DEEP).write_bytes((r / DEEP).read_bytes()[:60])),
    "intrinsics skewed": Case(
        LIFT.format("rooms/room-0"), "intrinsics.txt", "pinhole",
        damage=lambda r: (r / "rooms/room-0/intrinsics.txt").write_text("9 3 1 0 9 1 0 0 1")),
    "colmap camera distorted": Case(
        LIFT.format("layouts/colmap-txt"), "cameras.txt", "colmap image_undistorter",
        damage=model_file("colmap-txt", "cameras.txt", "1 FOV 48 32 40 40 24 16 0.1\n")),
    "colmap camera of no size": Case(
        LIFT.format("layouts/colmap-txt"), "cameras.txt", "0x32",
        damage=model_file("colmap-txt", "cameras.txt", "1 PINHOLE 0 32 40 40 24 16\n")),
    "colmap camera unknown": Case(
        LIFT.format("layouts/colmap-bin"), "cameras.bin", "unknown model",
        damage=model_file("colmap-bin", "cameras.bin", struct.pack("<QIiQQ", 1, 1, 99, 48, 32))),
    "colmap count beyond belief": Case(
        LIFT.format("layouts/colmap-bin"), "points3D.bin", "ends at byte",
        damage=model_file("colmap-bin", "points3D.bin", struct.pack("<Q", 2**60))),
    "colmap points empty": Case(
        LIFT.format("layouts/colmap-bin") + " --set lift.init=points", "", "no sparse points",
        damage=model_file("colmap-bin", "points3D.bin", struct.pack("<Q", 0))),
    "colmap images of another camera": Case(
        LIFT.format("layouts/colmap-txt"), "images.txt", "camera 1",
        damage=model_file("colmap-txt", "cameras.txt", "2 PINHOLE 48 32 40 40 24 16\n")),
}  # fmt: skip
