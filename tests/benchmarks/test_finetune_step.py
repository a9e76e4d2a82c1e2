from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks import finetune_step, results
from benchmarks.options import Setup


def test_shares_of_a_step(quick: Setup) -> None:
    result = finetune_step.run(quick)
    results.check(json.loads(json.dumps(result)))
    step, made = result["figures"]
    assert set(step["sides"]) == {"target side", "photos", "depths", "ViT step"}
    medians = {name: side["median_s"] for name, side in step["sides"].items()}
    (share,) = (line for line in step["lines"] if line["ours"] == "target side")
    assert share["value"] == medians["target side"] / medians["ViT step"]
    assert share["goal"] == 0.1 and share["verdict"] in ("reached", "missed")
    assert set(made["sides"]) == {"archive", "relifted", "denoised"}
    assert result["scene"]["views"] == 4, "five of which one is held out"
    assert "targets made once, relifted" in results.table([result])


def test_a_given_scene_is_measured_and_its_workspace_left_alone(
    quick: Setup, tmp_path: Path
) -> None:
    archive, place = finetune_step.built_in(quick, tmp_path)
    before = sorted(path for path in place.root.rglob("*"))
    case = finetune_step.Case(archive, place, tmp_path / "scratch")
    case.make()
    assert sorted(path for path in place.root.rglob("*")) == before
    batch = case.target_side()
    assert batch.images.shape == (4, 3, 48, 64) and batch.targets.shape == (4, 3, 4, 24)
    case.step()
    gradients = [p.grad for p in case.backbone.parameters() if p.grad is not None]
    assert gradients and any(bool(g.abs().sum() > 0) for g in gradients)
    assert all(torch.isfinite(g).all() for g in gradients)
