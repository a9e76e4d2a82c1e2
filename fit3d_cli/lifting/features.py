"""Tokens in, features and decoder out, on frozen geometry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.backbones.cache import TokenCache, TokenItem, image_digest
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.token_store import Patches, TokenStore
from fit3d_cli.capture.base import Capture, View
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.decoders import Decoder, solve_decoder
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.lifting.basis import TokenBasis, fit_basis
from fit3d_cli.lifting.choose import Choice
from fit3d_cli.lifting.onethread import one_thread
from fit3d_cli.lifting.solving import Clock, decide, solve
from fit3d_cli.lifting.stacked import Stacked, StoredBlocks, StoredRows
from fit3d_cli.lifting.store import WeightStore
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.settings import FeatureSettings
from fit3d_cli.splat.weights import TokenWeights, view_token_weights
from fit3d_cli.tensorfile.overflow import Overflow

_HALF = 60_000.0  # half precision ends at 65,504
_HINT = "make room there, or raise --set lift.memory"


@dataclass(frozen=True)
class Lifted:
    """The result of lifting.

    Attributes:
        features: ``[N, d]``.
        decoder: ``d -> C``.
        basis: PCA of the training tokens.
        choice: How the features were solved; None if they were not solved in closed form.
        seconds: Wall time of ``basis``, ``choose``, ``solve`` and ``decoder``.
    """

    features: Tensor
    decoder: Decoder
    basis: TokenBasis
    choice: Choice | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


def token_items(views: tuple[View, ...], size: tuple[int, int]) -> list[TokenItem]:
    """What the token cache needs to know of each view, undistorted and resized to ``size``."""

    def item(view: View) -> TokenItem:
        recipe = ""
        if view.distortion is not None:
            numbers = [float(x).hex() for x in view.K.flatten().tolist()]
            recipe = f"undistort {view.distortion.model} {view.distortion.params} {numbers}"
        return TokenItem(
            image_digest(view.image_path, recipe),
            size,
            lambda: load_frame(view, *size, depth=False).image,
        )

    return [item(view) for view in views]


def view_tokens(
    capture: Capture,
    backbone: Backbone,
    size: tuple[int, int],
    *,
    cache: TokenCache,
    batch: int,
    device: str | torch.device,
    on_event: OnEvent,
    stage: str,
    wanted: str | torch.device = "cpu",
    budget: int = 1 << 30,
) -> Sequence[Tensor]:
    """``[h, w, C]`` float16 tokens of every view, from the cache where they are there.

    Args:
        capture: The capture.
        backbone: On ``device``.
        size: ``(width, height)`` of what it sees.
        cache: Where they are looked for and stored.
        batch: Views per forward pass.
        device: Where the backbone is.
        on_event: Told about each view.
        stage: Name of the stage in events.
        wanted: Where the tokens are wanted; they are brought there when they are asked for.
        budget: Bytes of tokens kept in memory; the others are read from the cache again.
    """
    store = TokenStore(
        backbone,
        token_items(capture.views, size),
        cache=cache,
        batch=batch,
        device=device,
        on_step=lambda done, total: on_event(Progress(stage, done, total)),
        memory=budget,
    )
    return Patches(store, wanted)


def token_weights(
    gaussians: Gaussians,
    cameras: Cameras,
    grid: tuple[int, int],
    on_event: OnEvent,
    stage: str,
    *,
    views: Sequence[int] | None = None,
    apart: Sequence[int] = (),
    budget: int = 1 << 30,
    folder: Path | None = None,
) -> WeightStore:
    """``A_v`` of every camera: blending weights averaged over each token's patch.

    Args:
        gaussians: Frozen geometry.
        cameras: At the size that the backbone saw, a multiple of the grid.
        grid: ``(h, w)`` tokens.
        on_event: Told about each view.
        stage: Name of the stage in events.
        views: Which of the cameras; None is all.
        apart: Views that the solver will not pass over: they are kept out of the others' blocks.
        budget: Bytes of weights kept in memory; the rest lies in a temporary file.
        folder: Where that file lies; None is the system's place.

    Raises:
        StorageError: There is no room for the temporary file.
    """
    store = WeightStore(budget=budget, folder=folder)
    wanted = range(len(cameras)) if views is None else views
    away = set(apart)
    order = sorted(wanted, key=lambda index: (index in away, index))
    for done, index in enumerate(order):
        on_event(Progress(stage, done, len(order)))
        if done and (index in away) != (order[done - 1] in away):
            store.cut()
        width, height = map(int, cameras.sizes[index].tolist())
        camera = (cameras.viewmats[index], cameras.Ks[index], width, height)
        store.put(index, view_token_weights(gaussians, *camera, *grid))
    store.cut()
    on_event(Progress(stage, len(order), len(order)))
    return store


def solve_features(
    weights: WeightStore,
    tokens: Sequence[Tensor],
    train: Sequence[int],
    settings: FeatureSettings,
    on_event: OnEvent,
    stage: str,
    *,
    budget: int = 1 << 30,
    folder: Path | None = None,
) -> Lifted:
    """PCA basis, weighted average, conjugate gradients, then the decoder by ridge regression.

    Args:
        weights: ``A_v`` per view.
        tokens: ``[h, w, C]`` per view.
        train: Indices of the views to learn from.
        settings: Solver and dimension.
        on_event: Told about the steps.
        stage: Name of the stage in events.
        budget: Bytes of codes kept in memory; the rest lies in a temporary file.
        folder: Where that file lies; None is the system's place.

    Raises:
        WeightsError: Tokens are not finite.
        StorageError: There is no room for the temporary file.
        ValueError: No views to learn from.
    """
    clock = Clock()
    basis = fit_basis((tokens[i] for i in train), settings.dim)
    blocks = StoredBlocks(weights, train)
    a = Stacked(blocks)
    # Views that share a block with others but are not to be learnt from weigh nothing.
    learnt = set(train)
    h, w = tokens[train[0]].shape[:2]
    grid, per_view = (h, w), h * w
    trust = torch.tensor([float(i in learnt) for i in blocks.views], device=a.device)
    trust = trust.repeat_interleave(per_view)[:, None]
    overflow = Overflow(folder, budget=budget, hint=_HINT)
    codes = StoredRows([
        overflow.keep(torch.cat([
            basis.encode(tokens[i].float()).reshape(per_view, -1).to(a.device)
            if i in learnt
            else torch.zeros(per_view, settings.dim, device=a.device)
            for i in members
        ]))
        for members in blocks.members
    ])  # fmt: skip
    clock.lap("basis")
    choice = decide(a, codes, trust, grid, settings, on_event, f"{stage}, validation", overflow)
    clock.lap("choose")
    features, trust = solve(a, codes, trust, choice, settings, on_event, stage)
    # The archive keeps half precision: the decoder is fitted to what will be read back. Undamped,
    # a Gaussian that was hardly seen may land beyond its range.
    features = features.clamp_(-_HALF, _HALF).half().float()
    del codes, overflow
    clock.lap("solve")
    with one_thread():
        decoder = solve_decoder(
            _rendered(blocks, tokens, learnt, features, trust),
            basis.basis.cpu(), basis.mean.cpu(),
            ridge=settings.ridge,
        )  # fmt: skip
    clock.lap("decoder")
    return Lifted(features, decoder, basis, choice, clock.seconds)


def _rendered(
    blocks: StoredBlocks,
    tokens: Sequence[Tensor],
    learnt: set[int],
    features: Tensor,
    trust: Tensor,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rendered features, tokens and the weight of each token, of the views to learn from.

    On the CPU, where the decoder's small double-precision system is solved.
    """
    ones = features.new_ones(len(features), 1)
    views, height = iter(blocks.views), tokens[blocks.views[0]].shape[0]
    begin = 0
    for index in range(len(blocks)):
        block = blocks[index]
        rendered, coverage = block.apply(features), block.apply(ones)[..., 0]
        coverage *= trust[begin : begin + block.h * block.w].view(block.h, block.w)
        begin += block.h * block.w
        row = 0
        while row < block.h:
            view = next(views)
            here = slice(row, row + height)
            row = here.stop
            if view in learnt:
                target = tokens[view].float()[None].cpu()
                yield rendered[here][None].cpu(), target, coverage[here][None].cpu()


