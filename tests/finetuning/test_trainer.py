"""The objective of a step, and every option of the training."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.errors import SettingsError
from fit3d_cli.finetuning import finetune as finetune_module
from fit3d_cli.finetuning import prefetch
from fit3d_cli.finetuning.batch import Batch, Sample
from fit3d_cli.finetuning.distributed import Processes
from fit3d_cli.finetuning.finetune import FinetuneResult
from fit3d_cli.finetuning.objectives.base import OBJECTIVES, Outputs
from fit3d_cli.finetuning.pairs import FEWEST, find_partners
from fit3d_cli.finetuning.prefetch import Step, load_draw
from fit3d_cli.finetuning.sampling import Draw, plan_epoch
from fit3d_cli.finetuning.schedule import step_size
from fit3d_cli.finetuning.targets import SceneTargets, find_targets, load_sample, prepare_targets
from fit3d_cli.finetuning.trainer import Trainer
from fit3d_cli.progress import Progress, ignore
from fit3d_cli.settings import FinetuneSettings
from fit3d_cli.tensorfile import read_tensors
from fit3d_cli.workspace import Workspace

Tune = Callable[..., FinetuneResult]
# Terms of every kind: on targets, on the base, on pairs with one item and with many points.
ALL = {"l1": 1.0, "cosine": 0.5, "anchor": 0.2, "gram": 0.3, "smooth_ap": 0.4, "info_nce": 0.1}
PAIRS = {"points": 32, "min_overlap": 0.05}


def settings_of(**changes: Any) -> FinetuneSettings:
    return FinetuneSettings.model_validate({"lr": 1e-3, "batch": 6, "pairs": PAIRS, **changes})


Make = Callable[..., Trainer]


@pytest.fixture(scope="module")
def make(home: Path, backbone_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A trainer on both scenes, before its first step."""
    place = Workspace(tmp_path_factory.mktemp("targets"))
    base = load_backbone(str(backbone_dir))
    names = ("hall", "attic")
    found = [
        find_targets(home / "out" / "scenes" / f"{name}.f3d", place, [home / "captures"])
        for name in names
    ]

    @functools.cache
    def prepared(novel: int) -> list[SceneTargets]:
        settings = settings_of(targets={"novel_views": novel})
        return [
            prepare_targets(scene, settings, base, place, "cpu", ignore, depths=True)
            for scene in found
        ]

    @functools.cache
    def partners(novel: int) -> list[tuple[tuple[int, ...], ...]]:
        return [find_partners(s, settings_of().pairs, ignore) for s in prepared(novel)]

    def trainer(processes: Processes | None = None, seed: int = 0, **changes: Any) -> Trainer:
        settings = settings_of(**changes)
        novel = settings.targets.novel_views
        pairs = any(getattr(settings.objectives, n) for n in ("smooth_ap", "info_nce", "location"))
        return Trainer(
            copy.deepcopy(base), base, prepared(novel), partners(novel) if pairs else None,
            settings, processes or Processes(), torch.device("cpu"), seed,
        )  # fmt: skip

    return trainer


def gradient(trainer: Trainer) -> dict[str, Tensor]:
    parameters = trainer.state.parameters
    return {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}


def advance(trainer: Trainer) -> list[float]:
    """One step without clipping; its gradient stays."""
    values = trainer._advance(trainer._load(trainer.step))
    trainer.state.history.append(values)
    return values


def test_the_objective_by_hand(make: Make) -> None:
    """The whole batch at once: weighted means of all items, as ``objectives/base.py`` says."""
    trainer = make(objectives=ALL, clip=1e9)
    step = trainer._load(0)
    (batch,) = step.batches
    assert batch.pairs and len(batch.images) > 2
    with torch.no_grad():
        outputs = Outputs(trainer.backbone.tokens(batch.images), trainer.base.tokens(batch.images))
    expected = {}
    for name in ALL:
        term = OBJECTIVES.get(name)
        weight = float(term.weights(batch).double().sum())
        expected[name] = float(term.errors(batch, outputs, trainer.settings).sum()) / weight
    total, *values = advance(trainer)
    assert dict(zip(sorted(ALL), values, strict=True)) == pytest.approx(expected, rel=1e-5)
    assert total == pytest.approx(sum(ALL[n] * v for n, v in expected.items()), rel=1e-5)


