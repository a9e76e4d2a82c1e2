"""Tokens of photos from a teacher, on disk until they are averaged or kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fit3d_cli.backbones.model import Backbone
from fit3d_cli.capture.frames import Frame, load_frame
from fit3d_cli.errors import WeightsError
from fit3d_cli.finetuning.denoise import denoised_tokens
from fit3d_cli.finetuning.targets.cache import Made
from fit3d_cli.finetuning.targets.find import SceneTargets
from fit3d_cli.finetuning.targets.scratch import Scratch
from fit3d_cli.finetuning.upsample import upsample_tokens
from fit3d_cli.progress import OnEvent, Progress

_BATCH = 4  # photos per forward pass


def teacher_tokens(
    targets: SceneTargets,
    teacher: Backbone,
    views: Sequence[int],
    factor: int,
    scratch: Scratch,
    on_event: OnEvent,
) -> tuple[Tensor, Tensor]:
    """Tokens of some photos and how far each may be believed.

    Args:
        targets: Which scene.
        teacher: In evaluation mode, on its device.
        views: Photos.
        factor: The grid is refined by the photo this many times along each side.
        scratch: Where they lie.
        on_event: Told about each batch.

    Returns:
        ``[P, f h, f w, C]`` float16, and ``[P, f h, f w]`` float32 share of usable pixels.

    Raises:
        WeightsError: The tokens are not finite in half precision.
    """
    stage, device = f"{targets.name}: teacher", teacher.device
    rows, columns = (factor * side for side in targets.source.grid)
    shape = (len(views), rows, columns)
    tokens = scratch.zeros(*shape, teacher.dim, dtype=torch.float16)
    trust = scratch.zeros(*shape, dtype=torch.float32)
    for begin in range(0, len(views), _BATCH):
        on_event(Progress(stage, begin, len(views)))
        frames = [photo(targets, view) for view in views[begin : begin + _BATCH]]
        images = torch.stack([frame.image for frame in frames]).permute(0, 3, 1, 2).contiguous()
        with torch.no_grad():
            made = teacher.tokens(images.to(device))
        for at, frame in enumerate(frames):
            grid = made[at]
            if factor > 1:
                grid = upsample_tokens(grid, images[at].to(device), factor)
            tokens[begin + at] = _half(grid, teacher)
            cell = targets.source.patch_size // factor
            share = torch.nn.functional.avg_pool2d(frame.mask.float()[None, None], cell)
            trust[begin + at] = share[0, 0]
    on_event(Progress(stage, len(views), len(views)))
    return tokens, trust


def denoised_maps(
    targets: SceneTargets, base: Backbone, shifts: int, scratch: Scratch, on_event: OnEvent
) -> Made:
    """The base's tokens of every photo, averaged over shifted and mirrored copies of it.

    Args:
        targets: Which scene.
        base: In evaluation mode, on its device.
        shifts: Shifted copies.
        scratch: Where the maps lie until they are written.
        on_event: Told about each photo.

    Returns:
        ``v<i>`` ``[h, w, C + 1]`` float16; the last channel is one, as no geometry is involved.

    Raises:
        WeightsError: The tokens are not finite in half precision.
    """
    stage, total = f"{targets.name}: denoised tokens", len(targets.views)
    maps: dict[str, Tensor] = {}
    for index in range(total):
        on_event(Progress(stage, index, total))
        image = photo(targets, index).image.permute(2, 0, 1).contiguous()
        tokens = _half(denoised_tokens(base, image, shifts), base)
        kept = scratch.zeros(*targets.source.grid, base.dim + 1, dtype=torch.float16)
        kept[..., :-1], kept[..., -1] = tokens, 1
        maps[f"v{index}"] = kept
    on_event(Progress(stage, total, total))
    return maps, {}


def photo(targets: SceneTargets, index: int) -> Frame:
    """One photo at the size that the backbone sees."""
    source = targets.source
    return load_frame(targets.views[index], source.width, source.height, depth=False)


def _half(tokens: Tensor, backbone: Backbone) -> Tensor:
    half = tokens.half().cpu()
    if not bool(torch.isfinite(half).all()):
        raise WeightsError(
            "the tokens are not finite in half precision",
            where=backbone.name,
            hint="the weights are damaged or diverged: use others, or a smaller finetune.lr",
        )
    return half
