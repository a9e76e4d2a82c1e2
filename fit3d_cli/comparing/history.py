"""The curves of a training, as ``finetune`` leaves them in the model directory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HISTORY_NAME = "history.jsonl"


@dataclass(frozen=True)
class History:
    """One value per step.

    Attributes:
        steps: From 1 on.
        loss: The objective.
        terms: Its parts, before their weights, by name.
        rate: Step size.
        heldout: Steps and the L1 to the targets on held-out views; step 0 is the base.
    """

    steps: Sequence[int]
    loss: Sequence[float]
    terms: Mapping[str, Sequence[float]]
    rate: Sequence[float]
    heldout: Sequence[tuple[int, float]]


def read_history(directory: Path, plan: str) -> History | None:
    """The history of a tuned model.

    Args:
        directory: Of the model.
        plan: Digest of what decided its weights, from ``fit3d.json``; a history of another
            training, or a damaged one, is as good as none.
    """
    try:
        lines = (directory / HISTORY_NAME).read_text("utf-8").splitlines()
        head, *rows = (json.loads(line) for line in lines)
        if head["schema"] != 1 or head["plan"] != plan:
            return None
        return _history(rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _history(rows: Sequence[Mapping[str, Any]]) -> History:
    steps = [one for one in rows if one["step"] > 0]
    names = list(steps[0]["terms"]) if steps else []
    return History(
        [int(one["step"]) for one in steps],
        [float(one["loss"]) for one in steps],
        {name: [float(one["terms"][name]) for one in steps] for name in names},
        [float(one["lr"]) for one in steps],
        [(int(one["step"]), float(one["heldout"])) for one in rows if "heldout" in one],
    )
