"""One small capture of every layout, and which of its files say how it is to be read."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.capture import conftest as plain
from tests.capture.phones import conftest as phones
from tests.capture.scans import conftest as scans

# Files that are read, by the name of the layout; what they hold decides how they are damaged.
TEXT, JSON, BINARY = "text", "json", "binary"
FILES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "rgbd": ("rgbd", TEXT, ("intrinsics.txt", "frame-000005.pose.txt")),
    "transforms": ("transforms", JSON, ("transforms.json",)),
    "cloud": ("transforms", TEXT, ("points.ply",)),
    "binary cloud": ("transforms", BINARY, ("points.ply",)),
    "cameras-json": ("cameras-json", JSON, ("cameras.json",)),
    "colmap text": ("colmap", TEXT, (
        "sparse/0/cameras.txt", "sparse/0/images.txt", "sparse/0/points3D.txt",
        "sparse/0/rigs.txt", "sparse/0/frames.txt")),
    "colmap binary": ("colmap", BINARY, (
        "sparse/0/cameras.bin", "sparse/0/images.bin", "sparse/0/points3D.bin",
        "sparse/0/rigs.bin", "sparse/0/frames.bin")),
    "polycam": ("polycam", JSON, ("keyframes/corrected_cameras/65505281651.json",)),
    "arkitscenes": ("arkitscenes", TEXT, (
        "41069021_frames/lowres_wide.traj",
        "41069021_frames/lowres_wide_intrinsics/41069021_305.477.pincam")),
    "record3d": ("record3d", JSON, ("metadata",)),
    "scannetpp dslr": ("scannetpp", JSON, ("nerfstudio/transforms.json",)),
    "scannetpp colmap": ("scannetpp", TEXT, ("colmap/images.txt", "colmap/points3D.txt")),
    "scannetpp iphone": ("scannetpp", JSON, ("pose_intrinsic_imu.json",)),
    "tum": ("tum", TEXT, ("rgb.txt", "depth.txt", "groundtruth.txt", "calibration.txt")),
    "7-scenes": ("7-scenes", TEXT, ("seq-01/frame-000001.pose.txt",)),
    "replica": ("replica", TEXT, ("traj.txt",)),
    "replica camera": ("replica", JSON, ("../cam_params.json",)),
    "scannet": ("scannet", TEXT, (
        "pose/9.txt", "intrinsic/intrinsic_color.txt", "intrinsic/intrinsic_depth.txt",
        "intrinsic/extrinsic_color.txt")),
}  # fmt: skip


@dataclass(frozen=True)
class Tree:
    """A capture on disk.

    Attributes:
        name: Of the tree, a key of ``FILES``.
        root: The capture.
        reader: Its reader.
        kind: What the files hold.
        files: Those that are damaged, below ``root``.
    """

    name: str
    root: Path
    reader: str
    kind: str
    files: tuple[Path, ...]


class _Plain:
    """What the phones' writers want of the others."""

    viewmats = staticmethod(plain.viewmats)
    texture = staticmethod(plain.texture)
    save = staticmethod(plain.save)


def write_trees(folder: Path) -> list[Tree]:
    """Every layout, each in a folder of its own."""
    makers = phones.Phones(_Plain())
    special: dict[str, Callable[[Path], object]] = {
        "cloud": plain.write_transforms,
        "binary cloud": binary_cloud,
        "colmap text": colmap_text,
        "colmap binary": colmap_binary,
        "scannetpp dslr": makers.dslr,
        "scannetpp colmap": makers.dslr,
        "scannetpp iphone": makers.iphone,
        "replica camera": scans.write_replica,
    }
    known = {**plain.WRITERS, **makers.writers, **scans.WRITERS, **special}
    trees = []
    for name, (reader, kind, files) in FILES.items():
        root = folder / name.replace(" ", "-") / "scene"
        root.parent.mkdir(parents=True)
        if name in scans.WRITERS or name == "replica camera":
            root.mkdir()
        known[name](root)
        trees.append(Tree(name, root, reader, kind, tuple(root / file for file in files)))
    return trees


def binary_cloud(root: Path) -> None:
    plain.write_transforms(root)
    head = "ply\nformat binary_little_endian 1.0\nelement vertex 3\n"
    head += "".join(f"property {kind} {name}\n" for kind, name in (
        ("double", "x"), ("float", "y"), ("float", "z"), ("uchar", "red"), ("uchar", "green"),
        ("uchar", "blue")))  # fmt: skip
    body = b"".join(struct.pack("<dff3B", i, 0.5, 2, 255, 9, i) for i in range(3))
    (root / "points.ply").write_bytes(f"{head}end_header\n".encode() + body)


def colmap_text(root: Path) -> None:
    """With rigs and frames, as COLMAP writes them since 3.12."""
    plain.write_colmap(root)
    model = root / "sparse/0"
    (model / "rigs.txt").write_text("# rigs\n1 1 CAMERA 7\n")
    lines = [line.split() for line in (model / "images.txt").read_text().split("\n")]
    images = [words for words in lines if len(words) > 9]
    frames = [f"{i + 1} 1 {' '.join(w[1:8])} 1 CAMERA 7 {w[0]}" for i, w in enumerate(images)]
    (model / "frames.txt").write_text("# frames\n" + "\n".join(frames) + "\n")


def colmap_binary(root: Path) -> None:
    """The same model in binary files."""
    colmap_text(root)
    model = root / "sparse/0"
    lines = (model / "images.txt").read_text().split("\n")
    images = [line.split(maxsplit=9) for line in lines if len(line.split()) > 9]
    camera = (model / "cameras.txt").read_text().split("\n")[1].split()
    data = struct.pack("<QIiQQ8d", 1, 7, 4, *map(int, camera[2:4]), *map(float, camera[4:]))
    (model / "cameras.bin").write_bytes(data)
    data = frames = struct.pack("<Q", len(images))
    for number, words in enumerate(images):
        pose = list(map(float, words[1:8]))
        data += struct.pack("<I7dI", int(words[0]), *pose, 7) + words[9].encode() + b"\0"
        data += struct.pack("<Qddq", 1, 1.5, 2.5, -1)
        frames += struct.pack("<II7dI", number + 1, 1, *pose, 1)
        frames += struct.pack("<iIQ", 0, 7, int(words[0]))
    (model / "images.bin").write_bytes(data)
    (model / "frames.bin").write_bytes(frames)
    # The second sensor has a place beside the first, and no photo.
    rigs = struct.pack("<QIIiI", 1, 1, 2, 0, 7)
    rigs += struct.pack("<iIB7d", 0, 8, 1, 1, 0, 0, 0, 0.5, 0, 0)
    (model / "rigs.bin").write_bytes(rigs)
    point = struct.pack("<Q3d3BdQII", 1, 0.5, -1, 2, 255, 128, 0, 0.3, 1, 11, 0)
    (model / "points3D.bin").write_bytes(struct.pack("<Q", 1) + point)
    for stem in ("cameras", "images", "points3D", "rigs", "frames"):
        (model / f"{stem}.txt").unlink()