@pytest.mark.parametrize("micro", [2, 3, 5])
def test_micro_batches_change_nothing(make: Make, micro: int) -> None:
    whole = make(objectives=ALL, clip=1e9)
    values = advance(whole)
    expected = gradient(whole)
    cut = make(objectives=ALL, clip=1e9, micro_batch=micro)
    step = cut._load(0)
    assert len(step.batches) > 1 and all(len(b.images) <= micro for b in step.batches)
    assert advance(cut) == pytest.approx(values, rel=1e-5)
    for name, found in gradient(cut).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-3, atol=1e-6)


def test_shares_of_processes_make_the_batch(make: Make) -> None:
    whole = make(objectives=ALL)._load(0)
    shares = [make(Processes(rank, 3), objectives=ALL)._load(0) for rank in range(3)]
    assert sum(len(b.images) for s in shares for b in s.batches) == len(whole.batches[0].images)
    total = sum(share.weights for share in shares)
    torch.testing.assert_close(total, whole.weights)
    everyone = torch.cat([b.images for share in shares for b in share.batches])
    # Whoever loads a draw gets the same picture.
    for image in whole.batches[0].images:
        assert any(torch.equal(image, other) for other in everyone)


def test_a_process_without_samples(make: Make) -> None:
    """More processes than draws: nothing to compute, nothing to fail."""
    idle = make(Processes(50, 51), objectives={"l1": 1})
    step = idle._load(0)
    assert step.batches == () and float(step.weights.sum()) == 0


def test_pictures_pairs_and_targets_move_together(make: Make) -> None:
    """Mirrored pictures: the places of a pair show the same colours as unmirrored."""
    trainer = make(objectives={"info_nce": 1})
    draws = [d for batch in trainer._plan(0) for d in batch if d.partner is not None]
    draw = draws[0]
    scene = trainer.scenes[draw.scene]
    plain = replace(draw, flip=False, flip_partner=False)
    _, expected = load_draw(scene, plain, trainer.settings)
    samples, found = load_draw(scene, replace(draw, flip=True), trainer.settings)
    assert expected is not None and found is not None
    assert samples[0].flip and not samples[1].flip
    torch.testing.assert_close(found.places_first[:, 0], 1 - expected.places_first[:, 0])
    assert torch.equal(found.places_second, expected.places_second)
    original = load_sample(scene, draw.view)
    assert torch.equal(samples[0].image.flip(2), original.image)
    assert torch.equal(samples[0].target.flip(1), original.target)


def test_samples_are_drawn_and_mirrored_as_planned(
    own: Path, tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Batch] = []
    real = Trainer._advance

    def record(trainer: Trainer, step: Step) -> list[float]:
        seen.extend(step.batches)
        return real(trainer, step)

    monkeypatch.setattr(Trainer, "_advance", record)
    tune(own, epochs=2)
    place = Workspace(own)
    scenes = [find_targets(own / "scenes" / f"{n}.f3d", place, []) for n in ("hall", "attic")]
    scenes = [
        prepare_targets(s, FinetuneSettings(), None, place, "cpu", ignore, depths=False)  # type: ignore[arg-type]
        for s in scenes
    ]
    views = [(s, v) for s, scene in enumerate(scenes) for v in scene.train]
    plans = [
        plan_epoch(views, [(64, 48), (64, 32)], batch=2, flip=True, seed=0, epoch=e)
        for e in range(2)
    ]
    batches = [batch for plan in plans for batch in plan]
    assert len(seen) == len(batches) == 10
    draws = [draw for batch in batches for draw in batch]
    assert {draw.flip for draw in draws} == {True, False}, "the seed shows only one case"
    images = [image for batch in seen for image in batch.images]
    targets = [target for batch in seen for target in batch.targets]
    for draw, image, target in zip(draws, images, targets, strict=True):
        stored = load_sample(scenes[draw.scene], draw.view)
        expected = stored.flipped() if draw.flip else stored
        assert torch.equal(image, expected.image)
        assert torch.equal(target, expected.target)


