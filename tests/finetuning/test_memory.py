"""What training keeps in memory does not depend on how many scenes there are."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fit3d_cli.archive import read_archive, write_archive
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.capture.read import capture_digest, read_capture
from fit3d_cli.finetuning.finetune import finetune
from fit3d_cli.finetuning.targets import (
    SceneTargets,
    find_targets,
    load_depth,
    load_sample,
    prepare_targets,
)
from fit3d_cli.progress import Progress, ignore
from fit3d_cli.settings import FinetuneSettings
from fit3d_cli.tensorfile import read_tensors
from fit3d_cli.workspace import Workspace

SCENES, VIEWS = 32, 3
# What one view would cost if it were kept: a map of 6 x 8 tokens with 25 half-precision channels,
# and a depth map of 24 x 32.
VIEW_BYTES = 6 * 8 * 25 * 2 + 24 * 32 * 4


@pytest.fixture(scope="module")
def base(backbone_dir: Path) -> Backbone:
    return load_backbone(str(backbone_dir))


@pytest.fixture(scope="module")
def many(home: Path, backbone_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with 32 archives: some views of one scene under different names."""
    root = tmp_path_factory.mktemp("many")
    place, scene = Workspace(root), read_archive(home / "out" / "scenes" / "hall.f3d")
    capture = read_capture(home / "captures" / "hall")
    some = replace(capture, views=capture.views[:VIEWS])
    place.remember_backbone(scene.source.weights_sha256, str(backbone_dir))
    for number in range(SCENES):
        changed = replace(
            scene,
            name=f"hall{number:02}",
            # Other features, so that no two archives share their cached maps.
            features=scene.features + number / 100,
            names=scene.names[:VIEWS],
            cameras=scene.cameras[:VIEWS],
            heldout=torch.tensor([False, False, True]),
            capture_digest=capture_digest(some),
        )
        write_archive(place.scene_path(changed.name), changed)
        place.remember_capture(changed.name, capture.root)
    return root


@pytest.fixture(scope="module")
def found(many: Path) -> list[SceneTargets]:
    place = Workspace(many)
    return [find_targets(path, place, []) for path in place.scene_paths()]


def live() -> int:
    """Bytes of all tensors and arrays that Python can reach, each storage once."""
    gc.collect()
    storages = {}
    for item in gc.get_objects():
        if issubclass(type(item), torch.Tensor):  # isinstance would wake lazy modules
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def growth(scenes: list[SceneTargets], read: Callable[[SceneTargets, int], object]) -> int:
    """How much more is live after every view of every scene was read than after the first's."""
    for view in range(VIEWS):
        read(scenes[0], view)
    before = live()
    for scene in scenes[1:]:
        for view in range(VIEWS):
            read(scene, view)
    return live() - before


def prepare(scene: SceneTargets, base: Backbone, source: str = "archive") -> SceneTargets:
    settings = FinetuneSettings.model_validate({"targets": {"source": source}})
    place = Workspace(scene.folder.parent.parent)
    return prepare_targets(scene, settings, base, place, "cpu", ignore, depths=True)


@pytest.mark.parametrize("source", ["archive", "relifted"])
def test_preparing_and_reading_many_scenes_keeps_nothing(
    found: list[SceneTargets], base: Backbone, source: str
) -> None:
    assert len(found) == SCENES
    scenes = [prepare(found[0], base, source)]
    before = live()
    scenes += [prepare(scene, base, source) for scene in found[1:]]
    # Nothing but paths and numbers: not a view of all scenes together.
    assert live() - before < VIEW_BYTES, "something is kept of what was prepared"

    def read(scene: SceneTargets, view: int) -> None:
        load_sample(scene, view)
        load_depth(scene, view)

    assert growth(scenes, read) < VIEW_BYTES, "something is kept of what was read"


def test_the_measure_sees_a_cache(found: list[SceneTargets], base: Backbone) -> None:
    """Somebody caches samples, depths or only the decoders: the figure shows it."""
    scenes = [prepare(scene, base) for scene in found]
    enough = (SCENES - 1) * VIEW_BYTES / 2
    kept: list[object] = []
    for read in (load_sample, load_depth):
        assert growth(scenes, lambda *item, read=read: kept.append(read(*item))) > enough
        kept.clear()
    decoder = functools.cache(lambda path: read_tensors(path, ["dec.weight"]))
    assert growth(scenes, lambda scene, _: decoder(scene.path)) > enough


def test_training_on_many_scenes_needs_no_more_than_on_few(many: Path) -> None:
    """The highest figure at some steps, with one archive in ten and with all of them."""

    def peak(archives: list[Path], name: str) -> int:
        figures = []

        def watch(event: Progress) -> None:
            if event.stage == "finetune" and event.done % 8 == 0:
                figures.append(live())

        settings = FinetuneSettings.model_validate(
            {"name": name, "batch": 4, "epochs": 64 // (2 * len(archives))}
        )
        finetune(archives, settings, workspace=many, device="cpu", seed=0, captures=[],
                 on_event=watch)  # fmt: skip
        assert len(figures) >= 2, "no step was seen"
        return max(figures)

    archives = Workspace(many).scene_paths()
    few, everything = peak(archives[:4], "few"), peak(archives, "many")
    # Every scene has its cameras twice, in its views and as a batch; not one view may be added.
    cameras = (SCENES - 4) * VIEWS * (2 * 8 * (16 + 9) + 2 * 8)
    assert everything - few < cameras + VIEW_BYTES
