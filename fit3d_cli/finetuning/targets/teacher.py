"""Tokens of photos from a teacher, on disk until they are averaged or kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backoff import Backoff
from fit3d_cli.capture.frames import Frame, load_frame
from fit3d_cli.errors import WeightsError
from fit3d_cli.finetuning.denoise import denoised_tokens
from fit3d_cli.finetuning.targets.cache import Made
from fit3d_cli.finetuning.targets.find import SceneTargets
from fit3d_cli.finetuning.upsample import upsample_tokens
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.tensorfile.overflow import Kept, KeptTable, Overflow

_BATCH = 4  # photos per forward pass


def teacher_tokens(
    targets: SceneTargets,
    teacher: Backbone,
    views: Sequence[int],
    factor: int,
    overflow: Overflow,
    on_event: OnEvent,
) -> tuple[list[Kept], list[Kept]]:
    """Tokens of some photos and how far each may be believed.

    Args:
        targets: Which scene.
        teacher: In evaluation mode, on its device.
        views: Photos.
        factor: The grid is refined by the photo this many times along each side.
        overflow: Where they lie.
        on_event: Told about each batch.

    Returns:
        For each photo ``[f h, f w, C]`` float16, and ``[f h, f w]`` float32 share of usable pixels.

    Raises:
        WeightsError: The tokens are not finite in half precision.
    """
    stage, device = f"{targets.name}: teacher", teacher.device
    tokens: list[Kept] = []
    trust: list[Kept] = []
    backoff = Backoff("pictures of the teacher", _BATCH, device)
    for begin in range(0, len(views), _BATCH):
        on_event(Progress(stage, begin, len(views)))
        frames = [photo(targets, view) for view in views[begin : begin + _BATCH]]
        images = torch.stack([frame.image for frame in frames]).permute(0, 3, 1, 2).contiguous()
        made = backoff.map(lambda some: list(_tokens(teacher, some)), list(images))
        for at, frame in enumerate(frames):
            grid = made[at]
            if factor > 1:
                grid = upsample_tokens(grid, images[at].to(device), factor)
            tokens.append(overflow.keep(_half(grid, teacher)))
            cell = targets.source.patch_size // factor
            share = torch.nn.functional.avg_pool2d(frame.mask.float()[None, None], cell)
            trust.append(overflow.keep(share[0, 0]))
    on_event(Progress(stage, len(views), len(views)))
    return tokens, trust


@torch.no_grad()
def _tokens(teacher: Backbone, images: Sequence[Tensor]) -> Tensor:
    return teacher.tokens(torch.stack(list(images)).to(teacher.device))


def denoised_maps(
    targets: SceneTargets, base: Backbone, shifts: int, overflow: Overflow, on_event: OnEvent
) -> Made:
    """The base's tokens of every photo, averaged over shifted and mirrored copies of it.

    Args:
        targets: Which scene.
        base: In evaluation mode, on its device.
        shifts: Shifted copies.
        overflow: Where the maps lie until they are written.
        on_event: Told about each photo.

    Returns:
        ``v<i>`` ``[h, w, C + 1]`` float16; the last channel is one, as no geometry is involved.

    Raises:
        WeightsError: The tokens are not finite in half precision.
    """
    stage, total = f"{targets.name}: denoised tokens", len(targets.views)
    maps: dict[str, Kept] = {}
    for index in range(total):
        on_event(Progress(stage, index, total))
        image = photo(targets, index).image.permute(2, 0, 1).contiguous()
        tokens = _half(denoised_tokens(base, image, shifts), base)
        whole = torch.cat([tokens, tokens.new_ones(*tokens.shape[:-1], 1)], dim=-1)
        maps[f"v{index}"] = overflow.keep(whole)
    on_event(Progress(stage, total, total))
    return KeptTable(maps), {}


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