def test_jitter_is_drawn_per_sample(make: Make) -> None:
    plain, jittered = make()._load(0), make(jitter=0.4)._load(0)
    gains = []
    for image, other in zip(plain.batches[0].images, jittered.batches[0].images, strict=True):
        gains.append(round(float(other.mean() / image.mean()), 4))
    assert len(set(gains)) == len(gains) > 3, "every sample its own"
    assert torch.equal(plain.batches[0].targets, jittered.batches[0].targets)
    again = make(jitter=0.4)._load(0)
    assert torch.equal(again.batches[0].images, jittered.batches[0].images)
    trainer = make(jitter=0.4)
    later = trainer._load(len(trainer._plan(0)))  # the first step of the second epoch
    assert not torch.equal(later.batches[0].images[0], jittered.batches[0].images[0])


def test_the_step_size_over_a_training() -> None:
    constant = settings_of(lr=2.0, warmup=0.4)
    sizes = [step_size(constant, step, 10) for step in range(10)]
    assert sizes == pytest.approx([0.5, 1, 1.5, 2, 2, 2, 2, 2, 2, 2])
    cosine = settings_of(lr=2.0, schedule="cosine", warmup=0.2)
    sizes = [step_size(cosine, step, 10) for step in range(10)]
    assert sizes[:3] == pytest.approx([1, 2, 2])
    assert sizes[2:] == pytest.approx([1 + math.cos(math.pi * k / 8) for k in range(8)])
    assert 0 < sizes[-1] < sizes[-2]
    assert step_size(settings_of(lr=2.0, schedule="cosine"), 0, 1) == 2


def test_the_optimiser_follows_the_schedule(make: Make) -> None:
    trainer = make(schedule="cosine", warmup=0.5, max_steps=2, epochs=9)
    assert trainer.steps == 2
    advance(trainer)
    assert trainer.state.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)
    advance(trainer)
    assert trainer.state.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)
    later = make(schedule="cosine", max_steps=4, epochs=9)
    for expected in (1, 0.8536, 0.5, 0.1464):
        advance(later)
        assert later.state.optimizer.param_groups[0]["lr"] == pytest.approx(expected * 1e-3, 1e-3)


def state_of(model: Path) -> dict[str, Tensor]:
    return read_tensors(model / "model.safetensors")[0]


def test_fewer_steps_than_epochs(own: Path, tune: Tune) -> None:
    assert tune(own, scenes=("hall",), epochs=3, max_steps=4).steps == 4
    assert tune(own, scenes=("hall",), epochs=1, max_steps=400).steps == 3


def test_the_average_is_what_is_kept(make: Make) -> None:
    trainer = make(ema=0.6, clip=1e9)
    trainer._begin(Path("nowhere"), ignore)
    names = list(trainer.state.parameters)
    expected = {n: p.detach().clone() for n, p in trainer.state.parameters.items()}
    for _ in range(3):
        advance(trainer)
        for name in names:
            now = trainer.state.parameters[name].detach()
            expected[name] = 0.6 * expected[name] + 0.4 * now
    kept = dict(trainer.exported().named_parameters())
    moved = 0.0
    for name in names:
        torch.testing.assert_close(kept[name].detach(), expected[name], rtol=1e-5, atol=1e-6)
        moved += float((kept[name] - trainer.state.parameters[name]).detach().abs().sum())
    assert moved > 0, "the last weights are kept"


