"""Reading one view at a time: nothing is kept, so memory does not grow with the scenes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.capture.frames import load_frame
from fit3d_cli.decoders import Decoder
from fit3d_cli.finetuning.batch import Sample
from fit3d_cli.finetuning.targets.find import SceneTargets
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.scene import FeatureSource
from fit3d_cli.shapes import check_dims
from fit3d_cli.tensorfile import MODEL_LIMITS, read_tensors

_DECODER = ("dec.weight", "dec.bias")


@dataclass(frozen=True)
class DepthView:
    """What correspondences need of one view.

    Attributes:
        depth: ``[h, w]`` float32 along the optical axis in world units, 0 = unknown or masked.
        camera: The view's one camera at this size.
    """

    depth: Tensor
    camera: Cameras

    def __post_init__(self) -> None:
        check_dims(depth=(self.depth, "h w"), viewmats=(self.camera.viewmats, "1 4 4"))


def load_sample(targets: SceneTargets, index: int) -> Sample:
    """Read the picture and the map of one view and decode the map where it is encoded.

    Args:
        targets: A prepared scene.
        index: A photo below ``len(views)``; from there on a rendered view.

    Raises:
        IndexError: No such view.
        ArchiveError: The cache file is gone or damaged.
        ImageError: The photo is gone or damaged.
    """
    source, novel = targets.source, index - len(targets.views)
    if index < 0 or novel >= targets.novel:
        raise IndexError(f"view {index} of {len(targets.views)} photos, {targets.novel} rendered")
    name = f"v{index}" if novel < 0 else f"n{novel}"
    decoded = targets.kind == "archive"
    names = [name, *_DECODER] if decoded else [name]
    tensors, _ = read_tensors(targets.path, names, limits=MODEL_LIMITS)
    maps = tensors[name].float()
    target = maps[..., :-1]
    if decoded:
        target = Decoder(tensors["dec.weight"], tensors["dec.bias"])(target[None])[0]
    if novel < 0:
        frame = load_frame(targets.views[index], source.width, source.height, depth=False)
        image, mask = frame.image, token_mask(frame.mask, source)
    else:
        assert targets.pictures is not None
        pictures, _ = read_tensors(targets.pictures, [f"p{novel}"], limits=MODEL_LIMITS)
        image, mask = pictures[f"p{novel}"].float() / 255, torch.ones(source.grid)
    weight = maps[..., -1] * mask
    return Sample(
        image.permute(2, 0, 1).contiguous(),
        target.contiguous(),
        torch.where(weight >= targets.min_alpha, weight, 0.0),
        mask,
    )


def load_depth(targets: SceneTargets, index: int) -> DepthView:
    """Read the depth of one photo, the capture's or the scene's as the settings chose.

    It has half the picture's resolution, several cells to a token.

    Args:
        targets: A scene prepared with ``depths``.
        index: A photo.

    Raises:
        ValueError: The scene was prepared without depths.
        IndexError: No such photo.
        ArchiveError: The cache file is gone or damaged.
    """
    if targets.depths is None:
        raise ValueError(f"scene {targets.name} was prepared without depths")
    if not 0 <= index < len(targets.views):
        raise IndexError(f"view {index} of {len(targets.views)} photos")
    tensors, _ = read_tensors(targets.depths, [f"d{index}"], limits=MODEL_LIMITS)
    depth = tensors[f"d{index}"]
    height, width = depth.shape
    return DepthView(depth, targets.cameras[index].resized(width, height))


def token_mask(mask: Tensor, source: FeatureSource) -> Tensor:
    """Share of usable pixels in each token's patch: ``[H, W]`` bool to ``[h, w]``."""
    pooled = torch.nn.functional.avg_pool2d(mask.float()[None, None], source.patch_size)
    return pooled[0, 0]
