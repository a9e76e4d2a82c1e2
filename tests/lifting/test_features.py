"""Tokens in, features and decoder out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from fit3d_cli.errors import WeightsError
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.lifting import paper
from fit3d_cli.lifting.basis import TokenBasis
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
from fit3d_cli.lifting.solve import weighted_average
from fit3d_cli.lifting.stacked import Stacked
from fit3d_cli.lifting.store import WeightStore
from fit3d_cli.lifting.views import Frames
from fit3d_cli.progress import Progress, ignore
from fit3d_cli.settings import FeatureSettings
from fit3d_cli.splat.rasterize import view_weights
from fit3d_cli.splat.weights import ViewWeights

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
def weights(gaussians: Gaussians, cameras: Cameras) -> WeightStore:
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
    weights: WeightStore, tokens: list[Tensor], train: list[int] = TRAIN, **changes: object
) -> Lifted:
    return solve_features(weights, tokens, train, features(**changes), ignore, "features")


def test_token_weights_are_patch_means_of_the_blending_weights(
    gaussians: Gaussians, cameras: Cameras, weights: WeightStore
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


def test_solving_recovers_features_that_explain_the_tokens(weights: WeightStore) -> None:
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


def test_no_solver_step_is_the_weighted_average(weights: WeightStore, tokens: list[Tensor]) -> None:
    average = solve(weights, tokens, solver="average")
    still = solve(weights, tokens, solver="cg", cg_iterations=0)
    assert torch.equal(average.features, still.features)
    codes = torch.cat([average.basis.encode(tokens[i].float()).view(48, -1) for i in TRAIN])
    expected = weighted_average(Stacked([weights[i] for i in TRAIN]), codes)
    assert torch.equal(average.features, expected.half().float())
    assert not torch.equal(solve(weights, tokens).features, average.features)


def known(weights: WeightStore) -> tuple[Tensor, Tensor, list[Tensor]]:
    """A field, its four directions in token space, and the tokens that it renders to."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(300, 4, generator=generator)
    directions = torch.linalg.qr(torch.randn(24, 4, generator=generator))[0]
    return truth, directions, [a.apply(truth) @ directions.T for a in weights]


@pytest.mark.parametrize("solver", ["average", "cg"])
def test_huber_resists_an_object_that_moved(weights: WeightStore, solver: str) -> None:
    """In one of the six views, and in half of another, something else stands before the camera."""
    _, directions, clean = known(weights)
    tokens = [t.clone() for t in clean]
    strange = 6 * directions[:, 0] - 4 * directions[:, 2]
    tokens[TRAIN[1]][:, :4] = strange
    tokens[TRAIN[4]][2:5, 3:7] = -strange
    fixed = {"solver": solver, "validation": 0, "dim": 4, "cg_iterations": 20, "ridge": 1e-3}

    def error(given: list[Tensor], **changes: object) -> float:
        lifted = solve(weights, given, **fixed, **changes)
        renders = [lifted.decoder(weights[i].apply(lifted.features)[None])[0] for i in HELDOUT]
        return sum(
            float((r - clean[i]).square().mean()) for r, i in zip(renders, HELDOUT, strict=True)
        )

    plain, robust = error(tokens), error(tokens, robust="huber", robust_rounds=4)
    assert robust < 0.6 * plain
    # Where nothing is wrong there is little to lose.
    assert error(clean, robust="huber") < 1.3 * error(clean) + 1e-3


def test_huber_without_residuals_trusts_everything(weights: WeightStore) -> None:
    flat = [torch.full((6, 8, 24), 0.5) for _ in range(8)]
    lifted = solve(weights, flat, robust="huber")
    assert torch.isfinite(lifted.features).all()
    assert torch.isfinite(lifted.decoder.weight).all()


@pytest.mark.parametrize("kind", ["column", "row-sum", "jacobi"])
def test_nothing_seen_often_or_at_all_stays_finite(
    weights: WeightStore, tokens: list[Tensor], kind: str
) -> None:
    """One view leaves most Gaussians unseen; without pull their share of the system is 0 = 0."""
    lifted = solve(
        weights, tokens, [3], cg_lambda=0.0, cg_iterations=50, validation=0, preconditioner=kind
    )
    unseen = weights[3].apply_t(torch.ones(6, 8, 1))[:, 0] == 0
    assert 0 < int(unseen.sum()) < 300
    assert torch.isfinite(lifted.features).all()
    assert torch.equal(lifted.features[unseen], torch.zeros(int(unseen.sum()), 6))