def test_interpolation_between_base_and_tuned(own: Path, tune: Tune, backbone_dir: Path) -> None:
    base = state_of(backbone_dir)
    recipe = {"scenes": ("hall",), "epochs": 1}
    whole = state_of(tune(own, **recipe, name="whole").path)
    part = tune(own, **recipe, interpolate=0.25, name="part")
    moved = 0.0
    for name, tensor in state_of(part.path).items():
        expected = base[name] + 0.25 * (whole[name] - base[name])
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-7)
        moved += float((whole[name] - base[name]).abs().sum())
    assert moved > 0
    none = tune(own, **recipe, interpolate=0.0, name="none")
    assert all(torch.equal(v, base[k]) for k, v in state_of(none.path).items())
    # What is measured is what is kept.
    assert none.heldout_after == none.heldout_before != part.heldout_after


@pytest.mark.parametrize(
    ("train", "count"),
    [
        ({"part": "full"}, 0),
        # Two blocks, queries and values apart: A and B each.
        ({"part": "lora", "rank": 2}, 8),
        ({"part": "lora", "rank": 2, "blocks": 1, "keep_norm": False}, 4),
        ({"part": "adapter"}, 2),
        ({"part": "swin"}, 13),
    ],
)
def test_only_the_chosen_part_is_trained(
    make: Make, own: Path, tune: Tune, backbone_dir: Path, train: dict[str, Any], count: int
) -> None:
    trainer = make(train=train)
    if count:
        assert len(trainer.state.parameters) == count
    images = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    base = load_backbone(str(backbone_dir))
    with torch.no_grad():
        assert torch.equal(trainer.backbone.tokens(images), base.tokens(images)), "step 0 is base"
    recipe = {"train": train, "scenes": ("hall",), "ema": 0.2, "clip": 1.0}
    made = tune(own, **recipe)
    tuned = load_backbone(str(made.path))
    with torch.no_grad():
        assert not torch.equal(tuned.tokens(images), base.tokens(images))
    assert made.heldout_after < made.heldout_before
    assert (tuned.adapter is None) == (train["part"] in ("full", "lora"))
    card = (made.path / "README.md").read_text()
    assert ("adapter.safetensors" in card) == (tuned.adapter is not None)
    assert tune(own, **recipe).skipped


def test_bfloat16_on_the_cpu_is_near(make: Make) -> None:
    exact, rough = make(objectives=ALL), make(objectives=ALL, precision="bfloat16")
    seen: list[torch.dtype] = []
    forward = rough.backbone.tokens_and_cls

    def watch(images: Tensor) -> tuple[Tensor, Tensor]:
        made = forward(images)
        seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else
                    made[0].dtype)  # fmt: skip
        return made

    rough.backbone.tokens_and_cls = watch  # type: ignore[method-assign,assignment]
    expected, found = advance(exact), advance(rough)
    assert seen == [torch.bfloat16]
    assert found != expected
    assert found[0] == pytest.approx(expected[0], rel=0.05)
    assert all(p.dtype == torch.float32 for p in rough.state.parameters.values())


def test_novel_views_are_samples(make: Make) -> None:
    plain, more = make(), make(targets={"novel_views": 3})
    novel = sum(scene.novel for scene in more.scenes)
    assert 0 < novel <= 6
    count = [sum(len(batch) for batch in t._plan(0)) for t in (plain, more)]
    assert count[1] == count[0] + novel
    drawn = {(d.scene, d.view) for batch in more._plan(0) for d in batch}
    assert (0, len(more.scenes[0].views)) in drawn
    advance(more)
    assert all(map(math.isfinite, more.state.history[0]))


def test_the_base_is_asked_only_if_a_term_needs_it(make: Make) -> None:
    class Refuses:
        def tokens_and_cls(self, images: Tensor) -> tuple[Tensor, Tensor]:
            raise AssertionError("the base was asked")

    trainer = make(objectives={"l1": 1, "info_nce": 0.1})
    trainer.base = Refuses()  # type: ignore[assignment]
    advance(trainer)
    for term in ("gram", "class_anchor"):
        trainer = make(objectives={"l1": 0, term: 1})
        trainer.base = Refuses()  # type: ignore[assignment]
        with pytest.raises(AssertionError, match="the base was asked"):
            advance(trainer)


