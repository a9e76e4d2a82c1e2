"""Reading one view at a time: no pixel is kept, so memory does not grow with the scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.capture.frames import load_frame
from fit3d_cli.decoders import Decoder
from fit3d_cli.errors import ArchiveError
from fit3d_cli.finetuning.batch import Sample
from fit3d_cli.finetuning.targets.find import SceneTargets
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.scene import FeatureSource
from fit3d_cli.shapes import check_dims
from fit3d_cli.tensorfile import MODEL_LIMITS, Headers, open_tensors

_DECODER = ("dec.weight", "dec.bias")
# Where the maps lie in the files used last: some 350 bytes each, 35 MB at most. Finding a map
# anew in a file of 300 views costs more than reading it.
_HEADERS = Headers(100_000)


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
    tensors = _read(targets.path, names)
    maps = tensors[name].float()
    target = maps[..., :-1]
    if decoded:
        target = Decoder(tensors["dec.weight"], tensors["dec.bias"])(target[None])[0]
    if novel < 0:
        frame = load_frame(targets.views[index], source.width, source.height, depth=False)
        image, mask = frame.image, token_mask(frame.mask, source)
    else:
        assert targets.pictures is not None
        picture = _read(targets.pictures, [f"p{novel}"])[f"p{novel}"]
        image, mask = picture.float() / 255, torch.ones(source.grid)
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
    depth = _read(targets.depths, [f"d{index}"])[f"d{index}"]
    height, width = depth.shape
    return DepthView(depth, targets.cameras[index].resized(width, height))


def _read(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Some tensors of a cache file.

    Raises:
        ArchiveError: It was damaged since the training began.
    """
    try:
        with open_tensors(path, limits=MODEL_LIMITS, headers=_HEADERS) as file:
            return {name: file.read(name) for name in names}
    except ArchiveError as error:
        raise ArchiveError(
            error.what, where=path, hint="run the same command again: it makes the file anew"
        ) from error


def token_mask(mask: Tensor, source: FeatureSource) -> Tensor:
    """Share of usable pixels in each token's patch: ``[H, W]`` bool to ``[h, w]``."""
    pooled = torch.nn.functional.avg_pool2d(mask.float()[None, None], source.patch_size)
    return pooled[0, 0]
