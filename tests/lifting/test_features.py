"""Tokens in, features and decoder out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fit3d_cli.backbones.cache import TokenCache
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.capture.base import Capture, Distortion
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.capture.read import view_cameras
from fit3d_cli.decoders import Decoder
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.lifting.features import (
    Lifted,
    heldout_features,
    solve_features,
    token_items,
    token_weights,
    view_tokens,
)
from fit3d_cli.lifting.initialise import fuse_depth, gaussians_from_points
from fit3d_cli.lifting.paper import lift_by_adam
from fit3d_cli.lifting.solve import TokenBasis, weighted_average
from fit3d_cli.lifting.views import Frames
from fit3d_cli.progress import Progress, ignore
from fit3d_cli.settings import FeatureSettings
from fit3d_cli.splat.rasterize import TokenWeights, view_weights

TRAIN, HELDOUT = [0, 1, 3, 4, 6, 7], [2, 5]
SIZE, GRID = (64, 48), (6, 8)


@pytest.fixture(scope="module")
def gaussians(frames: Frames) -> Gaussians:
    points, colors = fuse_depth(frames, TRAIN, 300, torch.Generator().manual_seed(0))
    return gaussians_from_points(points, colors, 300, sh_degree=0, surface=True)


@pytest.fixture(scope="module")
def cameras(capture: Capture) -> Cameras:
    return view_cameras(capture).resized(*SIZE)


@pytest.fixture(scope="module")
def weights(gaussians: Gaussians, cameras: Cameras) -> list[TokenWeights]:
    return token_weights(gaussians, cameras, GRID, ignore, "weights")


@pytest.fixture(scope="module")
def backbone(backbone_dir: Path) -> Backbone:
    return load_backbone(str(backbone_dir))


def read_tokens(
    capture: Capture, backbone: Backbone, cache: Path, on_event: Callable[[Progress], None] = ignore
) -> list[Tensor]:
    return view_tokens(
        capture, backbone, SIZE, cache=TokenCache(cache), batch=3, device="cpu",
        on_event=on_event, stage="tokens",
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokens(
    capture: Capture, backbone: Backbone, tmp_path_factory: pytest.TempPathFactory
) -> list[Tensor]:
    return read_tokens(capture, backbone, tmp_path_factory.mktemp("tokens"))


def features(**changes: object) -> FeatureSettings:
    return FeatureSettings.model_validate({"dim": 6, **changes})


def solve(
    weights: list[TokenWeights], tokens: list[Tensor], train: list[int] = TRAIN, **changes: object
) -> Lifted:
    return solve_features(weights, tokens, train, features(**changes), ignore, "features")


def test_token_weights_are_patch_means_of_the_blending_weights(
    gaussians: Gaussians, cameras: Cameras, weights: list[TokenWeights]
) -> None:
    values = torch.randn(len(gaussians), 2, generator=torch.Generator().manual_seed(0))
    for index in (0, 5):
        picture = view_weights(gaussians, cameras.viewmats[index], cameras.Ks[index], *SIZE).apply(
            values
        )
        patches = picture.reshape(6, 8, 8, 8, 2).mean((1, 3))
        torch.testing.assert_close(weights[index].apply(values), patches, rtol=0, atol=1e-5)


def test_tokens_come_from_the_backbone_and_then_from_the_cache(
    capture: Capture, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Progress] = []
    first = read_tokens(capture, backbone, tmp_path, events.append)
    assert events[-1].done == events[-1].total and events[-1].stage == "tokens"
    assert all(t.shape == (6, 8, 24) and t.dtype == torch.float16 for t in first)
    image = load_frame(capture.views[3], *SIZE).image.permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = backbone.tokens(image)[0]
    # Half precision of normed tokens, which are below 8: 2^-8.
    torch.testing.assert_close(first[3].float(), expected, rtol=0, atol=4e-3)

    def refuse(images: Tensor) -> Tensor:
        raise AssertionError("the backbone ran although the tokens are cached")

    monkeypatch.setattr(backbone, "tokens", refuse)
    again = read_tokens(capture, backbone, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_token_items_know_what_decides_the_pixels(capture: Capture) -> None:
    view = capture.views[0]
    bent = dataclasses.replace(view, distortion=Distortion("opencv", (0.1, 0.0)))
    other_lens = dataclasses.replace(view, distortion=Distortion("opencv", (0.2, 0.0)))
    zoomed = dataclasses.replace(bent, K=view.K * torch.tensor([[2.0], [2.0], [1.0]]))
    moved = dataclasses.replace(view, viewmat=view.viewmat.roll(1, 0))
    items = token_items((view, bent, other_lens, zoomed, moved, capture.views[1]), SIZE)
    plain, *others, same_pixels, next_photo = (item.digest for item in items)
    assert same_pixels == plain, "the pose is no part of the picture"
    assert len({plain, next_photo, *others}) == 5
    assert torch.equal(items[0].load(), load_frame(view, *SIZE).image)


def test_solving_recovers_features_that_explain_the_tokens(weights: list[TokenWeights]) -> None:
    """Tokens made by a known scene: the lifted one must reproduce them on views it never saw."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(300, 4, generator=generator)
    basis = torch.linalg.qr(torch.randn(24, 4, generator=generator))[0]
    made = [a.apply(truth) @ basis.T + 0.3 for a in weights]
    lifted = solve(weights, made, dim=4, cg_iterations=100, cg_lambda=1e-6, ridge=1e-8)
    for index in TRAIN:
        decoded = lifted.decoder(weights[index].apply(lifted.features)[None])[0]
        assert float((decoded - made[index]).abs().mean()) < 0.02
    average = solve(weights, made, dim=4, solver="average")
    errors = [
        float((x.decoder(weights[i].apply(x.features)[None])[0] - made[i]).abs().mean())
        for x in (lifted, average)
        for i in HELDOUT
    ]
    assert sum(errors[:2]) < 0.5 * sum(errors[2:]), "solving is no better than averaging"


