"""Training the small ViT, and the weights that ship."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.rooms import generate_room, render_room, room_intrinsics, room_path
from fit3d_cli.rooms.augment import augment
from fit3d_cli.rooms.contrast import PatchContrast
from fit3d_cli.rooms.evaluation import LinearProbe, linear_probe
from fit3d_cli.rooms.masked import MaskedAutoencoder
from fit3d_cli.rooms.pieces import CLASSES
from fit3d_cli.rooms.pretrain import STAGES, Stage, train
from fit3d_cli.rooms.samples import Samples, load_samples
from fit3d_cli.rooms.vit import PATCH, RoomViT, architecture
from fit3d_cli.tensorfile import read_tensors

WEIGHTS = "fit3d_cli/backbones/data/room_vit.safetensors"


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    cache = tmp_path_factory.mktemp("rooms") / "rooms.safetensors"
    # Rooms that neither training nor its evaluation saw.
    samples = load_samples(range(400, 416), views=1, width=160, height=120, cache=cache)
    again = load_samples(range(400, 416), views=1, width=160, height=120, cache=cache)
    assert torch.equal(samples.images, again.images) and torch.equal(samples.labels, again.labels)
    return samples


def timm_vit() -> torch.nn.Module:
    import_timm()
    from timm.models.vision_transformer import VisionTransformer

    model: torch.nn.Module = VisionTransformer(**architecture())
    return model.eval()


def test_the_network_is_timms() -> None:
    torch.manual_seed(0)
    ours, theirs = RoomViT().eval(), timm_vit()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    forward: Callable[[Tensor], Tensor] = theirs.forward_features  # type: ignore[assignment]
    with torch.no_grad():
        for height, width in ((96, 128), (120, 160)):
            images = torch.randn(2, 3, height, width)
            assert torch.allclose(ours(images), forward(images)[:, 1:], atol=2e-5)


@pytest.mark.parametrize("strong", [False, True])
def test_crops_are_seeded_and_normalised(strong: bool) -> None:
    images = torch.randint(0, 256, (4, 3, 60, 80), dtype=torch.uint8)
    (one, places), (two, again), (other, _) = (
        augment(images, torch.Generator().manual_seed(seed), strong=strong) for seed in (1, 1, 2)
    )
    assert one.shape == (4, 3, 96, 128) and places.shape == (4, 12 * 16, 2)
    assert torch.equal(one, two) and torch.equal(places, again) and not torch.equal(one, other)
    assert one.min() >= -1 and one.max() <= 1 and places.abs().max() < 1
    # A picture of one colour stays one colour, whatever the crop.
    flat, _ = augment(images[:, :, :1, :1].expand(-1, -1, 60, 80), torch.Generator())
    assert flat.flatten(2).std(2).max() < 1e-5


def test_places_say_where_patches_came_from() -> None:
    ramp = torch.linspace(0, 255, 160).round().to(torch.uint8)
    images = torch.stack([ramp.expand(120, 160)] * 3)[None].expand(8, -1, -1, -1)
    crops, places = augment(images, torch.Generator().manual_seed(0))
    patches = torch.nn.functional.avg_pool2d(crops, PATCH).flatten(2)  # [8, 3, patches]
    for crop, place in zip(patches, places, strict=True):
        unsaturated = (crop > -0.95) & (crop < 0.9)
        for channel, use in zip(crop, unsaturated, strict=True):
            pair = torch.stack([channel[use], place[use, 0]])
            assert torch.corrcoef(pair)[0, 1] > 0.999


def test_hidden_patches_do_not_reach_the_encoder() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(RoomViT(), width=32, keep=(0.25,), predict=0.3).eval()
    images = torch.randint(0, 256, (2, 3, 96, 128), dtype=torch.uint8)
    seen: list[Tensor] = []
    model.vit.blocks.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.loss(images, torch.Generator().manual_seed(0))
    (tokens,) = seen
    assert tokens.shape == (2, 1 + 48, 128)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: str(stage.name))
def test_training_changes_the_encoder_and_repeats(rooms: Samples, stage: Stage) -> None:
    quick = replace(stage, batch=4)

    def run() -> tuple[float, dict[str, Tensor]]:
        torch.manual_seed(0)
        vit = RoomViT()
        before = vit.patch_embed.proj.weight.detach().clone()
        generator = torch.Generator().manual_seed(3)
        model = quick.build(vit)
        steps, loss = train(model, quick, rooms, generator, lambda done: done / 3, lambda *_: None)
        assert steps == 3
        assert not torch.equal(before, vit.patch_embed.proj.weight)
        return loss, vit.state_dict()

    (first, one), (second, two) = run(), run()
    assert first == second
    assert all(torch.equal(one[name], two[name]) for name in one)


def learned(model: MaskedAutoencoder | PatchContrast, images: Tensor, steps: int) -> float:
    """Last loss over first loss when one batch, always cropped alike, is learned by heart."""
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for _ in range(steps):
        loss = model.loss(images, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses[-1] / losses[0]


def test_masked_prediction_is_learned(rooms: Samples) -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(RoomViT(), width=32, keep=(0.3,), predict=0.3)
    assert learned(model, rooms.images[:8], 25) < 0.75


def test_contrast_is_learned(rooms: Samples) -> None:
    torch.manual_seed(0)
    model = PatchContrast(RoomViT(), keep=0.5, anchors=6, temperature=0.1)
    assert learned(model, rooms.images[:4], 15) < 0.75


def test_the_probe_reads_what_is_there() -> None:
    generator = torch.Generator().manual_seed(0)

    def world() -> Samples:
        labels = torch.randint(0, len(CLASSES), (6, 4, 5), generator=generator)
        depths = 1 + torch.rand(6, 4, 5, generator=generator)

        def grow(values: Tensor) -> Tensor:
            return values.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)

        images = torch.stack([grow(labels * 20), grow(labels * 0), grow(labels * 0)], 1)
        return Samples(images.to(torch.uint8), grow(depths), grow(labels).to(torch.uint8))

    fit, test = world(), world()

    def knows(images: Tensor) -> Tensor:
        index = ((images[:, 0, ::PATCH, ::PATCH] * 0.5 + 0.5) * 255 / 20).round().long().flatten(1)
        return torch.nn.functional.one_hot(index, len(CLASSES)).float()

    def blind(images: Tensor) -> Tensor:
        return torch.ones(len(images), 20, 3)

    assert linear_probe(knows, fit, test, patch=PATCH).accuracy == 1
    assert linear_probe(knows, fit, test, patch=PATCH).mean_iou == 1
    assert linear_probe(blind, fit, test, patch=PATCH).accuracy < 0.3
    deviation = float(test.depths.std())
    assert abs(linear_probe(blind, fit, test, patch=PATCH).depth_rmse - deviation) < 0.1


def test_the_shipped_weights_load_and_know_rooms(repository: Path, rooms: Samples) -> None:
    tensors, metadata = read_tensors(repository / WEIGHTS)
    assert (repository / WEIGHTS).stat().st_size < 6_000_000
    assert all(tensor.dtype == torch.float16 for tensor in tensors.values())
    assert metadata["format"] == "pt"
    assert json.loads(metadata["architecture"]) == architecture()
    training = json.loads(metadata["training"])
    assert training["script"] == "fit3d_cli.rooms.pretrain" and training["labels"] == "none"
    assert "unfinished" not in training
    # The plain network of the same architecture, with timm's own random weights and with ours.
    torch.manual_seed(0)
    plain = timm_vit()
    forward: Callable[[Tensor], Tensor] = plain.forward_features  # type: ignore[assignment]
    fit, test = (
        Samples(rooms.images[rows], rooms.depths[rows], rooms.labels[rows])
        for rows in (slice(0, 10), slice(10, 16))
    )

    def score() -> LinearProbe:
        return linear_probe(lambda x: forward(x)[:, 1:], fit, test, patch=PATCH, damping=10.0)

    random = score()
    plain.load_state_dict(tensors, strict=True)
    trained = score()
    # Six test pictures give noisy figures; the metadata holds those of the full evaluation.
    assert trained.accuracy > random.accuracy
    assert trained.depth_rmse < 0.85 * random.depth_rmse
    full = training["linear_probe"]
    assert full["trained"]["accuracy"] > full["untrained"]["accuracy"] + 0.03


def test_the_shipped_weights_find_places_again(repository: Path) -> None:
    tensors, _ = read_tensors(repository / WEIGHTS)
    torch.manual_seed(0)
    fresh, trained = RoomViT().eval(), RoomViT().eval()
    trained.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    found = {True: 0.0, False: 0.0}
    for seed in (400, 401):
        room, K = generate_room(seed), room_intrinsics(160, 120)
        poses = room_path(room, 24)[[3, 5]]
        frames = [render_room(room, pose, K, 160, 120) for pose in poses]
        images = torch.stack([torch.from_numpy(f.image.copy()).permute(2, 0, 1) for f in frames])
        # Where the patches' centres of the first view lie in the second.
        v, u = np.mgrid[4:120:8, 4:160:8]
        depth = frames[0].depth[v, u]
        rays = np.stack([(u + 0.5 - 80) / K[0, 0], (v + 0.5 - 60) / K[1, 1], np.ones(u.shape)], -1)
        world = (rays * depth[..., None]) @ poses[0][:3, :3].T + poses[0][:3, 3]
        local = (world - poses[1][:3, 3]) @ poses[1][:3, :3]
        x = local[..., 0] / local[..., 2] * K[0, 0] + 80
        y = local[..., 1] / local[..., 2] * K[1, 1] + 60
        inside = (local[..., 2] > 0) & (x > 0) & (x < 160) & (y > 0) & (y < 120)
        for vit in (fresh, trained):
            with torch.no_grad():
                tokens = torch.nn.functional.normalize(vit((images / 255 - 0.5) / 0.5), dim=2)
            best = (tokens[0] @ tokens[1].T).argmax(1).numpy().reshape(15, 20)
            error = np.hypot(best % 20 * 8 + 4 - x, best // 20 * 8 + 4 - y)
            found[vit is trained] += float((error[inside] < 12).mean()) / 2
    assert found[True] > 2 * found[False]
    assert found[True] > 0.15