def heldout_features(
    lifted: Lifted,
    weights: Sequence[TokenWeights],
    tokens: Sequence[Tensor],
    cameras: Cameras,
    heldout: list[int],
    train: list[int],
) -> dict[str, float]:
    """How well decoded renders match the backbone's own tokens on views that it never lifted.

    Beside the result stand two references on the same views. Ceiling: the rank-d PCA
    reconstruction of the view's own tokens. Floor: the tokens of the nearest training view at
    the same place of the grid. Every token counts, covered by Gaussians or not.

    Returns:
        Mean cosine and mean absolute error of each; ``coverage`` is the mean rendered alpha.
    """
    totals: dict[str, float] = {}
    for index in heldout:
        target = tokens[index].float()
        a = weights[index]
        rendered = a.apply(lifted.features).to(target.device)
        guesses = {
            "feature": lifted.decoder(rendered[None])[0],
            "ceiling": lifted.basis.decode(lifted.basis.encode(target)),
            "floor": tokens[_nearest_view(cameras, index, train)].float(),
        }
        for name, guess in guesses.items():
            cosine = torch.nn.functional.cosine_similarity(guess, target, dim=-1).mean()
            error = (guess - target).abs().mean()
            totals[f"{name}_cosine"] = totals.get(f"{name}_cosine", 0.0) + float(cosine)
            totals[f"{name}_l1"] = totals.get(f"{name}_l1", 0.0) + float(error)
        coverage = float(a.row_sums.mean())
        totals["coverage"] = totals.get("coverage", 0.0) + coverage
    return {name: total / len(heldout) for name, total in totals.items()}


def _nearest_view(cameras: Cameras, index: int, train: list[int]) -> int:
    """The training camera that is nearest in position and direction.

    One scene extent of distance weighs as much as a radian and a half of rotation.
    """
    centers, axes = cameras.centers, cameras.viewmats[:, 2, :3]
    distance = (centers[train] - centers[index]).norm(dim=1) / max(cameras.extent, 1e-9)
    angle = torch.acos((axes[train] @ axes[index]).clamp(-1, 1)) / 1.5
    return train[int((distance + angle).argmin())]
