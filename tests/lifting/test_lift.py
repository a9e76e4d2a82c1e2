"""Captures in, archives out: the same bytes, kept, resumed, isolated from one another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from fit3d_cli import storage
from fit3d_cli.archive import describe, read_archive, verify_archive
from fit3d_cli.errors import CaptureError, Fit3dError, SettingsError
from fit3d_cli.images import read_image, save_png
from fit3d_cli.lifting import lifter, making
from fit3d_cli.lifting.features import Lifted, solve_features
from fit3d_cli.lifting.geometry import GeometryFit
from fit3d_cli.lifting.lift import LiftResult, lift_captures
from fit3d_cli.lifting.making import Job, prepare
from fit3d_cli.progress import Progress, ignore
from fit3d_cli.scene import Scene
from fit3d_cli.settings import LiftSettings
from fit3d_cli.tensorfile import read_tensors
from fit3d_cli.workspace import Workspace

Lift = Callable[..., LiftResult]
Tiny = Callable[..., LiftSettings]
LEARNT = ("g.means", "g.quats", "g.log_scales", "g.logit_opacities", "g.sh", "g.features",
          "dec.weight", "dec.bias")  # fmt: skip


@pytest.fixture
def used(lifted: LiftResult, tmp_path: Path) -> Path:
    """A copy of the workspace in which the room was lifted."""
    assert lifted.path is not None
    return Path(shutil.copytree(lifted.path.parent.parent, tmp_path / "used"))


def archive_bytes(result: LiftResult) -> bytes:
    assert result.path is not None
    return result.path.read_bytes()


def no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: GeometryFit) -> float:
        raise AssertionError("the geometry was fitted again")

    monkeypatch.setattr(GeometryFit, "_advance", refuse)


def test_a_lifted_scene_is_complete(lifted: LiftResult, room: Path, backbone_dir: Path) -> None:
    assert lifted.path is not None and lifted.error is None and not lifted.skipped
    verify_archive(lifted.path)
    scene = read_archive(lifted.path)
    assert isinstance(scene, Scene)
    assert (scene.name, len(scene.names), scene.metric) == ("room", 8, True)
    assert len(scene.views(heldout=True)) == 2  # a fifth of eight, rounded
    assert scene.features.shape == (lifted.gaussians, 6)
    assert scene.source.backbone == "midget" and scene.source.grid == (6, 8)
    assert scene.cameras.sizes.tolist() == [[64, 48]] * 8
    assert lifted.psnr_heldout == scene.metrics["psnr"] > 14
    assert lifted.feature_cosine_heldout == scene.metrics["feature_cosine"]
    assert scene.metrics["ceiling_cosine"] > scene.metrics["feature_cosine"] > 0.5
    assert scene.provenance["seed"] == 0
    assert str(room.parent) not in lifted.path.read_bytes().decode("latin-1")
    assert str(backbone_dir.parent) not in lifted.path.read_bytes().decode("latin-1")


def test_bytes_depend_on_no_path(
    lifted: LiftResult, copied_room: Path, backbone_dir: Path, tiny: Tiny, lift: Lift,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Another workspace, and the capture and the backbone elsewhere, named relatively."""
    moved = Path(shutil.copytree(backbone_dir, tmp_path / "b" / "midget"))
    monkeypatch.chdir(tmp_path)
    settings = tiny(backbone=moved.relative_to(tmp_path))
    again = lift(copied_room.relative_to(tmp_path), settings, Path("w x"))
    assert not again.skipped
    assert archive_bytes(again) == archive_bytes(lifted)


def test_a_second_run_keeps_the_archive(
    lifted: LiftResult, used: Path, room: Path, tiny: Tiny, lift: Lift,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    no_steps(monkeypatch)
    before = (used / "scenes" / "room.f3d").stat()
    again = lift(room, tiny(), used)
    after = (used / "scenes" / "room.f3d").stat()
    assert again.skipped
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert (again.gaussians, again.psnr_heldout) == (lifted.gaussians, lifted.psnr_heldout)
    assert dict(again.metrics) == dict(lifted.metrics)
    # Where the photos are looked for, and how often checkpoints are written, changes no result.
    assert lift(room, tiny(checkpoint_every=7), used).skipped


def test_another_dimension_takes_the_geometry_from_the_cache(
    lifted: LiftResult, used: Path, room: Path, tiny: Tiny, lift: Lift,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        no_steps(patch)
        wide = lift(room, tiny(dim=9), used)
    assert not wide.skipped and wide.path is not None and lifted.path is not None
    first, second = (read_tensors(path)[0] for path in (lifted.path, wide.path))
    for name in LEARNT[:5]:
        assert torch.equal(first[name], second[name])
    assert second["g.features"].shape[1] == 9
    # Another geometry is another fit, and so is another seed.
    with pytest.raises(AssertionError, match="fitted again"):
        no_steps(monkeypatch)
        lift(room, tiny(iterations=41), used)
    with pytest.raises(AssertionError, match="fitted again"):
        lift(room, tiny(), used, seed=1)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "emptied"])
