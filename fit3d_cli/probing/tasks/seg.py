"""``seg``: a linear head on frozen tokens names the class of every pixel."""

from __future__ import annotations

from fit3d_cli.datasets.base import dataset_names
from fit3d_cli.probing.probe import prepare_probe
from fit3d_cli.probing.tasks.base import TASKS, Task

TASKS.add(
    "seg",
    Task(
        summary="semantic segmentation by a linear head (mIoU)",
        datasets=lambda: dataset_names("seg"),
        prepare=prepare_probe,
        uses=frozenset({"preset", "steps", "lr", "weight_decay", "batch"}),
    ),
)
