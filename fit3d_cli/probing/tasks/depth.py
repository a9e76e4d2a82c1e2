"""``depth``: a linear head on frozen tokens gives the depth of every pixel."""

from __future__ import annotations

from fit3d_cli.datasets.base import dataset_names
from fit3d_cli.probing.probe import prepare_probe
from fit3d_cli.probing.tasks.base import TASKS, Task

TASKS.add(
    "depth",
    Task(
        summary="depth by a linear head on the tokens (RMSE, metres)",
        datasets=lambda: [*dataset_names("depth"), "any RGB-D capture"],
        prepare=prepare_probe,
        uses=frozenset(
            {"preset", "steps", "lr", "weight_decay", "batch", "bins", "min_depth", "max_depth"}
        ),
    ),
)
