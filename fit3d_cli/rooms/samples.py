"""Rendered views of many rooms as tensors, for training and evaluating the small ViT."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fit3d_cli.rooms.layout import generate_room
from fit3d_cli.rooms.paths import room_intrinsics, room_path
from fit3d_cli.rooms.primitives import Array
from fit3d_cli.rooms.render import render_room
from fit3d_cli.rooms.writing import GENERATOR
from fit3d_cli.shapes import check_dims
from fit3d_cli.tensorfile import read_tensors, write_tensors

# Views that are rendered per room are spread over a path of this many.
PATH_VIEWS = 24


@dataclass(frozen=True)
class Samples:
    """N views of rooms.

    Attributes:
        images: ``[N, 3, H, W]`` uint8.
        depths: ``[N, H, W]`` float32, metres.
        labels: ``[N, H, W]`` uint8 indices into ``CLASSES``.
    """

    images: Tensor
    depths: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        check_dims(
            images=(self.images, "N 3 H W"), depths=(self.depths, "N H W"),
            labels=(self.labels, "N H W"),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.images)


def load_samples(
    seeds: Sequence[int], *, views: int, width: int, height: int, cache: Path | None = None,
    workers: int = 1,
) -> Samples:  # fmt: skip
    """Render views of rooms, or read them from a cache file that holds the same ones.

    Args:
        seeds: One room each.
        views: Views per room, evenly spread over its path.
        width: Width of the pictures in pixels.
        height: Height of the pictures in pixels.
        cache: File to read from or to write to.
        workers: Processes that render.

    Raises:
        ArchiveError: The cache file is damaged.
        StorageError: The cache file cannot be written.
    """
    wanted = json.dumps([GENERATOR, list(seeds), views, width, height])
    if cache is not None and cache.exists():
        tensors, metadata = read_tensors(cache)
        if metadata.get("samples") == wanted:
            return Samples(tensors["images"], tensors["depths"], tensors["labels"])
    jobs = [(seed, views, width, height) for seed in seeds]
    if workers > 1:
        # A fork of a process with torch threads may hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            rooms = list(pool.map(_render, jobs, chunksize=4))
    else:
        rooms = list(map(_render, jobs))
    images, depths, labels = (
        torch.from_numpy(np.concatenate([room[k] for room in rooms])) for k in range(3)
    )
    samples = Samples(images.permute(0, 3, 1, 2).contiguous(), depths, labels)
    if cache is not None:
        write_tensors(
            cache,
            {"images": samples.images, "depths": samples.depths, "labels": samples.labels},
            {"samples": wanted},
        )
    return samples


def _render(job: tuple[int, int, int, int]) -> tuple[Array, Array, Array]:
    seed, views, width, height = job
    room, K = generate_room(seed), room_intrinsics(width, height)
    path = room_path(room, PATH_VIEWS)
    picks = [index * PATH_VIEWS // views for index in range(views)]
    frames = [render_room(room, path[index], K, width, height) for index in picks]
    return (
        np.stack([frame.image for frame in frames]),
        np.stack([frame.depth for frame in frames]),
        np.stack([frame.labels for frame in frames]),
    )
