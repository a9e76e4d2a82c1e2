"""Which scene, which photos: checked, nothing rendered."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fit3d_cli.archive import read_archive, read_manifest
from fit3d_cli.archive.photos import scene_capture
from fit3d_cli.capture.base import View
from fit3d_cli.errors import ArchiveError
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.scene import FeatureSource
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

    @property
    def places(self) -> object:
        """What tells this scene's rendered views from others of it, for ``cached``.

        Their number does not: which places are taken depends on how many were wanted.
        """
        return self.pictures.stem if self.pictures is not None else 0

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
        ArchiveError: The archive is damaged, or has no views to learn from.
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
        scene_capture(scene, place, captures).views,
        scene.cameras.resized(scene.source.width, scene.source.height),
        tuple(scene.views(heldout=False)),
        tuple(scene.views(heldout=True)),
        scene.source,
        hashlib.sha256(identity.encode()).hexdigest(),
    )
    if not found.train:
        raise ArchiveError("all of its views are held out", where=archive,
                           hint="lift the capture again, with fewer")  # fmt: skip
    return replace(found, path=found.cached("maps", "archive", 0))
