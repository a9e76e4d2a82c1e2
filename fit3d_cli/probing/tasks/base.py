"""The contract of a task, and the registry of all tasks.

A task is one file in this package that calls ``TASKS.add(name, Task(...))``. ``prepare`` opens the
data and fails early, before any model is loaded; what it returns is then called with the models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fit3d_cli.backbones.model import Backbone
from fit3d_cli.errors import SettingsError
from fit3d_cli.pages.pictures import Shown
from fit3d_cli.progress import OnEvent, ignore
from fit3d_cli.registry import Registry
from fit3d_cli.report import Report
from fit3d_cli.settings import ProbeSettings
from fit3d_cli.workspace import Workspace


@dataclass(frozen=True)
class Question:
    """What is to be measured.

    Attributes:
        task: Name of the task.
        dataset: As typed: a registered dataset, the directory of a capture, or (already replaced
            by its directory) a capture that the workspace remembers.
        root: Directory of a registered dataset: ``--data``, else ``<workspace>/datasets/<name>``.
        settings: Rows, models, sizes, schedules.
        place: Workspace with the remembered captures and scenes.
        device: Where models and heads run.
        seed: Decides every random draw.
        cache_dir: Token cache; None keeps tokens in memory only.
        on_event: Told about progress.
    """

    task: str
    dataset: str
    root: Path
    settings: ProbeSettings
    place: Workspace
    device: torch.device
    seed: int = 0
    cache_dir: Path | None = None
    on_event: OnEvent = ignore


@dataclass(frozen=True)
class Prepared:
    """Opened data.

    Attributes:
        measure: Models by name (``base``, ``tuned``, as far as the rows need them) to the report;
            its notes say how was measured, the caller adds which models.
        pictures: Scored photos, on which the caller measures the drift of the tuned model.
        show: After ``measure``: captioned pictures of a scored item, by its index in the samples.
    """

    measure: Callable[[Mapping[str, Backbone]], Report]
    pictures: tuple[Path, ...]
    show: Callable[[int], Sequence[Shown]] | None = None


# Settings of ``probe`` that every task reads.
SHARED = frozenset({"backbone", "data", "drift_images", "max_images", "models", "tuned"})


@dataclass(frozen=True)
class Task:
    """One kind of measurement.

    Attributes:
        summary: What is measured, one line.
        datasets: Names and layouts that it takes, for help and messages.
        prepare: Opens the data of a question.
        uses: Settings of ``probe`` that it reads besides ``SHARED``.
    """

    summary: str
    datasets: Callable[[], list[str]]
    prepare: Callable[[Question], Prepared]
    uses: frozenset[str] = frozenset()


TASKS: Registry[Task] = Registry("task", "fit3d_cli.probing.tasks")


def require_no_data(question: Question) -> None:
    """Refuse ``--data`` where the dataset is a capture or a scene, which is named itself.

    Raises:
        SettingsError: It was given.
    """
    if question.settings.data:
        raise SettingsError(
            "a capture lies where it is named",
            where=f"--data {question.settings.data}",
            hint=f"leave it out, or name the capture: fit3d probe {question.task} DIR",
        )
