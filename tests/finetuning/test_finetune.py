"""Archives in, a tuned model out."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fit3d_cli.archive import read_archive, write_archive
from fit3d_cli.backbones.export import read_provenance
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.errors import ArchiveError, CaptureError, SettingsError, WeightsError
from fit3d_cli.finetuning.finetune import FinetuneResult
from fit3d_cli.finetuning.trainer import Trainer
from fit3d_cli.images import read_image, save_png
from fit3d_cli.tensorfile import read_tensors
from fit3d_cli.workspace import Workspace

Tune = Callable[..., FinetuneResult]
Contents = Callable[[Path], dict[str, bytes]]


ANCHORED = {"anchor": 0.1}


def weights_of(model: Path) -> dict[str, Tensor]:
    return read_tensors(model / "model.safetensors")[0]


@pytest.fixture(scope="module")
def tuned(home: Path, tune: Tune, tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    """Both scenes, two epochs, anchored; read only."""
    workspace = Path(shutil.copytree(home / "out", tmp_path_factory.mktemp("tuned") / "out"))
    return tune(workspace, objectives=ANCHORED)


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return sum(float((first[k] - second[k]).abs().sum()) for k in first)


def test_training_brings_the_backbone_nearer(tuned: FinetuneResult) -> None:
    assert not tuned.skipped
    # Both scenes hold one view out: 5 + 4 views in batches of 2 (3 + 2 steps), two epochs.
    assert tuned.steps == 10
    assert tuned.loss_last < tuned.loss_first
    assert tuned.heldout_after < tuned.heldout_before
    assert tuned.heldout_after < 0.98 * tuned.heldout_before


def test_result_loads_through_plain_timm(tuned: FinetuneResult, backbone_dir: Path) -> None:
    model = import_timm().create_model(f"local-dir:{tuned.path}", pretrained=True, num_classes=0)
    ours, base = load_backbone(str(tuned.path)), load_backbone(str(backbone_dir))
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    normed = (images - torch.tensor(ours.mean).view(3, 1, 1)) / torch.tensor(ours.std).view(3, 1, 1)
    with torch.no_grad():
        theirs = model.eval().forward_features(normed)[:, ours.prefix_tokens :]
        mine = ours.tokens(images)
        assert torch.equal(theirs.reshape(2, 4, 6, 24), mine)
        assert not torch.equal(base.tokens(images), mine)


def test_the_record_holds_facts_and_no_paths(
    tuned: FinetuneResult, home: Path, backbone_dir: Path
) -> None:
    record = read_provenance(tuned.path)
    assert record["base"]["name"] == record["backbone"] == "midget"
    assert record["base"]["weights_sha256"] == load_backbone(str(backbone_dir)).weights_sha256
    assert record["weights_sha256"] == load_backbone(str(tuned.path)).weights_sha256
    assert [scene["name"] for scene in record["scenes"]] == ["hall", "attic"]
    assert record["settings"] == {"lr": 1e-3, "epochs": 2, "objectives": ANCHORED}
    assert record["figures"]["steps"] == 10
    text = "".join(p.read_text() for p in tuned.path.iterdir() if p.suffix in (".json", ".md"))
    for secret in (home, backbone_dir.parent, tuned.path.parent):
        assert str(secret) not in text
    card = (tuned.path / "README.md").read_text()
    assert "hall, attic" in card and f"{tuned.heldout_after:.4f}" in card
    assert (tuned.path / "hubconf.py").is_file() and "torch.hub.load(" in card


def test_a_finished_run_is_kept(
    tuned: FinetuneResult, tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Path(shutil.copytree(tuned.path.parent.parent, tmp_path / "out"))

    def refuse(*_: object) -> Tensor:
        raise AssertionError("trained again")

    monkeypatch.setattr(Trainer, "_advance", refuse)
    again = tune(workspace, objectives=ANCHORED)
    assert again.skipped and again.seconds == 0
    assert (again.steps, again.loss_last) == (tuned.steps, tuned.loss_last)
    assert again.heldout_after == tuned.heldout_after
    assert tune(workspace, objectives=ANCHORED, checkpoint_every=3).skipped
    for other in ({"objectives": {"anchor": 0.2}}, {"seed": 1}, {"scenes": ("hall",)}):
        with pytest.raises(AssertionError, match="trained again"):
            tune(workspace, **{"objectives": ANCHORED, **other})
    # An unfinished directory is not a finished model.
    (workspace / "models" / "tuned" / "config.json").unlink()
    with pytest.raises(AssertionError, match="trained again"):
        tune(workspace, objectives=ANCHORED)


def test_same_inputs_same_bytes_in_any_workspace(
    tuned: FinetuneResult, own: Path, tune: Tune, contents: Contents,
    backbone_dir: Path, tmp_path: Path,
) -> None:  # fmt: skip
    moved = Path(shutil.copytree(backbone_dir, tmp_path / "b" / "midget"))
    again = tune(own, objectives=ANCHORED, backbone={"name": str(moved)})
    assert not again.skipped
    assert contents(again.path) == contents(tuned.path)
    other = tune(own, objectives=ANCHORED, seed=1, name="other")
    assert distance(weights_of(other.path), weights_of(tuned.path)) > 0


def test_the_anchor_holds_the_tokens_near_the_base(
    own: Path, tune: Tune, backbone_dir: Path
) -> None:
    base = load_backbone(str(backbone_dir))
    images = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    drifts = []
    for anchor in (0.0, 3.0):
        made = tune(own, objectives={"anchor": anchor}, epochs=4, name=f"anchor-{anchor:.0f}")
        with torch.no_grad():
            drift = load_backbone(str(made.path)).tokens(images) - base.tokens(images)
        drifts.append(float(drift.abs().mean()))
    assert 0 < drifts[1] < 0.7 * drifts[0]


def test_uncovered_tokens_are_ignored(own: Path, tune: Tune) -> None:
    everything, half = (
        tune(own, scenes=("hall",), epochs=1, min_alpha=alpha, name=f"a{i}")
        for i, alpha in enumerate((0.0, 0.95))
    )
    assert everything.loss_first != half.loss_first


def test_a_training_that_learns_nothing_is_no_model(own: Path, tune: Tune) -> None:
    with pytest.raises(SettingsError, match=r"nothing to learn .* - lower finetune\.min_alpha"):
        tune(own, scenes=("hall",), epochs=3, min_alpha=1.0)  # no patch is covered to exactly one
    assert not (own / "models").exists()


def test_a_scene_without_training_views_is_refused(own: Path, tune: Tune) -> None:
    path = own / "scenes" / "hall.f3d"
    scene = read_archive(path)
    write_archive(path, replace(scene, heldout=torch.ones_like(scene.heldout)))
    with pytest.raises(ArchiveError, match="all of its views are held out - lift"):
        tune(own, scenes=("hall",))


def test_one_scene_and_no_held_out_views(home: Path, own: Path, tune: Tune) -> None:
    from fit3d_cli.lifting.lift import lift_captures
    from fit3d_cli.progress import ignore
    from fit3d_cli.settings import LiftSettings

    settings = LiftSettings.model_validate({
        "backbone": {"name": next(iter(memory(own).values())), "width": 64},
        "geometry": {"width": 32, "iterations": 1, "init_gaussians": 100, "densify": False},
        "features": {"dim": 3}, "heldout": 0,
    })  # fmt: skip
    lift_captures([home / "captures" / "hall"], settings, workspace=own, device="cpu", seed=0,
                  on_event=ignore)  # fmt: skip
    made = tune(own, scenes=("hall",), epochs=1)
    assert made.steps == 3
    assert math.isnan(made.heldout_before) and math.isnan(made.heldout_after)
    assert read_provenance(made.path)["figures"]["heldout_after"] is None
    assert "no held-out views" in (made.path / "README.md").read_text()
    assert math.isnan(tune(own, scenes=("hall",), epochs=1).heldout_after), "skipped run"


def memory(workspace: Path) -> dict[str, str]:
    return dict(json.loads((workspace / "backbones.json").read_text()))


def test_foreign_weights_are_refused(own: Path, tune: Tune, other_backbone_dir: Path) -> None:
    with pytest.raises(WeightsError, match=r"not the weights that hall was lifted with") as error:
        tune(own, backbone={"name": str(other_backbone_dir)})
    assert error.value.where == str(other_backbone_dir)
    with pytest.raises(WeightsError, match="not the weights"):
        tune(own, backbone={
            "name": next(iter(memory(own).values())),
            "weights": str(other_backbone_dir / "model.safetensors"),
        })  # fmt: skip
    assert not (own / "models").exists() and not (own / "cache" / "targets").exists()


def test_scenes_of_two_backbones_are_refused(
    home: Path, own: Path, tune: Tune, other_backbone_dir: Path
) -> None:
    from fit3d_cli.lifting.lift import lift_captures
    from fit3d_cli.progress import ignore
    from fit3d_cli.settings import LiftSettings

    settings = LiftSettings.model_validate({
        "backbone": {"name": str(other_backbone_dir), "width": 64},
        "geometry": {"width": 32, "iterations": 1, "init_gaussians": 100, "densify": False},
        "features": {"dim": 3},
    })  # fmt: skip
    lift_captures([home / "captures" / "attic"], settings, workspace=own, device="cpu", seed=0,
                  on_event=ignore)  # fmt: skip
    with pytest.raises(SettingsError, match=r"attic\.f3d: lifted with stranger, but hall\.f3d"):
        tune(own)


def test_changed_photos_are_refused(home: Path, own: Path, tune: Tune, tmp_path: Path) -> None:
    root = Path(shutil.copytree(home / "captures", tmp_path / "moved"))
    photo = root / "attic" / "frame-000001.color.png"
    save_png(photo, 255 - read_image(photo))
    with pytest.raises(CaptureError, match="attic was lifted from"):
        tune(own, captures=(root,))
    assert not (own / "models").exists()


def test_a_gone_capture_says_what_to_do(own: Path, tune: Tune) -> None:
    Workspace(own).remember_capture("hall", own / "nowhere")
    with pytest.raises(CaptureError, match=r"capture of scene 'hall' is gone.*--captures DIR"):
        tune(own)
