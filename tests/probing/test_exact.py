"""The published protocols: quirks one by one, then the whole on tiny trees."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate

from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.datasets.base import DepthDataset, Sample, SegDataset
from fit3d_cli.datasets.boxes import PixelBox
from fit3d_cli.device import seeded
from fit3d_cli.errors import SettingsError
from fit3d_cli.images import save_png
from fit3d_cli.probing.exact import training as training_module
from fit3d_cli.probing.exact.crops import Crop
from fit3d_cli.probing.exact.depth import DepthJob
from fit3d_cli.probing.exact.drawing import Draws
from fit3d_cli.probing.exact.frozen import Frame, Frozen, Seen
from fit3d_cli.probing.exact.measure import describe, measure_exact
from fit3d_cli.probing.exact.protocol import (
    DEPTH_PROTOCOLS,
    SEG_PROTOCOLS,
    DepthProtocol,
    Schedule,
    SegProtocol,
)
from fit3d_cli.probing.exact.seg import SegJob, window_places
from fit3d_cli.probing.exact.training import Training, train_heads
from fit3d_cli.probing.heads import SegHead
from fit3d_cli.probing.losses import sig_loss
from fit3d_cli.probing.prediction import finer_depth
from fit3d_cli.probing.probe import probe
from fit3d_cli.progress import Progress, ignore
from fit3d_cli.settings import BackboneSettings, ProbeSettings
from fit3d_cli.statistics import Measured


@dataclass
class Colours:
    """Tokens are patch means of some colour channels; remembers what it saw."""

    channels: tuple[int, ...] = (0, 1, 2)
    patch_size: int = 4
    mean: tuple[float, ...] = (0.4, 0.5, 0.6)
    seen: list[tuple[Tensor, bool]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return "colours"

    @property
    def identity(self) -> str:
        return f"colours {self.channels}"

    def input_size(self, width: int, height: int, target_width: int) -> tuple[int, int]:
        return (
            width // self.patch_size * self.patch_size,
            height // self.patch_size * self.patch_size,
        )

    def tokens_and_cls(self, images: Tensor, *, norm: bool = True) -> tuple[Tensor, Tensor]:
        self.seen.append((images, norm))
        patches = avg_pool2d(images[:, list(self.channels)], self.patch_size)
        tokens = patches.permute(0, 2, 3, 1) * (1 if norm else 2)
        return tokens, tokens.mean((1, 2))


def frozen(*models: Colours, norm: bool = True, batch: int = 3) -> Frozen:
    names = ("base", "tuned")
    named = dict(zip(names, models or (Colours(),), strict=False))
    return Frozen(named, device="cpu", norm=norm, batch=batch)


# --- padding -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "patch", "padded", "offset"),
    [((512, 512), 14, (518, 518), (3, 3)), ((480, 640), 14, (490, 644), (5, 2)),
     ((416, 544), 14, (420, 546), (2, 1)), ((352, 1216), 14, (364, 1218), (6, 1)),
     ((584, 876), 14, (588, 882), (2, 3)), ((584, 876), 16, (592, 880), (4, 2)),
     ((512, 512), 16, (512, 512), (0, 0)), ((13, 27), 14, (14, 28), (0, 0))],
)  # fmt: skip
def test_padding_is_the_published_one(
    size: tuple[int, int], patch: int, padded: tuple[int, int], offset: tuple[int, int]
) -> None:
    frame = Frame(*size, patch)
    assert frame.padded == padded and frame.offset == offset


def test_padding_is_what_normalisation_turns_into_zero() -> None:
    model = Colours()
    picture = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(0))
    frozen(model).see([picture, picture[:, :4]], Frame(6, 6, 4))
    images = model.seen[0][0]
    mean = torch.tensor(model.mean)[:, None, None]
    assert images.shape == (2, 3, 8, 8)
    # 6 x 6 lies at (1, 1); the pictures at its top left, below them is padding as well.
    assert torch.equal(images[0, :, 1:6, 1:7], picture)
    assert torch.equal(images[1, :, 1:5, 1:7], picture[:, :4])
    for image, rows in ((images[0], 5), (images[1], 4)):
        outside = torch.ones(8, 8, dtype=torch.bool)
        outside[1 : 1 + rows, 1:7] = False
        assert float((image - mean)[:, outside].abs().max()) == 0


def test_published_logits_are_stretched_over_the_picture_and_mended_ones_cut() -> None:
    frame = Frame(4, 6, 4)  # padded to 4 x 8, one column on either side
    grid = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)
    stretched = frame.enlarge(grid, cut=False)[0, 0, 0].tolist()
    assert stretched == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1], abs=1e-6)
    cut = frame.enlarge(grid, cut=True)[0, 0, 0].tolist()
    assert cut == pytest.approx([0, 0.125, 0.375, 0.625, 0.875, 1])
    assert frame.enlarge(grid, cut=True).shape == frame.enlarge(grid, cut=False).shape


def test_windows_are_moved_back_into_the_picture() -> None:
    def rows(height: int, width: int) -> list[tuple[int, int, int, int]]:
        return [(r.start, r.stop, c.start, c.stop) for r, c in
                window_places(height, width, 512, 341)]  # fmt: skip

    assert rows(512, 512) == [(0, 512, 0, 512)]
    assert rows(512, 683) == [(0, 512, 0, 512), (0, 512, 171, 683)]
    assert [c for _, _, c, _ in rows(512, 1024)] == [0, 341, 512]
    assert rows(341, 2048)[0] == (0, 341, 0, 512)
    assert len(rows(853, 512)) == 2 and rows(854, 512)[1] == (341, 853, 0, 512)


# --- tokens ------------------------------------------------------------------------------------


def test_rows_take_the_class_token_of_their_first_model() -> None:
    pictures = [torch.rand(3, 8, 8)]
    seen = frozen(Colours((0,)), Colours((1,))).see(pictures, Frame(8, 8, 4))[0]
    base, tuned = seen.patches["base"], seen.patches["tuned"]
    for row, grid in (("base", base), ("tuned", tuned), ("sum", base + tuned),
                      ("concat", torch.cat([base, tuned], -1))):  # fmt: skip
        found = seen.features(row, with_cls=True)
        assert torch.equal(found[..., :-1], grid)
        cls = seen.cls["tuned" if row == "tuned" else "base"]
        assert torch.equal(found[0, 0, -1:], cls)
    assert seen.widths("fused") == (2, 1) and seen.widths("sum") == (1, 1)


def test_tokens_before_the_norm_become_the_others_by_the_norm() -> None:
    with seeded(0):
        backbone = load_backbone("room-tiny", pretrained=False).eval()
        norm = backbone.model.norm
        assert isinstance(norm, nn.Module)
        for parameter in norm.parameters():
            nn.init.uniform_(parameter, 0.5, 2)
    images = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        normed, cls = backbone.tokens_and_cls(images)
        raw, raw_cls = backbone.tokens_and_cls(images, norm=False)
        assert not torch.allclose(raw, normed)
        torch.testing.assert_close(norm(raw), normed)
        torch.testing.assert_close(norm(raw_cls), cls)
        torch.testing.assert_close(backbone.tokens(images), normed)  # nothing is left behind


def test_models_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(SettingsError, match="different token grids"):
        frozen(Colours(), Colours(patch_size=8))
    adapted = Colours()
    adapted.adapter = nn.Identity()  # type: ignore[attr-defined]
    frozen(adapted, norm=True)
    with pytest.raises(SettingsError, match="use preset fixed"):
        frozen(adapted, norm=False)


# --- data --------------------------------------------------------------------------------------

WIDTH, HEIGHT = 46, 38


def scenes(
    root: Path, count: int = 8
) -> list[tuple[Sample, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]]:
    """Pictures in blocks whose red is the class of the block."""
    made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        classes = np.kron(rng.integers(0, 3, (5, 6)), np.ones((8, 8), np.int64))[:HEIGHT, :WIDTH]
        picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        picture[:, :, 0] = 60 + 60 * classes
        save_png(root / f"{number}.png", picture)
        sample = Sample(f"{number}", root / f"{number}.png", root / f"{number}.label.png")
        made.append((sample, classes))
    return made


def segmentation(root: Path) -> SegDataset:
    samples = []
    for sample, classes in scenes(root):
        shown = classes.astype(np.uint8)
        shown[0] = 255
        save_png(sample.label_path, shown)
        samples.append(sample)
    return SegDataset("toy", ("a", "b", "c"), tuple(samples[:5]), tuple(samples[5:]))


def depth_dataset(root: Path, **changes: object) -> DepthDataset:
    samples = []
    for sample, classes in scenes(root):
        metres = 1000 * (1 + classes)
        metres[:2] = 0
        save_png(sample.label_path, metres.astype(np.uint16))
        samples.append(sample)
    values = {"farthest": 4.0, "crop": (30, 34), **changes}
    return DepthDataset("toy", tuple(samples[:5]), tuple(samples[5:]), **values)  # type: ignore[arg-type]


SEG = replace(SEG_PROTOCOLS["parity"], short=36, long=144, crop=34, stride=22, ratios=(0.9, 1.3))


def settings(**changes: object) -> ProbeSettings:
    values = {"steps": 3, "batch": 4, "bins": 16, "models": ("base",), "lr": 0.02, **changes}
    return ProbeSettings(backbone=BackboneSettings(batch=3), **values)  # type: ignore[arg-type]


def seg_job(root: Path, protocol: SegProtocol = SEG, batch: int = 3) -> SegJob:
    data = segmentation(root)
    return SegJob(data, data.train, data.val, frozen(batch=batch), protocol, "cpu", ignore)


def depth_job(
    root: Path, protocol: DepthProtocol | None = None, seen: Frozen | None = None, **changes: object
) -> DepthJob:
    data = depth_dataset(root, **changes)
    chosen = DEPTH_PROTOCOLS["parity"] if protocol is None else protocol
    return DepthJob(data, data.train, data.val, seen or frozen(), chosen, settings(), "cpu", ignore)


def gradients(head: nn.Module) -> list[Tensor]:
    found = []
    for parameter in head.parameters():
        assert parameter.grad is not None
        found.append(parameter.grad.clone())
    return found


def crops_of(job: SegJob | DepthJob, count: int = 4) -> list[Crop]:
    return [job.crop(index, Draws(index)) for index in range(count)]


# --- a step ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [False, True])
def test_a_segmentation_step_is_the_whole_batch_at_once(tmp_path: Path, cut: bool) -> None:
    job = seg_job(tmp_path, replace(SEG, cut_padding=cut))
    crops = crops_of(job)
    crops[1].target[:5] = 255
    frame = job.frozen.frame(34, 34)
    seen = job.frozen.see([crop.picture for crop in crops], frame)
    head = job.head("base", seen[0], torch.Generator().manual_seed(0))
    loss = job.learn(head, "base", seen, crops, 0)
    found = gradients(head)
    # The same without any accumulation: torch's own batch normalisation over all four pictures.
    head.zero_grad()
    features = torch.stack([one.features("base", with_cls=False) for one in seen])
    logits = head(features).permute(0, 3, 1, 2)
    large = interpolate(logits, (36, 36) if cut else (34, 34), mode="bilinear", align_corners=False)
    if cut:
        large = large[:, :, 1:35, 1:35]
    target = torch.stack([crop.target for crop in crops])
    # mmsegmentation divides by all pixels, those without a class too.
    expected = cross_entropy(large, target, ignore_index=255, reduction="none").mean()
    torch.autograd.backward(expected)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for ours, theirs in zip(found, gradients(head), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    found = []
    for batch in (1, 4):
        job = seg_job(tmp_path, batch=batch)
        crops = crops_of(job)
        seen = job.frozen.see([crop.picture for crop in crops], job.frozen.frame(34, 34))
        head = job.head("base", seen[0], torch.Generator().manual_seed(0))
        job.learn(head, "base", seen, crops, 0)
        found.append(gradients(head))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_depth_pools_its_loss_over_pairs(tmp_path: Path) -> None:
    job = depth_job(tmp_path, color=None)
    crops = crops_of(job)
    seen = job.frozen.see([crop.picture for crop in crops], job.frozen.frame(30, 34))
    head = job.head("base", seen[0], torch.Generator().manual_seed(0))
    late = round(DEPTH_PROTOCOLS["parity"].schedule.steps / 2)
    loss = job.learn(head, "base", seen, crops, late)
    found = gradients(head)
    head.zero_grad()
    parts = []
    for pair in ((0, 1), (2, 3)):
        guesses, truths = [], []
        for index in pair:
            grid = seen[index].features("base", with_cls=True)
            depth = interpolate(finer_depth(head, grid), (30, 34), mode="bilinear")[0, 0]
            known = crops[index].target > 0
            guesses.append(depth[known])
            truths.append(crops[index].target[known])
        parts.append(sig_loss(torch.cat(guesses), torch.cat(truths)))
    expected = sum(parts) / 2
    assert isinstance(expected, Tensor)
    torch.autograd.backward(expected)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for ours, theirs in zip(found, gradients(head), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-4)
    head.zero_grad()
    level = job.learn(head, "base", seen, crops, 99)  # of the first hundred steps
    assert level < 0.9 * loss and job.learn(head, "base", seen, crops, 100) == pytest.approx(loss)


def test_published_training_learns_from_all_known_depths(tmp_path: Path) -> None:
    """Class 2 lies at 3 m, beyond a range of 2.5 m."""
    grads = []
    for preset in ("parity", "fixed"):
        protocol = replace(DEPTH_PROTOCOLS[preset], cut_padding=False, norm=True)
        job = depth_job(tmp_path, protocol, color=None, farthest=2.5)
        crops = crops_of(job)
        far = [replace(crop, target=torch.where(crop.target > 2.5, 9.0, crop.target))
               for crop in crops]  # fmt: skip
        seen = job.frozen.see([crop.picture for crop in crops], job.frozen.frame(30, 34))
        head = job.head("base", seen[0], torch.Generator().manual_seed(0))
        grads.append([job.learn(head, "base", seen, some, 10_000) for some in (crops, far)])
    assert grads[0][0] != grads[0][1]
    assert grads[1][0] == grads[1][1]


def test_pairs_without_known_depth_are_passed_over(tmp_path: Path) -> None:
    job = depth_job(tmp_path)
    crops = [replace(crop, target=torch.zeros_like(crop.target)) for crop in crops_of(job)]
    seen = job.frozen.see([crop.picture for crop in crops], job.frozen.frame(30, 34))
    head = job.head("base", seen[0], torch.Generator().manual_seed(0))
    assert job.learn(head, "base", seen, crops, 0) == 0


# --- the score ---------------------------------------------------------------------------------


def test_windows_are_averaged_and_enlarged_to_the_photo(tmp_path: Path) -> None:
    job = seg_job(tmp_path)
    head = SegHead(3, 3, generator=torch.Generator().manual_seed(1)).eval()
    with torch.no_grad():
        head.weight.mul_(300)
        head.weight.sub_(head.weight.mean(1, keepdim=True))
    windows = job._windows(job.val[0])
    assert windows.size == (36, 44) and len(windows.places) == 4
    total, count = torch.zeros(3, 36, 44), torch.zeros(36, 44)
    for (rows, columns), seen in zip(windows.places, windows.seen, strict=True):
        logits = head(seen.features("base", with_cls=False)).permute(2, 0, 1)[None]
        total[:, rows, columns] += interpolate(logits, (34, 34), mode="bilinear")[0]
        count[rows, columns] += 1
    assert count.max() == 4
    mean = interpolate((total / count)[None], (HEIGHT, WIDTH), mode="bilinear")[0]
    with torch.no_grad():
        found = job._predict(head, "base", windows, torch.Size((HEIGHT, WIDTH)))
    assert torch.equal(found, mean.argmax(0)) and int(found.max()) > int(found.min())


@pytest.mark.parametrize("flip", [True, False])
def test_depth_is_averaged_with_the_mirror_image(tmp_path: Path, flip: bool) -> None:
    model = Colours()
    job = depth_job(tmp_path, seen=frozen(model), test_flip=flip)
    head = job.head("base", frozen().see([torch.rand(3, 8, 8)], Frame(8, 8, 4))[0],
                    torch.Generator().manual_seed(0))  # fmt: skip
    job.score({"base": head})
    image = model.seen[0][0]
    assert len(image) == (2 if flip else 1) and image.shape[2:] == (40, 48)
    if flip:
        inside = image[:, :, 1:39, 1:47]
        assert torch.equal(inside[0], inside[1].flip(-1))


def test_presets_score_in_their_own_box(tmp_path: Path) -> None:
    box = PixelBox(10, 20, 10, 20)
    found = {}
    for preset, protocol in DEPTH_PROTOCOLS.items():
        job = depth_job(tmp_path, protocol, parity_box=box, fixed_box=None)
        seen = frozen().see([torch.rand(3, 8, 8)], Frame(8, 8, 4))[0]
        head = job.head("base", seen, torch.Generator().manual_seed(0))
        found[preset] = job.score({"base": head})["base"].samples["rmse"]
    assert found["parity"] != found["fixed"]
    shut = depth_job(tmp_path, DEPTH_PROTOCOLS["parity"], parity_box=PixelBox(0, 2, 0, 30))
    samples = shut.score({"base": head})["base"].samples["rmse"]
    assert all(np.isnan(samples))  # nothing is known there


# --- the loop ----------------------------------------------------------------------------------


@dataclass
class Stub:
    """A job whose head is one weight that every step lowers."""

    qualities: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)

    def head(self, row: str, seen: Seen, generator: torch.Generator) -> nn.Module:
        return nn.Linear(1, 1, bias=False)

    def crop(self, index: int, draws: Draws) -> Crop:
        return Crop(torch.zeros(3, 4, 4), torch.zeros(4, 4))

    def learn(
        self, head: nn.Module, row: str, seen: list[Seen], crops: list[Crop], step: int
    ) -> float:
        torch.autograd.backward(next(head.parameters()).sum())
        return 1.0

    def quality(self, heads: Mapping[str, nn.Module]) -> dict[str, float]:
        assert not any(head.training for head in heads.values())
        self.asked.append(float(next(heads["base"].parameters()).detach()))
        return dict.fromkeys(heads, self.qualities[len(self.asked) - 1])


def schedule(**changes: object) -> Schedule:
    values = {"steps": 12, "batch": 2, "lr": 0.1, "weight_decay": 0.0, "warm_up": 0.0,
              "warm_from": 0.0, "decay": "linear", "choices": 6, **changes}  # fmt: skip
    return Schedule(**values)  # type: ignore[arg-type]


def test_the_best_checkpoint_is_kept_only_where_it_is_chosen() -> None:
    job = Stub([5, 3, 1, 2, 4, 6])
    plan = Training(("base",), 3, schedule(), choose=True, seed=0, device="cpu")
    head = train_heads(job, frozen(), plan, ignore)["base"]
    assert len(job.asked) == 6 and sorted(job.asked, reverse=True) == job.asked
    assert float(next(head.parameters()).detach()) == job.asked[2] and not head.training
    last = Stub()
    head = train_heads(last, frozen(), replace(plan, choose=False), ignore)["base"]
    assert not last.asked


def test_progress_tells_the_time_that_is_left() -> None:
    events: list[Progress] = []
    plan = Training(("base",), 3, schedule(), choose=False, seed=0, device="cpu")
    train_heads(Stub(), frozen(), plan, events.append)
    assert [event.done for event in events] == list(range(1, 13))
    assert all(event.note.startswith("loss 1.000, ") and event.note.endswith("s left")
               for event in events)  # fmt: skip


class Killed(Exception):
    """Stands for a signal."""


@pytest.mark.parametrize("kind", ["seg", "depth"])
def test_a_killed_training_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(training_module, "_SAVE_EVERY", 2)
    data = segmentation(tmp_path) if kind == "seg" else depth_dataset(tmp_path)
    protocol = SEG if kind == "seg" else DEPTH_PROTOCOLS["parity"]
    models = {"base": Colours((0, 1)), "tuned": Colours((1, 2))}
    events: list[Progress] = []

    def run(listener: Callable[[Progress], None], folder: Path | None) -> Mapping[str, Measured]:
        return measure_exact(
            data, models, settings(steps=7, models=("base", "fused")), protocol, device="cpu",
            seed=3, checkpoints=folder, on_step=listener,
        ).measured  # fmt: skip

    def kill(event: Progress) -> None:
        if event.stage == "heads" and event.done == 5:
            raise Killed

    straight = run(ignore, None)
    folder = tmp_path / "heads"
    with pytest.raises(Killed):
        run(kill, folder)
    (checkpoint,) = folder.glob("*.safetensors")
    resumed = run(events.append, folder)
    assert [e.done for e in events if e.stage == "heads"] == [5, 6, 7]
    for row in ("base", "fused"):
        assert resumed[row].samples == straight[row].samples
    assert not checkpoint.exists()
    # A damaged checkpoint, or one of another training, is as good as none.
    with pytest.raises(Killed):
        run(kill, folder)
    damaged = bytearray(checkpoint.read_bytes())
    damaged[-5] ^= 1
    checkpoint.write_bytes(damaged)
    events.clear()
    assert run(events.append, folder)["base"].samples == straight["base"].samples
    assert sum(e.stage == "heads" for e in events) == 7


# --- the whole ---------------------------------------------------------------------------------

MODELS = {"base": Colours((1, 2)), "tuned": Colours((0, 1))}


@pytest.mark.parametrize("preset", ["parity", "fixed"])
def test_presets_tell_who_knows_the_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    monkeypatch.setitem(SEG_PROTOCOLS, preset, replace(SEG, cut_padding=preset == "fixed"))
    rows = ("base", "tuned", "concat", "sum", "fused")
    report = probe(segmentation(tmp_path), MODELS,
                   settings(preset=preset, steps=40, models=rows), seed=1)  # fmt: skip
    figures = {row.model: row.metrics["miou"] for row in report.rows}
    # Hues are distorted in training, so colour does not tell everything.
    assert min(figures[row] for row in rows[1:]) > 1.2 * figures["base"]
    assert report.count == 3 and report.notes[0] == f"preset {preset}"
    again = probe(segmentation(tmp_path), MODELS,
                  settings(preset=preset, steps=40, models=("tuned",)), seed=1)  # fmt: skip
    assert again.rows[0].metrics["miou"] == figures["tuned"]  # rows do not touch each other


@pytest.mark.parametrize("preset", ["parity", "fixed"])
def test_presets_tell_who_knows_the_depth(tmp_path: Path, preset: str) -> None:
    models = {"base": Colours((1, 2)), "tuned": Colours((0, 1))}
    rows = ("base", "tuned", "concat", "sum", "fused")
    report = probe(depth_dataset(tmp_path), models,
                   settings(preset=preset, steps=24, models=rows, lr=0.1), seed=1)  # fmt: skip
    figures = {row.model: row.metrics["rmse"] for row in report.rows}
    assert max(figures["tuned"], figures["concat"], figures["fused"]) < 0.9 * figures["base"]
    normed = {norm for _, norm in models["base"].seen}
    assert normed == {preset == "fixed"}
    chosen = any("chosen by abs_rel on the scored split" in note for note in report.notes)
    assert chosen == (preset == "parity")


def test_notes_say_what_a_preset_does() -> None:
    for table in (SEG_PROTOCOLS, DEPTH_PROTOCOLS):
        notes = [describe(table[preset], ProbeSettings()) for preset in ("parity", "fixed")]
        assert "padding left in" in " ".join(notes[0]) and "padding cut out of" in " ".join(
            notes[1]
        )
        assert not any("not the published schedule" in note for note in notes[0])
    changed = describe(SEG_PROTOCOLS["parity"], ProbeSettings(steps=300, batch=8))[-1]
    assert changed == (
        "not the published schedule: steps 300 instead of 40000, batch 8 instead of 16"
    )