def test_no_solver_step_is_the_weighted_average(
    weights: list[TokenWeights], tokens: list[Tensor]
) -> None:
    average = solve(weights, tokens, solver="average")
    still = solve(weights, tokens, solver="cg", cg_iterations=0)
    assert torch.equal(average.features, still.features)
    codes = [average.basis.encode(tokens[i].float()) for i in TRAIN]
    expected = weighted_average([weights[i] for i in TRAIN], codes)
    assert torch.equal(average.features, expected.half().float())
    assert not torch.equal(solve(weights, tokens).features, average.features)


def test_features_survive_half_precision(weights: list[TokenWeights], tokens: list[Tensor]) -> None:
    made = solve(weights, tokens).features
    assert torch.equal(made.half().float(), made)


def test_held_out_tokens_are_never_learnt_from(
    weights: list[TokenWeights], tokens: list[Tensor]
) -> None:
    corrupt = [torch.full_like(t, 9) if i in HELDOUT else t for i, t in enumerate(tokens)]
    first, second = solve(weights, tokens), solve(weights, corrupt)
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.decoder.weight, second.decoder.weight)
    assert torch.equal(first.basis.basis, second.basis.basis)
    third = solve(weights, corrupt, [*TRAIN, 5])
    assert not torch.equal(first.features, third.features)


def test_a_wider_dimension_explains_more(weights: list[TokenWeights], tokens: list[Tensor]) -> None:
    narrow, wide, full = (solve(weights, tokens, dim=d) for d in (2, 6, 30))
    assert narrow.basis.explained < wide.basis.explained < 1
    assert full.basis.explained == pytest.approx(1)
    assert full.features.shape == (300, 30)
    assert torch.equal(full.features[:, 24:], torch.zeros(300, 6))


def test_heldout_figures_by_hand(cameras: Cameras, weights: list[TokenWeights]) -> None:
    """A decoder that always says 'up', a basis that knows one axis, tokens that point sideways."""
    basis = TokenBasis(torch.zeros(2), torch.tensor([[1.0], [0.0]]), 1.0)
    says_up = Decoder(torch.zeros(2, 1, 3, 3), torch.tensor([0.0, 1.0]))
    lifted = Lifted(torch.zeros(300, 1), says_up, basis)
    tokens = [torch.tensor([2.0, 0.0]).expand(6, 8, 2) for _ in range(8)]
    tokens[5] = torch.tensor([3.0, 3.0]).expand(6, 8, 2)
    figures = heldout_features(lifted, weights, tokens, cameras, HELDOUT, TRAIN)
    diagonal = 0.5**0.5
    assert figures["feature_cosine"] == pytest.approx((0 + diagonal) / 2, abs=1e-6)
    assert figures["feature_l1"] == pytest.approx(((2 + 1) / 2 + (3 + 2) / 2) / 2)
    assert figures["ceiling_cosine"] == pytest.approx((1 + diagonal) / 2, abs=1e-6)
    assert figures["ceiling_l1"] == pytest.approx((0 + 3 / 2) / 2)
    assert figures["floor_cosine"] == pytest.approx((1 + diagonal) / 2, abs=1e-6)
    assert figures["floor_l1"] == pytest.approx((0 + (1 + 3) / 2) / 2)
    coverage = sum(float(weights[i].row_sums.mean()) for i in HELDOUT) / 2
    assert figures["coverage"] == pytest.approx(coverage)


def test_floor_takes_the_nearest_training_view(cameras: Cameras) -> None:
    from fit3d_cli.lifting.features import _nearest_view

    # The room's cameras walk along a path, so a neighbour in the list is nearest.
    assert _nearest_view(cameras, 5, TRAIN) in (4, 6)
    assert _nearest_view(cameras, 5, [0, 7]) == 7
    twins = cameras[[0, 3, 3]]
    assert _nearest_view(twins, 2, [0, 1]) == 1


def test_paper_schedule_learns(
    gaussians: Gaussians, cameras: Cameras, weights: list[TokenWeights], tokens: list[Tensor]
) -> None:
    events: list[Progress] = []

    def run(steps: int, seed: int = 0) -> Lifted:
        return lift_by_adam(
            gaussians, cameras, tokens, TRAIN,
            features(solver="paper", paper_iterations=steps, paper_lr=1e-2),
            seed, events.append, "features",
        )  # fmt: skip

    def error(lifted: Lifted) -> float:
        return heldout_features(lifted, weights, tokens, cameras, HELDOUT, TRAIN)["feature_l1"]

    short, long = run(1), run(60)
    assert error(long) < 0.85 * error(short)
    assert torch.equal(run(5).features, run(5).features)
    assert not torch.equal(run(5).features, run(5, seed=1).features)
    assert long.decoder.bias.abs().max() == 0, "the paper's convolution has no bias"
    assert {event.stage for event in events} == {"features"}