def test_a_damaged_archive_is_made_again(
    lifted: LiftResult, used: Path, room: Path, tiny: Tiny, lift: Lift, damage: str
) -> None:
    path, good = used / "scenes" / "room.f3d", archive_bytes(lifted)
    bad = bytearray(good)
    bad[-5] ^= 1
    path.write_bytes({"flipped": bytes(bad), "truncated": good[:-9], "emptied": b""}[damage])
    again = lift(room, tiny(), used)
    assert not again.skipped
    assert archive_bytes(again) == good


def test_a_killed_run_goes_on_to_the_same_bytes(
    lifted: LiftResult, copied_room: Path, tiny: Tiny, workspace: Path, lift: Lift
) -> None:
    settings = tiny(checkpoint_every=10)
    stages: list[str] = []

    def kill(event: Progress) -> None:
        stages.append(event.stage)
        if event.stage == "room: geometry" and event.done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lift_captures([copied_room], settings, workspace=workspace, device="cpu", seed=0,
                      on_event=kill)  # fmt: skip
    assert not (workspace / "scenes" / "room.f3d").exists()
    steps: list[int] = []

    def watch(event: Progress) -> None:
        if event.stage == "room: geometry":
            steps.append(event.done)

    (again,) = lift_captures(
        [copied_room], settings, workspace=workspace, device="cpu", seed=0, on_event=watch
    )
    assert steps == [30, 40], "did not go on from the checkpoint of step 20"
    assert archive_bytes(again) == archive_bytes(lifted)


