"""Photos beside the features of the base and the tuned model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fit3d_cli import viz
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.errors import CaptureError, SettingsError
from fit3d_cli.images import read_image, resize_image
from fit3d_cli.scene import Scene
from fit3d_cli.viewer.photos import Photos
from fit3d_cli.workspace import Workspace


def test_photo_base_and_tuned_in_shared_colours(scene: Scene, home: Path) -> None:
    photos = Photos(scene, Workspace(home))
    assert photos.available and not photos.remark
    shown = photos.pictures(2)
    assert [label for label, _ in shown] == ["photo", "base: base", "tuned: tuned"]
    folder = Workspace(home).capture_dir("walls")
    stored = read_image(folder / scene.names[2])
    assert np.array_equal(shown[0][1], stored)
    # The same basis for both, found on the first, second and third photo of either model.
    models = [load_backbone(str(home / "base")), load_backbone(str(home / "models/tuned"))]
    images = [resize_image(read_image(folder / name), 96, 64) for name in scene.names]
    with torch.no_grad():
        tokens = [
            [model.tokens(image.permute(2, 0, 1)[None])[0] for image in images] for model in models
        ]
    basis = viz.fit_pca([torch.cat([t.flatten(0, 1) for t in maps[:3]]) for maps in tokens])
    for (_, picture), maps in zip(shown[1:], tokens, strict=True):
        expected = viz.to_uint8(viz.upsample(basis(maps[2]), 64, 96))
        assert int(np.abs(picture.astype(int) - expected.astype(int)).max()) <= 1
    assert not np.array_equal(shown[1][1], shown[2][1])
    assert photos.pictures(2) is shown  # once is enough


def test_without_capture(scene: Scene, tmp_path: Path) -> None:
    photos = Photos(scene, Workspace(tmp_path))
    assert not photos.available
    assert "--captures DIR" in photos.remark and "\n" not in photos.remark
    with pytest.raises(CaptureError):
        Photos(scene, Workspace(tmp_path), captures=tmp_path / "nowhere")


def test_which_tuned_model(scene: Scene, home: Path, tmp_path: Path) -> None:
    named = Photos(scene, Workspace(home), tuned="tuned")
    assert len(named.pictures(0)) == 3
    # The newest model was tuned from another base: it is not shown unless it is named.
    other = replace(scene, source=replace(scene.source, weights_sha256="1" * 64))
    assert Photos(other, Workspace(home))._tuned is None
    assert Photos(other, Workspace(home), tuned=str(home / "models/tuned"))._tuned is not None
    with pytest.raises(SettingsError, match="--tuned"):
        Photos(scene, Workspace(home), tuned=str(tmp_path))
