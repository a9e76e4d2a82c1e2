"""Which scene, which photos: checked, nothing rendered."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fit3d_cli.archive import read_archive, read_manifest
from fit3d_cli.capture.base import Capture, View
from fit3d_cli.capture.read import capture_digest, is_capture, read_capture
from fit3d_cli.errors import CaptureError
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.scene import FeatureSource, Scene
from fit3d_cli.workspace import Workspace

TargetKind = Literal["archive", "relifted", "denoised"]

# Raised whenever the same inputs would give other cached bytes.
_VERSION = 3


@dataclass(frozen=True)
class SceneTargets:
    """What the views of one scene are pulled to: names of files, no pixels and no Gaussians.

    Attributes:
        name: Scene name.
        archive: Its ``.f3d``.
        folder: Where everything that is prepared for it lies.
        path: Cache file of the maps: ``v<i>`` is ``[h, w, c + 1]`` float16 of photo i, ``n<i>``
            that of rendered view i; the last channel is coverage.
        views: All views of the archive, in its order.
        cameras: One per view, at the size of the pictures that the backbone sees.
        train: Indices to learn from.
        heldout: Indices to measure on.
        source: Backbone and picture size.
        digest: Digest of the archive's tensors and of the capture that it was lifted from.
        kind: What the maps hold: the archive's features, which a decoder turns into tokens, or
            tokens.
        min_alpha: Samples trust no token below this coverage.
        novel: Rendered views; they are numbered after the photos.
        pictures: Cache file of the rendered views, None without any.
        depths: Cache file of the depth of every view, None if none was asked for.
    """

    name: str
    archive: Path
    folder: Path
    path: Path
    views: tuple[View, ...]
    cameras: Cameras
    train: tuple[int, ...]
    heldout: tuple[int, ...]
    source: FeatureSource
    digest: str
    kind: TargetKind = "archive"
    min_alpha: float = 0.5
    novel: int = 0
    pictures: Path | None = None
    depths: Path | None = None

    def cached(self, what: str, *parts: object) -> Path:
        """The cache file of ``what``, named by this scene's digest and by ``parts``."""
        text = json.dumps([_VERSION, self.digest, what, *parts])
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"


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
    scene = read_archive(archive)
    identity = json.dumps([
        _VERSION, scene.capture_digest,
        sorted((name, tensor.sha256) for name, tensor in manifest.tensors.items()),
    ])  # fmt: skip
    folder = place.cache_dir / "targets"
    found = SceneTargets(
        scene.name,
        archive,
        folder,
        folder,
        _find_capture(scene, place, captures).views,
        scene.cameras.resized(scene.source.width, scene.source.height),
        tuple(scene.views(heldout=False)),
        tuple(scene.views(heldout=True)),
        scene.source,
        hashlib.sha256(identity.encode()).hexdigest(),
    )
    return replace(found, path=found.cached("maps", "archive", 0))


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