def test_tokens_that_are_not_finite_are_refused(weights: WeightStore, tokens: list[Tensor]) -> None:
    bad = [t.clone() for t in tokens]
    bad[TRAIN[2]][0, 0, 0] = float("nan")
    with pytest.raises(WeightsError, match="tokens of view 2 hold numbers that are not finite"):
        solve(weights, bad)


def test_the_memory_of_the_weights_changes_no_bit(
    gaussians: Gaussians, cameras: Cameras, weights: WeightStore, tokens: list[Tensor],
    tmp_path: Path,
) -> None:  # fmt: skip
    spilled, kept = (
        token_weights(
            gaussians, cameras, GRID, ignore, "", apart=HELDOUT, budget=budget, folder=tmp_path
        )
        for budget in (0, 1 << 30)
    )
    assert (spilled.spilled, kept.spilled) == (2, 0)
    first, second = solve(kept, tokens), solve(spilled, tokens)
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.decoder.weight, second.decoder.weight)
    # Beside held-out views sums run in other pieces; they are learnt from no more than apart.
    mixed = solve(weights, tokens)
    torch.testing.assert_close(mixed.features, first.features, rtol=2e-3, atol=2e-3)
    some = token_weights(gaussians, cameras, GRID, ignore, "", views=HELDOUT)
    assert torch.equal(some[5].vals, weights[5].vals)
    assert len(some) == 2


def test_any_number_of_threads_gives_the_same_bits(
    weights: WeightStore, tokens: list[Tensor]
) -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(solve(weights, tokens, dim=20, robust="huber"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert torch.equal(results[0].features, other.features)
        assert torch.equal(results[0].decoder.weight, other.decoder.weight)
        assert torch.equal(results[0].decoder.bias, other.decoder.bias)


def test_time_and_choice_are_told(weights: WeightStore, tokens: list[Tensor]) -> None:
    lifted = solve(weights, tokens, cg_iterations=3, cg_lambda=0.5)
    assert set(lifted.seconds) == {"basis", "choose", "solve", "decoder"}
    assert lifted.choice is not None
    assert (lifted.choice.iterations, lifted.choice.damping) == (3, 0.5)


def test_features_survive_half_precision(weights: WeightStore, tokens: list[Tensor]) -> None:
    made = solve(weights, tokens).features
    assert torch.equal(made.half().float(), made)


def test_held_out_tokens_are_never_learnt_from(weights: WeightStore, tokens: list[Tensor]) -> None:
    corrupt = [torch.full_like(t, 9) if i in HELDOUT else t for i, t in enumerate(tokens)]
    first, second = solve(weights, tokens), solve(weights, corrupt)
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.decoder.weight, second.decoder.weight)
    assert torch.equal(first.basis.basis, second.basis.basis)
    third = solve(weights, corrupt, [*TRAIN, 5])
    assert not torch.equal(first.features, third.features)


def test_a_wider_dimension_explains_more(weights: WeightStore, tokens: list[Tensor]) -> None:
    narrow, wide, full = (solve(weights, tokens, dim=d) for d in (2, 6, 30))
    assert narrow.basis.explained < wide.basis.explained < 1
    assert full.basis.explained == pytest.approx(1)
    assert full.features.shape == (300, 30)
    assert torch.equal(full.features[:, 24:], torch.zeros(300, 6))


def test_heldout_figures_by_hand(cameras: Cameras, weights: WeightStore) -> None:
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
    gaussians: Gaussians, cameras: Cameras, weights: WeightStore, tokens: list[Tensor]
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


def test_paper_schedule_computes_kept_weights_once(
    gaussians: Gaussians, cameras: Cameras, tokens: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(*args: Any) -> ViewWeights:
        calls.append(1)
        return view_weights(*args)

    monkeypatch.setattr(paper, "view_weights", counted)

    def run(memory: int) -> tuple[Tensor, int]:
        calls.clear()
        settings = features(paper_iterations=14, paper_lr=1e-2)
        lifted = lift_by_adam(
            gaussians, cameras, tokens, TRAIN, settings, 0, ignore, "", budget=memory
        )
        return lifted.features, len(calls)

    (anew, each), (kept, once) = run(0), run(64 << 20)
    assert (each, once) == (14, 6)
    assert torch.equal(anew, kept)
