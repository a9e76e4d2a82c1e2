"""``history.jsonl`` of a tuned model: what every step came to, for curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fit3d_cli.backbones.export import HUBCONF_NAME, write_model_directory
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.finetuning.schedule import step_size
from fit3d_cli.finetuning.trainer import Trainer
from fit3d_cli.handoff.hub import hubconf
from fit3d_cli.storage import write_text

HISTORY_NAME = "history.jsonl"
SCHEMA = 1


def history_lines(trainer: Trainer, plan: str) -> str:
    """A line that says of which training, then one per step; the same steps give the same bytes.

    A step has ``step``, ``loss`` (the objective of its batch), ``terms`` before their weights,
    ``lr``, and after some steps ``heldout``, the L1 to the targets on held-out views. Step 0 is
    the base.

    Args:
        trainer: At the end of its training.
        plan: Digest of what decided the weights, as in ``fit3d.json``.
    """
    heldout = dict(trainer.state.heldout)
    rows: list[dict[str, Any]] = [{"schema": SCHEMA, "plan": plan}]
    if 0 in heldout:
        rows.append({"step": 0, "heldout": heldout[0]})
    for index, (loss, *terms) in enumerate(trainer.state.history):
        step: dict[str, Any] = {
            "step": index + 1,
            "loss": loss,
            "terms": dict(zip(trainer.weights, terms, strict=True)),
            "lr": step_size(trainer.settings, index, trainer.steps),
        }
        if index + 1 in heldout:
            step["heldout"] = heldout[index + 1]
        rows.append(step)
    return "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in rows)


def write_model(
    directory: Path, tuned: Backbone, *, card: str, facts: Mapping[str, Any], history: str
) -> None:
    """Write the model directory, its ``hubconf.py`` and its history, ``config.json`` last.

    A history that an interrupted run left beside an older model names another plan than that
    model's ``fit3d.json``, so nobody takes it for its own.

    Raises:
        StorageError: The disk refused; without ``config.json`` the directory is unfinished.
    """
    write_text(directory / HISTORY_NAME, history)
    hub = hubconf(tuned.timm_id, str(facts["base"]["name"]))
    write_model_directory(directory, tuned, card=card, extra=facts, files={HUBCONF_NAME: hub})
