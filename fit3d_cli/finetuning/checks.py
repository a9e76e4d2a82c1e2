"""What can be said of the settings before anything is computed."""

from __future__ import annotations

import logging

from fit3d_cli.errors import SettingsError
from fit3d_cli.finetuning.distributed import Processes
from fit3d_cli.finetuning.objectives.base import OBJECTIVES, active_objectives
from fit3d_cli.settings import FinetuneSettings

_log = logging.getLogger(__name__)


def check_room(settings: FinetuneSettings) -> None:
    """Check that there is something to minimise and that its samples fit into a batch.

    Raises:
        SettingsError: There is not, or they do not.
    """
    names = active_objectives(settings)
    if not names:
        raise SettingsError(
            "nothing to minimise",
            where="finetune.objectives",
            hint=f"give a weight to one of {', '.join(OBJECTIVES.names())}",
        )
    paired = [name for name in names if OBJECTIVES.get(name).needs == "pairs"]
    for key in ("batch", "micro_batch"):
        if paired and getattr(settings, key) == 1:
            raise SettingsError(
                f"{paired[0]} needs two views at once",
                where=f"finetune.{key}",
                hint=f"give at least 2, or finetune.objectives.{paired[0]} = 0",
            )


def warn_idle(settings: FinetuneSettings, processes: Processes, *, paired: bool) -> None:
    """Say so, once, if a step has fewer samples than there are processes.

    Args:
        settings: How to train.
        processes: Who shares the steps.
        paired: Whether a sample is a pair of views.
    """
    samples = max(1, settings.batch // (2 if paired else 1))
    if processes.leads and processes.size > samples:
        kind = ("pair" if paired else "view") + ("s" if samples > 1 else "")
        _log.warning(
            "finetune.batch: a step of %d %s leaves %d of %d processes without work - raise it",
            samples, kind, processes.size - samples, processes.size,
        )  # fmt: skip
