"""FiT3D's own schedule: features and decoder by joint Adam, for comparison.

Per step one random view: render the features at full resolution, decode with a 3x3 convolution
without bias, L1 against the bilinearly upsampled tokens (Yue et al. 2024, train_feat_gaussian.py:
zero-initialised features, learning rate 6.25e-5 for both, eps 1e-15). Geometry is frozen, as
everywhere here; in the paper feature gradients do not reach it either.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fit3d_cli.decoders import Decoder
from fit3d_cli.device import seeded
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.lifting.basis import fit_basis
from fit3d_cli.lifting.features import Lifted
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.settings import FeatureSettings
from fit3d_cli.splat.weights import ViewWeights, view_weights

_BYTES_PER_LANE = 5  # of W: a weight, and an eighth of an entry's position, rounded up


def lift_by_adam(
    gaussians: Gaussians,
    cameras: Cameras,
    tokens: Sequence[Tensor],
    train: list[int],
    settings: FeatureSettings,
    seed: int,
    on_event: OnEvent,
    stage: str,
    *,
    budget: int = 1 << 30,
) -> Lifted:
    """Optimise features and decoder jointly.

    Args:
        gaussians: Frozen geometry, N Gaussians, on the device of the tokens.
        cameras: At the size that the backbone saw.
        tokens: ``[h, w, C]`` per view.
        train: Indices of the views to learn from.
        settings: ``paper_iterations``, ``paper_lr`` and ``dim``.
        seed: Decides the view order and the decoder's start.
        on_event: Told about the steps.
        stage: Name of the stage in events.
        budget: Bytes of blending weights kept in memory; the rest is computed anew.
    """
    channels = int(tokens[0].shape[-1])
    with seeded(seed) as generator:
        decoder = torch.nn.Conv2d(settings.dim, channels, 3, padding=1, bias=False)
    decoder = decoder.to(gaussians.means.device)
    features = torch.nn.Parameter(gaussians.means.new_zeros(len(gaussians), settings.dim))
    optimizer = torch.optim.Adam(
        [features, *decoder.parameters()], lr=settings.paper_lr, eps=1e-15, fused=True
    )
    order: list[int] = []
    kept: dict[int, ViewWeights] = {}
    room = budget
    for step in range(settings.paper_iterations):
        if not order:
            order = [train[i] for i in torch.randperm(len(train), generator=generator).tolist()]
        index = order.pop()
        width, height = map(int, cameras.sizes[index].tolist())
        weights = kept.get(index)
        if weights is None:
            weights = view_weights(
                gaussians, cameras.viewmats[index], cameras.Ks[index], width, height
            )
            # Geometry is frozen: what fits is computed once. The oldest are kept, as every view
            # comes once per round.
            if room >= (size := _BYTES_PER_LANE * weights.nnz):
                kept[index] = weights
                room -= size
        target = torch.nn.functional.interpolate(
            tokens[index].float().permute(2, 0, 1)[None], (height, width), mode="bilinear"
        )
        rendered = weights.apply(features)
        decoded = decoder(rendered.permute(2, 0, 1)[None])
        loss = (decoded - target).abs().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 10 == 0:
            note = f"L1 {float(loss.detach()):.4f}"
            on_event(Progress(stage, step, settings.paper_iterations, note))
    basis = fit_basis((tokens[i] for i in train), settings.dim)
    # Averaging over a patch commutes with the convolution but for the patch's one-pixel rim, so on
    # the token grid the three-pixel-wide filter is the sum of its taps.
    weight = features.new_zeros(channels, settings.dim, 3, 3)
    weight[:, :, 1, 1] = decoder.weight.detach().sum((2, 3))
    return Lifted(
        features.detach().half().float(), Decoder(weight, features.new_zeros(channels)), basis
    )
