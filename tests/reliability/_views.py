"""Captures and scenes with any number of views, made cheaply: few photos under many names."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fit3d_cli.archive import read_archive, write_archive
from fit3d_cli.capture.read import capture_digest, heldout_mask, read_capture, view_cameras
from fit3d_cli.rooms import write_room
from fit3d_cli.workspace import Workspace
from tests.finetuning.conftest import write_backbone

PHOTOS = 10
__all__ = ["PHOTOS", "many_views", "scene_of", "small_room", "write_backbone"]


def small_room(folder: Path, width: int, height: int, views: int = PHOTOS) -> Path:
    """A room with a few views."""
    write_room(folder, 0, views=views, width=width, height=height)
    return folder


def many_views(room: Path, folder: Path, views: int) -> Path:
    """A capture of ``views`` views: the room's, again and again, each a little displaced.

    The pictures are links to the room's, so that making it and computing tokens costs little;
    whatever keeps something per view needs the whole memory for it all the same.
    """
    folder.mkdir()
    os.link(room / "intrinsics.txt", folder / "intrinsics.txt")
    photos = sorted(room.glob("*.color.png"))
    for index in range(views):
        source = photos[index % len(photos)].name.removesuffix(".color.png")
        for kind in ("color.png", "depth.png"):
            os.link(room / f"{source}.{kind}", folder / f"frame-{index:06d}.{kind}")
        pose = np.loadtxt(room / f"{source}.pose.txt")
        pose[:3, 3] += 1e-4 * (index // len(photos))
        np.savetxt(folder / f"frame-{index:06d}.pose.txt", pose, fmt="%.9f")
    return folder


def scene_of(archive: Path, capture: Path, place: Path, name: str, number: int = 0) -> Path:
    """An archive as if ``capture`` had been lifted, with the Gaussians of another one.

    Args:
        archive: Whose Gaussians.
        capture: Whose views.
        place: The workspace, which will know the capture.
        name: Of the scene.
        number: Shifts the features, so that no two archives share their cached maps.
    """
    workspace = Workspace(place)
    read = read_capture(capture)
    names = tuple(view.name for view in read.views)
    scene = read_archive(archive)
    made = replace(
        scene, name=name, names=names, cameras=view_cameras(read),
        heldout=heldout_mask(names, 0.1, 0), capture_digest=capture_digest(read),
        features=scene.features + torch.tensor(number / 64),
    )  # fmt: skip
    path = workspace.scene_path(name)
    write_archive(path, made)
    workspace.remember_capture(name, capture)
    return path