def test_samples_are_read_ahead(own: Path, tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a step computes, the next one is read, and none is read twice."""
    import threading

    threads, order = set(), []
    read, real = prefetch.load_sample, Trainer._advance

    def watch(scene: SceneTargets, view: int) -> Sample:
        threads.add(threading.current_thread().name)
        order.append("read")
        return read(scene, view)

    def slow(trainer: Trainer, step: Step) -> list[float]:
        import time

        time.sleep(0.05)
        order.append("step")
        return real(trainer, step)

    monkeypatch.setattr(prefetch, "load_sample", watch)
    monkeypatch.setattr(Trainer, "_advance", slow)
    tune(own, epochs=1)
    assert order.count("read") == 9 and order.count("step") == 5
    assert all(name.startswith("samples") for name in threads)
    assert order[:4] == ["read"] * 4, "the second step was not read during the first"


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"objectives": {"l1": 0}}, "finetune.objectives", "nothing to minimise"),
        ({"objectives": {"info_nce": 1}, "batch": 1}, "finetune.batch", "two views"),
        ({"objectives": {"info_nce": 1}, "micro_batch": 1}, "finetune.micro_batch", "two views"),
        ({"targets": {"relift_every": 3}}, "finetune.targets.relift_every", "no teacher"),
        ({"train": {"part": "lora", "rank": 500}}, "finetune.train.rank", "rank 500"),
        ({"lr": 1e30}, "finetune.lr", "diverged at step"),
        (
            {"objectives": {"smooth_ap": 1}, "pairs": {"min_overlap": 1.0}},
            "finetune.pairs.min_overlap", "no two views",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_done(
    own: Path, tune: Tune, changes: dict[str, Any], where: str, what: str
) -> None:
    with pytest.raises(SettingsError, match=what) as error:
        tune(own, **changes)
    assert error.value.where == where and error.value.hint
    assert not (own / "models").exists()


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"train": {"part": "lora", "rank": 500}}, "finetune.train.rank"),
        ({"train": {"part": "lora", "blocks": 3}}, "finetune.train.blocks"),
        ({"objectives": {"info_nce": 1}, "pairs": {"depth": "capture"}}, "finetune.pairs.depth"),
    ],
)  # fmt: skip
def test_it_is_said_before_anything_is_rendered(
    own: Path, tune: Tune, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], where: str
) -> None:
    """The second of two scenes has a photo without depth; no map of the first is made."""

    def found(archive: Path, *rest: Any) -> SceneTargets:
        scene = find_targets(archive, *rest)
        if scene.name == "hall":
            return scene
        return replace(scene, views=(replace(scene.views[0], depth_path=None), *scene.views[1:]))

    monkeypatch.setattr(finetune_module, "find_targets", found)
    with pytest.raises(SettingsError) as error:
        tune(own, **changes)
    assert error.value.where == where
    assert not (own / "cache" / "targets").exists()


def test_fewer_points_than_make_a_pair_are_refused() -> None:
    """With seven, no two views would ever teach anything."""
    assert settings_of(pairs={"points": FEWEST}).pairs.points == FEWEST
    with pytest.raises(ValidationError, match="greater than or equal to 8"):
        settings_of(pairs={"points": FEWEST - 1})


def test_progress_names_the_terms(own: Path, tune: Tune) -> None:
    notes: list[str] = []

    def watch(event: Progress) -> None:
        if event.stage == "finetune":
            notes.append(event.note)

    made = tune(own, objectives={"l1": 1, "anchor": 0.5}, epochs=1, on_event=watch)
    assert len(notes) == made.steps
    assert all(note.startswith("anchor 0.") and " l1 0." in note for note in notes)


def test_draws_without_partners_are_samples_too(make: Make) -> None:
    trainer = make(objectives={"l1": 1, "info_nce": 1})
    scene = trainer.scenes[0]
    alone = Draw(0, scene.train[0], None, False, False, 7)
    samples, pairs = load_draw(scene, alone, trainer.settings)
    assert len(samples) == 1 and pairs is None
