"""What can be said of the settings before anything is read."""

from __future__ import annotations

from fit3d_cli.errors import SettingsError
from fit3d_cli.finetuning.objectives.base import OBJECTIVES, active_objectives
from fit3d_cli.settings import FinetuneSettings


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
