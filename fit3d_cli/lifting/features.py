"""Tokens in, features and decoder out, on frozen geometry."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.backbones.cache import TokenCache, TokenItem, image_digest, tokens_for
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.capture.base import Capture, View
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.decoders import Decoder, solve_decoder
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.lifting.solve import TokenBasis, conjugate_gradients, fit_basis, weighted_average
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.settings import FeatureSettings
from fit3d_cli.splat.rasterize import TokenWeights, view_weights


@dataclass(frozen=True)
class Lifted:
    """The result of lifting.

    Attributes:
        features: ``[N, d]``.
        decoder: ``d -> C``.
        basis: PCA of the training tokens.
    """

    features: Tensor
    decoder: Decoder
    basis: TokenBasis


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
) -> list[Tensor]:
    """``[h, w, C]`` float16 tokens of every view, from the cache where they are there."""
    return tokens_for(
        backbone,
        token_items(capture.views, size),
        cache=cache,
        batch=batch,
        device=device,
        on_step=lambda done, total: on_event(Progress(stage, done, total)),
    )


def token_weights(
    gaussians: Gaussians,
    cameras: Cameras,
    grid: tuple[int, int],
    on_event: OnEvent,
    stage: str,
) -> list[TokenWeights]:
    """``A_v`` of every camera: blending weights averaged over each token's patch.

    Args:
        gaussians: Frozen geometry.
        cameras: At the size that the backbone saw, a multiple of the grid.
        grid: ``(h, w)`` tokens.
        on_event: Told about each view.
        stage: Name of the stage in events.
    """
    weights = []
    for index in range(len(cameras)):
        on_event(Progress(stage, index, len(cameras)))
        width, height = cameras.sizes[index].tolist()
        view = view_weights(
            gaussians, cameras.viewmats[index], cameras.Ks[index], int(width), int(height)
        )
        weights.append(view.pool(*grid, "box"))
    on_event(Progress(stage, len(cameras), len(cameras)))
    return weights


def solve_features(
    weights: list[TokenWeights],
    tokens: list[Tensor],
    train: list[int],
    settings: FeatureSettings,
    on_event: OnEvent,
    stage: str,
) -> Lifted:
    """PCA basis, weighted average, a few CG steps, then the decoder by ridge regression.

    Args:
        weights: ``A_v`` per view.
        tokens: ``[h, w, C]`` per view.
        train: Indices of the views to learn from.
        settings: Solver and dimension.
        on_event: Told about the steps.
        stage: Name of the stage in events.
    """
    seen = [tokens[i].float() for i in train]
    used = [weights[i] for i in train]
    basis = fit_basis(seen, settings.dim)
    codes = [basis.encode(y) for y in seen]
    features = weighted_average(used, codes)
    if settings.solver == "cg":
        features = conjugate_gradients(
            used,
            codes,
            features,
            iterations=settings.cg_iterations,
            damping=settings.cg_lambda,
            on_step=lambda step, _: on_event(Progress(stage, step, settings.cg_iterations)),
        )
    # The archive keeps half precision: the decoder is fitted to what will be read back.
    features = features.half().float()
    decoder = solve_decoder(
        (
            (a.apply(features)[None], y[None], a.row_sums[None])
            for a, y in zip(used, seen, strict=True)
        ),
        basis.basis,
        basis.mean,
        ridge=settings.ridge,
    )
    return Lifted(features, decoder, basis)


def heldout_features(
    lifted: Lifted,
    weights: list[TokenWeights],
    tokens: list[Tensor],
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
        rendered = weights[index].apply(lifted.features)
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
        coverage = float(weights[index].row_sums.mean())
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
