"""A killed training goes on and ends in the same bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.finetuning.checkpoints import State, restore, save
from fit3d_cli.finetuning.finetune import FinetuneResult
from fit3d_cli.finetuning.trainer import Trainer
from fit3d_cli.progress import Progress
from fit3d_cli.tensorfile import read_sealed, write_sealed

Tune = Callable[..., FinetuneResult]
Contents = Callable[[Path], dict[str, bytes]]
EVERYTHING: dict[str, Any] = {
    "objectives": {"l1": 1, "anchor": 0.1, "info_nce": 0.1}, "pairs": {"min_overlap": 0.05},
    "train": {"part": "lora", "rank": 2}, "batch": 4, "micro_batch": 2, "jitter": 0.2,
    "ema": 0.5, "schedule": "cosine", "warmup": 0.2, "interpolate": 0.8,
}  # fmt: skip
RELIFTED: dict[str, Any] = {
    "targets": {"source": "relifted", "relift_every": 3, "teacher_ema": 0.5}
}
RECIPES = {"plain": {"objectives": {"anchor": 0.1}}, "everything": EVERYTHING, "relift": RELIFTED}


class Reached(BaseException):
    """Stands for a kill."""


def kill_at(step: int) -> Callable[[Progress], None]:
    def listen(event: Progress) -> None:
        if event.stage == "finetune" and event.done == step:
            raise Reached

    return listen


@pytest.fixture(scope="module")
def whole(
    home: Path, tune: Tune, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], FinetuneResult]:
    """Each recipe without interruption, ten or so steps; read only."""
    made: dict[str, FinetuneResult] = {}

    def result(recipe: str) -> FinetuneResult:
        if recipe not in made:
            folder = tmp_path_factory.mktemp(recipe) / "out"
            shutil.copytree(home / "out", folder)
            made[recipe] = tune(folder, **RECIPES[recipe])
        return made[recipe]

    return result


@pytest.mark.parametrize(
    ("recipe", "stop", "damage"),
    [
        ("plain", 3, False),
        ("plain", 7, False),
        ("plain", 7, True),
        ("everything", 5, False),
        ("relift", 2, False),
        # Checkpoints of step 4 and 6: the one after the first lift, the other where one is due.
        ("relift", 5, False),
        ("relift", 7, False),
    ],
)
def test_resuming_is_exact(
    whole: Callable[[str], FinetuneResult], own: Path, tune: Tune, contents: Contents, recipe: str,
    stop: int, damage: bool,
) -> None:  # fmt: skip
    """Checkpoints every two steps; killed in the first epoch, in the second, and damaged."""
    expected = whole(recipe)
    with pytest.raises(Reached):
        tune(own, **RECIPES[recipe], checkpoint_every=2, on_event=kill_at(stop))
    assert not (own / "models" / "tuned" / "config.json").exists()
    (folder,) = (own / "cache" / "finetune").iterdir()
    kept = sorted(folder.glob("step-*.safetensors"))
    assert [p.stem for p in kept] == [f"step-{s:08d}" for s in range(2, stop, 2)][-2:]
    if damage:
        kept[-1].write_bytes(kept[-1].read_bytes()[:-100])
    # The maps of the last lift can be lost: they are made again from the checkpoint's teacher.
    shutil.rmtree(folder / "targets", ignore_errors=True)
    steps: list[int] = []

    def watch(event: Progress) -> None:
        if event.stage == "finetune":
            steps.append(event.done)

    again = tune(own, **RECIPES[recipe], checkpoint_every=2, on_event=watch)
    begun = int(kept[-2 if damage else -1].stem.removeprefix("step-")) if kept else 0
    assert steps == list(range(begun + 1, expected.steps + 1))
    assert contents(again.path) == contents(expected.path)
    assert (again.loss_first, again.loss_last) == (expected.loss_first, expected.loss_last)
    assert not folder.exists(), "checkpoints are left behind"


def test_checkpoints_hold_what_is_trained_and_no_more(own: Path, tune: Tune) -> None:
    with pytest.raises(Reached):
        tune(own, **EVERYTHING, checkpoint_every=2, on_event=kill_at(3))
    (path,) = own.glob("cache/finetune/*/step-*.safetensors")
    tensors, _ = read_sealed(path)
    kinds = {name.split(".")[0] for name in tensors}
    assert kinds == {"history", "heldout", "p", "m", "v", "n", "ema"}
    # LoRA of rank 2 on q and v of two blocks, 24 channels.
    numbers = sum(tensor.numel() for name, tensor in tensors.items() if name.startswith("p."))
    assert numbers == 2 * 2 * (2 * 24 + 24 * 2)
    assert tensors["history"].shape == (2, 4)


def test_the_teacher_is_lifted_again(
    own: Path, tune: Tune, monkeypatch: pytest.MonkeyPatch, backbone_dir: Path
) -> None:
    """At steps 3, 6 and 9 of ten, each time with other weights; between them nothing changes."""
    lifts: list[tuple[int, str]] = []
    paths: list[set[Path]] = []
    real, advance = Trainer._relift, Trainer._advance

    def watch(trainer: Trainer, step: int, *rest: Any) -> None:
        lifts.append((step, str(trainer.state.averages["relifted"])))
        real(trainer, step, *rest)

    def look(trainer: Trainer, step: Any) -> list[float]:
        paths.append({scene.path for scene in trainer.scenes})
        assert all(path.is_file() for path in paths[-1])
        return advance(trainer, step)

    monkeypatch.setattr(Trainer, "_relift", watch)
    monkeypatch.setattr(Trainer, "_advance", look)
    made = tune(own, **RELIFTED)
    assert [step for step, _ in lifts] == [3, 6, 9]
    assert len({weights for _, weights in lifts}) == 3
    assert [i for i in range(1, made.steps) if paths[i] != paths[i - 1]] == [3, 6, 9]
    still = tune(own, targets={"source": "relifted"}, name="still")
    assert load_backbone(str(still.path)).identity != load_backbone(str(made.path)).identity
    # The held-out views are judged by the first targets, before and after.
    assert made.heldout_before == still.heldout_before


def test_two_runs_at_once_are_refused(own: Path, tune: Tune) -> None:
    from fit3d_cli.errors import StorageError

    def again(event: Progress) -> None:
        if event.stage == "finetune" and event.done == 2:
            with pytest.raises(StorageError, match="being written by pid"):
                tune(own)
            raise Reached

    with pytest.raises(Reached):
        tune(own, on_event=again)


def test_a_checkpoint_of_other_parameters_is_not_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of another version of timm, say: the state stays as it was, to the last moment."""

    def state(*sizes: int) -> State:
        parameters = {f"{i}": torch.nn.Parameter(torch.ones(n)) for i, n in enumerate(sizes)}
        made = State(parameters, torch.optim.AdamW(parameters.values()))
        for parameter in parameters.values():
            parameter.grad = torch.ones_like(parameter)
        return made

    written = state(2, 3)
    written.optimizer.step()
    written.history.append([0.5])
    save(tmp_path, written)
    other, same = state(2, 4), state(2, 3)
    restore(tmp_path, other, [], aside=False)
    assert not other.history and not other.optimizer.state
    assert all(bool((p == 1).all()) for p in other.parameters.values())
    assert not caplog.records
    restore(tmp_path, same, [])
    assert same.history == [[0.5]] and not caplog.records
    (path,) = tmp_path.iterdir()
    tensors, told = read_sealed(path)
    write_sealed(path, {k: v for k, v in tensors.items() if k != "m.0"}, told)
    restore(tmp_path, other, [], aside=False)
    fresh = state(2, 3)
    restore(tmp_path, fresh, [], aside=False)
    assert not fresh.history and not fresh.optimizer.state, "as if it had never had a moment"
    write_sealed(path, tensors, told)
    restore(tmp_path, other, [])
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.endswith(
        "step-00000001.safetensors: a checkpoint of other parameters - set aside; "
        "the training starts again"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.safetensors.damaged"]
    assert torch.equal(same.parameters["1"], written.parameters["1"])
