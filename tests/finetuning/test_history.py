"""``history.jsonl``: every step, the held-out curve, the same bytes after a kill."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fit3d_cli.backbones.export import read_provenance
from fit3d_cli.comparing.history import read_history
from fit3d_cli.finetuning.finetune import FinetuneResult
from fit3d_cli.progress import Progress

Tune = Callable[..., FinetuneResult]
RECIPE: dict[str, Any] = {
    "objectives": {"l1": 1, "anchor": 0.1}, "schedule": "cosine", "warmup": 0.2, "ema": 0.5,
    "heldout_points": 3, "checkpoint_every": 2,
}  # fmt: skip


class Reached(BaseException):
    """Stands for a kill."""


def kill(event: Progress) -> None:
    if event.stage == "finetune" and event.done == 5:
        raise Reached


def test_a_history_tells_every_step_and_survives_a_kill(own: Path, tune: Tune) -> None:
    straight = Path(shutil.copytree(own, own.parent / "straight"))
    result = tune(straight, **RECIPE)
    text = (result.path / "history.jsonl").read_text("utf-8")
    head, base, *steps = (json.loads(line) for line in text.splitlines())
    provenance = read_provenance(result.path)
    assert head == {"schema": 1, "plan": provenance["plan"]}
    assert base["step"] == 0 and math.isfinite(base["heldout"])
    assert [step["step"] for step in steps] == list(range(1, result.steps + 1))
    measured = [step["step"] for step in steps if "heldout" in step]
    assert len(measured) == 3 and measured[-1] == result.steps
    # The scenes have fewer held-out views than a point takes: both ends are those of the figures.
    assert base["heldout"] == pytest.approx(result.heldout_before, rel=1e-6)
    assert steps[-1]["heldout"] == pytest.approx(result.heldout_after, rel=1e-6)
    for step in steps:
        assert step["loss"] == pytest.approx(step["terms"]["l1"] + 0.1 * step["terms"]["anchor"])
    rates = [step["lr"] for step in steps]
    assert rates[0] < max(rates) and rates[-1] < max(rates)
    with pytest.raises(Reached):
        tune(own, **RECIPE, on_event=kill)
    assert (tune(own, **RECIPE).path / "history.jsonl").read_text("utf-8") == text
    history = read_history(result.path, provenance["plan"])
    assert history is not None and len(history.steps) == result.steps
    assert [step for step, _ in history.heldout] == [0, *measured]
    assert read_history(result.path, "another") is None


def test_without_points_nothing_is_measured_and_no_weight_changes(own: Path, tune: Tune) -> None:
    with_curve = tune(own, max_steps=2, heldout_points=2, name="with")
    without = tune(own, max_steps=2, heldout_points=0, name="without")
    text = (without.path / "history.jsonl").read_text("utf-8")
    assert "heldout" not in text and len(text.splitlines()) == 3
    weights = [(r.path / "model.safetensors").read_bytes() for r in (with_curve, without)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("damage", ["", "{", '{"schema": 1, "plan": "p"}\n{"step": 1}\n', "[1]\n"])
def test_a_damaged_history_is_as_good_as_none(tmp_path: Path, damage: str) -> None:
    (tmp_path / "history.jsonl").write_text(damage, "utf-8")
    assert read_history(tmp_path, "p") is None and read_history(tmp_path / "no", "p") is None
