"""What the backbone should produce: lifted maps per view, rendered once, read view by view.

Gaussians are in memory only while the maps of their scene are rendered. Afterwards a scene is one
cache file with a small map per view and the decoder, so training needs memory for a batch,
however many scenes there are.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.archive import read_archive, read_manifest
from fit3d_cli.capture.base import Capture, View
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.capture.read import capture_digest, is_capture, read_capture
from fit3d_cli.decoders import Decoder
from fit3d_cli.errors import ArchiveError, CaptureError
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.scene import FeatureSource, Scene
from fit3d_cli.splat.weights import view_token_weights
from fit3d_cli.tensorfile import MODEL_LIMITS, read_sealed, read_tensors, write_sealed
from fit3d_cli.workspace import Workspace

_VERSION = 1


@dataclass(frozen=True)
class SceneTargets:
    """The rendered maps of one scene.

    Attributes:
        name: Scene name.
        archive: Its ``.f3d``.
        path: Cache file: ``v<i>`` is ``[h, w, d + 1]`` float16, the last channel is coverage.
        views: All views of the archive, in its order.
        train: Indices to learn from.
        heldout: Indices to measure on.
        source: Backbone and picture size.
        digest: Digest of the archive's content.
    """

    name: str
    archive: Path
    path: Path
    views: tuple[View, ...]
    train: tuple[int, ...]
    heldout: tuple[int, ...]
    source: FeatureSource
    digest: str


@dataclass(frozen=True)
class Sample:
    """One view to learn from.

    Attributes:
        image: ``[3, H, W]`` in 0..1.
        target: ``[h, w, C]`` decoded tokens.
        coverage: ``[h, w]`` mean alpha of each token's patch.
    """

    image: Tensor
    target: Tensor
    coverage: Tensor

    def flipped(self) -> Sample:
        """Mirrored left to right, after decoding: a 3x3 convolution does not commute with it."""
        return Sample(self.image.flip(2), self.target.flip(1), self.coverage.flip(1))


def find_targets(archive: Path, place: Workspace, captures: list[Path]) -> SceneTargets:
    """A scene and its photos, all checked; nothing is rendered or written.

    Args:
        archive: A ``.f3d``.
        place: Workspace with the cache and the remembered captures.
        captures: ``--captures`` directories, searched before the workspace's memory.

    Raises:
        ArchiveError: The archive is damaged.
        CaptureError: Its photos are not there, or not the ones it was lifted from.
    """
    manifest = read_manifest(archive)
    identity = json.dumps(
        [_VERSION, sorted((name, t.sha256) for name, t in manifest.tensors.items())]
    )
    digest = hashlib.sha256(identity.encode()).hexdigest()
    scene = read_archive(archive)
    return SceneTargets(
        scene.name,
        archive,
        place.cache_dir / "targets" / f"{digest}.safetensors",
        _find_capture(scene, place, captures).views,
        tuple(scene.views(heldout=False)),
        tuple(scene.views(heldout=True)),
        scene.source,
        digest,
    )


def render_targets(
    targets: SceneTargets, on_event: OnEvent, device: torch.device | str = "cpu"
) -> None:
    """Render the maps of a scene, unless they are cached.

    Args:
        targets: Which scene.
        on_event: Told about each view.
        device: Where its Gaussians are splatted.

    Raises:
        StorageError: The disk refused.
    """
    if not _complete(targets.path, len(targets.views)):
        _render(read_archive(targets.archive).to(device), targets.path, on_event)


def load_sample(targets: SceneTargets, index: int) -> Sample:
    """Read the photo and the map of one view and decode the map."""
    tensors, _ = read_tensors(
        targets.path, [f"v{index}", "dec.weight", "dec.bias"], limits=MODEL_LIMITS
    )
    decoder = Decoder(tensors["dec.weight"], tensors["dec.bias"])
    maps = tensors[f"v{index}"].float()
    source = targets.source
    frame = load_frame(targets.views[index], source.width, source.height, depth=False)
    coverage = maps[..., -1] * _covered(frame.mask, source)
    return Sample(
        frame.image.permute(2, 0, 1).contiguous(), decoder(maps[None, ..., :-1])[0], coverage
    )


def _covered(mask: Tensor, source: FeatureSource) -> Tensor:
    """Share of usable pixels in each token's patch, ``[h, w]``."""
    pooled = torch.nn.functional.avg_pool2d(mask.float()[None, None], source.patch_size)
    return pooled[0, 0]


def _render(scene: Scene, path: Path, on_event: OnEvent) -> None:
    source = scene.source
    cameras = [
        scene.cameras[i].resized(source.width, source.height) for i in range(len(scene.cameras))
    ]
    maps: dict[str, Tensor] = {"dec.weight": scene.decoder.weight, "dec.bias": scene.decoder.bias}
    for index, camera in enumerate(cameras):
        on_event(Progress(f"{scene.name}: targets", index, len(cameras)))
        weights = view_token_weights(
            scene.gaussians, camera.viewmats[0], camera.Ks[0], source.width, source.height,
            *source.grid,
        )  # fmt: skip
        rendered = torch.cat([weights.apply(scene.features), weights.row_sums[..., None]], dim=-1)
        maps[f"v{index}"] = rendered.half().cpu()
    on_event(Progress(f"{scene.name}: targets", len(cameras), len(cameras)))
    write_sealed(path, maps, {"views": str(len(cameras))})


def _complete(path: Path, views: int) -> bool:
    if not path.is_file():
        return False
    try:
        _, metadata = read_sealed(path)
    except ArchiveError:
        return False
    return metadata.get("views") == str(views)


def _find_capture(scene: Scene, place: Workspace, captures: list[Path]) -> Capture:
    """The views of the archive, in its order, after proving that the photos are the same."""
    candidates = [p / scene.name for p in captures] + [p for p in captures if p.name == scene.name]
    if len(captures) == 1:
        candidates.append(captures[0])
    reader = str(scene.provenance.get("reader", ""))
    found = [path for path in candidates if is_capture(path, reader)]
    try:
        root = found[0] if found else place.capture_dir(scene.name)
    except CaptureError as error:
        if not captures:
            raise
        raise CaptureError(
            f"the capture of scene {scene.name!r} is not here",
            where=captures[0],
            hint="name it, or the folder that holds it, with --captures",
        ) from error
    capture = read_capture(root, reader, scene.name)
    known = {view.name: view for view in capture.views}
    missing = [name for name in scene.names if name not in known]
    if missing:
        raise CaptureError(
            f"{len(missing)} photos of the scene are missing, e.g. {missing[0]}",
            where=root,
            hint="say where the scene's photos lie with --captures DIR",
        )
    capture = replace(capture, views=tuple(known[name] for name in scene.names))
    if capture_digest(capture) != scene.capture_digest:
        raise CaptureError(
            f"these are not the photos and cameras that {scene.name} was lifted from",
            where=root,
            hint="run fit3d lift on them again, or name the right ones with --captures DIR",
        )
    return capture
