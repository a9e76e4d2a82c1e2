"""Tiny datasets in the layouts that their authors publish; loaded by the fixture ``trees``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

VOC_PALETTE = [value for k in range(256) for value in ((k * 37) % 256, (k * 91) % 256, k)]


def photo(path: Path, width: int, height: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize((width, height)).save(path, compress_level=1)


def labels(path: Path, width: int, height: int, numbers: list[int], seed: int = 0) -> None:
    """Blocks of the numbers, each of which occurs."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(np.resize(numbers, 12)).reshape(3, 4).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(cells).resize((width, height), Image.Resampling.NEAREST).save(path)


def palette(path: Path, width: int, height: int, numbers: list[int], seed: int = 0) -> None:
    """The same as a colour-palette PNG, as VOC stores its labels."""
    labels(path, width, height, numbers, seed)
    with Image.open(path) as image:
        image.load()
    image.putpalette(VOC_PALETTE)
    image.save(path)


def depth(path: Path, width: int, height: int, units: float, seed: int = 0) -> None:
    """A ramp of 1 to 4 metres with a hole."""
    metres = np.linspace(1, 4, width)[None] + np.linspace(0, 0.5, height)[:, None] + 0.1 * seed
    metres[: height // 8, : width // 8] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((metres * units).astype(np.uint16)).save(path, compress_level=1)


def write_list(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def folders(root: Path, image: str, numbers: list[int], size: tuple[int, int] = (64, 48)) -> None:
    """ADE20K's layout."""
    for split in ("training", "validation"):
        for number in range(2):
            stem = f"{split}_{number:04d}"
            photo(root / "images" / split / f"{stem}{image}", *size, number)
            labels(root / "annotations" / split / f"{stem}.png", *size, numbers, number)


def ade20k_seg(root: Path) -> None:
    folders(root / "ADEChallengeData2016", ".jpg", [0, 1, 2, 150])


def nyuv2_seg(root: Path) -> None:
    folders(root, ".png", [0, 1, 12, 13])


def scannet_seg(root: Path) -> None:
    folders(root, ".jpg", [0, 1, 39, 40])


def scannetpp_seg(root: Path) -> None:
    folders(root, ".JPG", [0, 1, 99, 100])


def voc2012_seg(root: Path) -> None:
    top = root / "VOC2012"
    for split, stems in (("train", ["2007_000032", "2007_000039"]), ("val", ["2007_000033"])):
        for number, stem in enumerate(stems):
            photo(top / "JPEGImages" / f"{stem}.jpg", 50, 38, number)
            palette(top / "SegmentationClass" / f"{stem}.png", 50, 38, [0, 1, 20, 255], number)
        write_list(top / "ImageSets" / "Segmentation" / f"{split}.txt", stems)
    # Photos without labels and the other tasks' lists lie in the same folders.
    photo(top / "JPEGImages" / "2008_000001.jpg", 20, 20)
    write_list(top / "ImageSets" / "Main" / "train.txt", ["2008_000001"])


def camvid_seg(root: Path) -> None:
    for split in ("train", "val"):
        for number in range(2):
            name = f"0001TP_{number:06d}.png"
            photo(root / split / name, 60, 45, number)
            labels(root / f"{split}annot" / name, 60, 45, [0, 5, 10, 11], number)


def nyuv2_depth(root: Path) -> None:
    lines = []
    for number in range(2):
        image = f"kitchen_0028b/rgb_{number:05d}.jpg"
        truth = f"kitchen_0028b/sync_depth_{number:05d}.png"
        photo(root / "nyu" / image, 640, 480, number)
        depth(root / "nyu" / truth, 640, 480, 1000, number)
        lines.append(f"/{image} /{truth} 518.8579")
    write_list(root / "nyu" / "nyu_train.txt", lines)
    photo(root / "nyu" / "bathroom" / "rgb_00045.jpg", 640, 480)
    depth(root / "nyu" / "bathroom" / "sync_depth_00045.png", 640, 480, 1000)
    write_list(
        root / "nyu" / "nyu_test.txt",
        ["bathroom/rgb_00045.jpg bathroom/sync_depth_00045.png 518.8579",
         "bathroom/rgb_00046.jpg None 518.8579"],
    )  # fmt: skip


def _listed(root: Path, name: str, width: int, height: int, image: str) -> None:
    for split in ("train", "val"):
        lines = []
        for number in range(2):
            stem = f"scene{number:04d}_00"
            photo(root / f"{stem}/color/{split}{image}", width, height, number)
            depth(root / f"{stem}/depth/{split}.png", width, height, 1000, number)
            lines.append(f"{stem}/color/{split}{image} {stem}/depth/{split}.png 577.87")
        write_list(root / f"{name}_{split}.txt", lines)


def scannet_depth(root: Path) -> None:
    _listed(root, "scannet", 640, 480, ".jpg")


def scannetpp_depth(root: Path) -> None:
    _listed(root, "scannetpp", 876, 584, ".JPG")


def kitti_depth(root: Path) -> None:
    drive = "2011_09_26_drive_0002_sync"
    for split, frames in (("train", (1, 2)), ("test", (69,))):
        lines = []
        for frame in frames:
            image = f"2011_09_26/{drive}/image_02/data/{frame:010d}.png"
            truth = f"{drive}/proj_depth/groundtruth/image_02/{frame:010d}.png"
            photo(root / "input" / image, 1242, 375, frame)
            depth(root / "gt_depth" / truth, 1242, 375, 256, frame)
            lines.append(f"{image} {truth} 721.5377")
        lines.append(f"2011_09_26/{drive}/image_02/data/0000000099.png None 721.5377")
        write_list(root / f"kitti_eigen_{split}.txt", lines)


# Task and name to a function that writes the dataset.
TREES: dict[tuple[str, str], Callable[[Path], None]] = {
    ("seg", "ade20k"): ade20k_seg,
    ("seg", "camvid"): camvid_seg,
    ("seg", "nyuv2"): nyuv2_seg,
    ("seg", "scannet"): scannet_seg,
    ("seg", "scannetpp"): scannetpp_seg,
    ("seg", "voc2012"): voc2012_seg,
    ("depth", "kitti"): kitti_depth,
    ("depth", "nyuv2"): nyuv2_depth,
    ("depth", "scannet"): scannet_depth,
    ("depth", "scannetpp"): scannetpp_depth,
}