def test_one_bad_capture_does_not_stop_the_other(
    lifted: LiftResult, copied_room: Path, tiny: Tiny, workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    bad = Path(shutil.copytree(copied_room, copied_room.parent / "broken"))
    shutil.copytree(copied_room, copied_room.parent / "odd")
    (bad / "frame-000003.color.png").write_bytes(b"no picture")

    def odd(job: Job) -> GeometryFit:
        if job.capture.name == "odd":
            raise ZeroDivisionError("nobody expects this")
        return prepare(job)

    monkeypatch.setattr(lifter, "prepare", odd)
    # In this process: what a process of its own adds is in test_isolation.py.
    settings = tiny().model_copy(update={"isolate": "never"})
    results = lift_captures([copied_room.parent], settings, workspace=workspace, device="cpu",
                            seed=0, on_event=ignore)  # fmt: skip
    broken, unexpected, good = results
    assert (broken.name, broken.path, broken.exit_code) == ("broken", None, 2)
    assert broken.error is not None and "frame-000003.color.png" in broken.error
    assert "\n" not in broken.error
    assert (unexpected.name, unexpected.exit_code) == ("odd", 4)
    assert unexpected.error is not None and "nobody expects this" in unexpected.error
    assert archive_bytes(good) == archive_bytes(lifted)
    assert Workspace(workspace).scene_paths() == [good.path]
    # Alone, the same is an exception.
    with pytest.raises(Fit3dError, match=r"frame-000003\.color\.png"):
        lift_captures([bad], settings, workspace=workspace, device="cpu", seed=0, on_event=ignore)


def test_a_scene_that_another_process_makes_is_waited_for(
    lifted: LiftResult, used: Path, room: Path, tiny: Tiny, lift: Lift, workspace: Path
) -> None:
    path, made = workspace / "scenes" / "room.f3d", archive_bytes(lifted)
    notes: list[str] = []
    with ExitStack() as other:
        other.enter_context(storage.locked(path))

        def watch(event: Progress) -> None:
            if event.stage == "room: waiting" and not notes:
                notes.append(event.note)
                path.write_bytes(made)
                other.close()

        (result,) = lift_captures([room], tiny(), workspace=workspace, device="cpu", seed=0,
                                  on_event=watch)  # fmt: skip
    assert notes == [f"being written by pid {os.getpid()} on {storage.faults.host_name()}"]
    assert result.skipped and archive_bytes(result) == made
    assert not path.with_name("room.f3d.lock").exists()


def test_a_fit_that_diverges_is_an_error_and_no_checkpoint(
    room: Path, tiny: Tiny, lift: Lift, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = GeometryFit._advance

    def diverge(self: GeometryFit) -> float:
        loss = advance(self)
        return float("nan") if self.step == 7 else loss

    monkeypatch.setattr(GeometryFit, "_advance", diverge)
    with pytest.raises(CaptureError, match=r"room: geometry: .* loss is nan at step 7 of 40"):
        lift(room, tiny(checkpoint_every=7), workspace)
    assert not list((workspace / "cache").rglob("*.safetensors"))
    assert not (workspace / "scenes" / "room.f3d").exists()


def test_features_that_are_no_numbers_are_refused(
    room: Path, tiny: Tiny, lift: Lift, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def solve(*args: object, **options: object) -> Lifted:
        solved = solve_features(*args, **options)  # type: ignore[arg-type]
        solved.features[3, 1] = float("inf")
        return solved

    monkeypatch.setattr(making, "solve_features", solve)
    with pytest.raises(CaptureError, match="room: features: the solved features are not finite"):
        lift(room, tiny(iterations=3), workspace)


def test_captures_of_one_name_are_refused(
    room: Path, copied_room: Path, tiny: Tiny, workspace: Path
) -> None:
    with pytest.raises(CaptureError, match="two captures are called 'room'"):
        lift_captures([room, copied_room], tiny(), workspace=workspace, device="cpu", seed=0,
                      on_event=ignore)  # fmt: skip
    assert not workspace.exists()


def test_bad_input_is_found_before_anything_is_written(
    room: Path, tiny: Tiny, workspace: Path, lift: Lift, tmp_path: Path
) -> None:
    with pytest.raises(CaptureError):
        lift(tmp_path / "nowhere", tiny(), workspace)
    with pytest.raises(SettingsError, match=r"lift\.geometry\.ply: not read with init=auto"):
        lift(room, tiny(ply="start.ply"), workspace)
    with pytest.raises(SettingsError, match=r"lift\.geometry\.ply: init=ply needs a file"):
        lift(room, tiny(init="ply"), workspace)
    with pytest.raises(SettingsError, match=r"start\.ply: no such file"):
        lift(room, tiny(init="ply", ply=str(tmp_path / "start.ply")), workspace)
    with pytest.raises(Fit3dError):
        lift(room, tiny(backbone=tmp_path / "no-model"), workspace)
    assert not workspace.exists()


def invert(path: Path) -> None:
    save_png(path, 255 - read_image(path))


def test_held_out_photos_are_never_learnt_from(
    lifted: LiftResult, copied_room: Path, tiny: Tiny, lift: Lift, workspace: Path
) -> None:
    assert lifted.path is not None
    original = read_archive(lifted.path)
    held = [original.names[i] for i in original.views(heldout=True)]
    for name in held:
        invert(copied_room / name)
        (copied_room / name.replace(".color.", ".depth.")).unlink()
    changed = lift(copied_room, tiny(), workspace)
    assert changed.path is not None
    first, second = (read_tensors(path)[0] for path in (lifted.path, changed.path))
    for name in LEARNT:
        assert torch.equal(first[name], second[name]), name
    scene = read_archive(changed.path)
    assert scene.capture_digest != original.capture_digest
    assert scene.metrics["psnr"] < original.metrics["psnr"] - 3
    assert scene.metrics["feature_l1"] != original.metrics["feature_l1"]


def test_training_photos_are(
    lifted: LiftResult, copied_room: Path, tiny: Tiny, lift: Lift, workspace: Path
) -> None:
    assert lifted.path is not None
    original = read_archive(lifted.path)
    invert(copied_room / original.names[original.views(heldout=False)[0]])
    changed = lift(copied_room, tiny(), workspace)
    assert changed.path is not None
    first, second = (read_tensors(path)[0] for path in (lifted.path, changed.path))
    assert not torch.equal(first["dec.bias"], second["dec.bias"])
    assert not torch.equal(
        first["g.sh"][: len(second["g.sh"])], second["g.sh"][: len(first["g.sh"])]
    )


def test_without_held_out_views_nothing_is_measured_on_them(
    room: Path, tiny: Tiny, lift: Lift, workspace: Path
) -> None:
    settings = tiny(iterations=3).model_copy(update={"heldout": 0.0, "max_views": 5})
    made = lift(room, settings, workspace)
    assert made.path is not None
    assert made.psnr_heldout != made.psnr_heldout  # NaN
    # Too few views to put any aside: the steps are the settings' own.
    settled = {"cg_iterations": 8.0, "cg_lambda": 0.03}
    explained = made.metrics["explained_variance"]
    assert dict(made.metrics) == {"explained_variance": explained, **settled}
    scene = read_archive(made.path)
    assert len(scene.names) == 5 and scene.views(heldout=True) == []


@pytest.mark.parametrize("solver", ["average", "paper"])
def test_other_solvers(room: Path, tiny: Tiny, lift: Lift, workspace: Path, solver: str) -> None:
    base = tiny(iterations=3)
    features = base.features.model_copy(update={"solver": solver, "paper_iterations": 3})
    made = lift(room, base.model_copy(update={"features": features}), workspace)
    assert made.path is not None
    assert describe(made.path)["provenance"]["settings"]["features"]["solver"] == solver


def test_where_things_lie_is_remembered(lifted: LiftResult, room: Path, backbone_dir: Path) -> None:
    assert lifted.path is not None
    place = Workspace(lifted.path.parent.parent)
    assert place.capture_dir("room") == room
    digest = read_archive(lifted.path).source.weights_sha256
    assert place.backbone_of(digest, "midget") == (str(backbone_dir), "")
