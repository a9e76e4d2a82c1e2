"""One step of fine-tuning: what the target side costs beside the vision transformer.

    python -m benchmarks.finetune_step [--scene FILE.f3d --workspace DIR] [--out step.json]

The target side of a step is all that is read for it: four photos with their maps, decoded, and
their depths. The other side is the transformer's forward and backward pass over these pictures,
with FiT3D's L1. ``made`` is what is paid once per scene, by source of the targets, over eight of
its views; it grows with their number. Without a scene a built-in room is lifted with a ViT-Ti of
random weights, whose speed is that of any other. Seven repeats unless ``--rounds`` says otherwise.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks import machine, options, results
from benchmarks.options import Setup
from benchmarks.results import Line, Record
from benchmarks.timing import Timing, interleave
from fit3d_cli.backbones.export import write_model_directory
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.device import seeded
from fit3d_cli.finetuning.batch import Batch
from fit3d_cli.finetuning.targets import (
    SceneTargets,
    find_targets,
    load_depth,
    load_sample,
    prepare_targets,
)
from fit3d_cli.lifting.lift import lift_captures
from fit3d_cli.progress import ignore
from fit3d_cli.rooms import write_room
from fit3d_cli.settings import FinetuneSettings, LiftSettings
from fit3d_cli.workspace import Workspace

BATCH, ROUNDS, VIEWS = 4, 7, 8
WIDTH, HEIGHT = 448, 336
SOURCES: dict[str, dict[str, Any]] = {
    "archive": {},
    "relifted": {"source": "relifted"},
    "denoised": {"source": "denoised"},
}


class Case:
    """A scene with its photos, its maps and the backbone that lifted it.

    Args:
        archive: The scene.
        place: Workspace that knows its photos and weights; what is made goes elsewhere.
        scratch: Where that is.
    """

    def __init__(self, archive: Path, place: Workspace, scratch: Path) -> None:
        self.found = some_views(find_targets(archive, place, []), VIEWS)
        source = self.found.source
        name, weights = place.backbone_of(source.weights_sha256, source.backbone)
        self.backbone = load_backbone(name, weights=weights)
        self.place = Workspace(scratch)
        self.made: dict[str, Timing] = {}
        self.scene = self.found
        self._begin = 0
        self._batch: Batch | None = None

    def make(self) -> None:
        """Make the targets of every source, once, with a clock; the archive's are trained on."""
        for source, changes in SOURCES.items():
            settings = FinetuneSettings.model_validate({"targets": changes})

            def make(settings: FinetuneSettings = settings) -> SceneTargets:
                return prepare_targets(
                    self.found, settings, self.backbone, self.place, "cpu", ignore, depths=False
                )

            self.made |= interleave({source: make}, rounds=1, warmup=0)
        self.scene = prepare_targets(
            self.found, FinetuneSettings(), self.backbone, self.place, "cpu", ignore, depths=True
        )

    def views(self) -> list[int]:
        """The next four training views."""
        train = self.scene.train
        self._begin = (self._begin + BATCH) % len(train)
        return [train[(self._begin + i) % len(train)] for i in range(BATCH)]

    def target_side(self) -> Batch:
        """Everything that a step reads."""
        views = self.views()
        samples = [load_sample(self.scene, view) for view in views]
        for view in views:
            load_depth(self.scene, view)
        self._batch = Batch.of(samples, [], "cpu")
        return self._batch

    def photos(self) -> list[Tensor]:
        """The photos alone: any training on pictures reads them."""
        source = self.scene.source
        size = (source.width, source.height)
        frames = [load_frame(self.scene.views[i], *size, depth=False) for i in self.views()]
        return [frame.image for frame in frames]

    def depths(self) -> list[Tensor]:
        """The depths alone."""
        return [load_depth(self.scene, view).depth for view in self.views()]

    def step(self) -> float:
        """Forward and backward pass over the last batch."""
        batch = self._batch or self.target_side()
        self.backbone.zero_grad(set_to_none=True)
        error = (self.backbone.tokens(batch.images) - batch.targets).abs().mean(-1)
        loss = (error * batch.weight).sum() / batch.weight.sum().clamp_min(1e-6)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())


def some_views(scene: SceneTargets, count: int) -> SceneTargets:
    """A scene with at most so many training views, evenly spread, and no others."""
    train = [scene.train[i * len(scene.train) // count] for i in range(count)]
    chosen = sorted(set(train))
    return replace(
        scene,
        views=tuple(scene.views[i] for i in chosen),
        cameras=scene.cameras[chosen],
        train=tuple(range(len(chosen))),
        heldout=(),
        digest=f"{scene.digest} {chosen}",
    )


def built_in(setup: Setup, root: Path) -> tuple[Path, Workspace]:
    """A room, lifted as fast as may be: neither weights nor maps are worth anything."""
    width, height = (64, 48) if setup.quick else (WIDTH, HEIGHT)
    arguments: dict[str, Any] = {"img_size": 224}
    if setup.quick:
        arguments = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 48}
    with seeded(setup.seed):
        model = import_timm().create_model(
            "vit_tiny_patch16_224", pretrained=False, num_classes=0, dynamic_img_size=True,
            **arguments,
        )  # fmt: skip
    backbone = Backbone("random", "vit_tiny_patch16_224", model, model_args=arguments).eval()
    write_model_directory(root / "random", backbone, card="Random weights.", extra={})
    write_room(
        root / "room", setup.seed, views=5 if setup.quick else VIEWS, width=width, height=height
    )
    settings = LiftSettings.model_validate({
        "backbone": {"name": str(root / "random"), "width": width},
        "geometry": {"width": width // 2, "iterations": 2, "densify": False,
                     "init_gaussians": setup.synthetic // 10},
        "features": {"dim": min(setup.dim, 64), "validation": 0, "cg_iterations": 1},
    })  # fmt: skip
    lift_captures(
        [root / "room"], settings, workspace=root / "lifted", device="cpu", seed=setup.seed,
        on_event=ignore,
    )  # fmt: skip
    place = Workspace(root / "lifted")
    return place.scene_path("room"), place


def measure(case: Case, setup: Setup) -> list[Record]:
    """The shares of a step, and what is paid once."""
    source, record = case.scene.source, Record("step", "", setup.rounds)
    record.what = f"{BATCH} pictures {source.width}x{source.height}, {source.backbone}"
    sides = {
        "target side": case.target_side,
        "photos": case.photos,
        "depths": case.depths,
        "ViT step": case.step,
    }
    timings = interleave(sides, setup.rounds)
    record.sides = {name: timing.record() for name, timing in timings.items()}
    step = timings["ViT step"].median
    for side, goal in (("target side", 0.1), ("photos", None), ("depths", None)):
        share = timings[side].median / step
        cpu = record.sides[side]["cpu_median_s"] / record.sides["ViT step"]["cpu_median_s"]
        note = f"{cpu:.3f} of the processor time"
        record.lines.append(
            Line("step", f"{record.what}: share", side, "ViT step", share, "x", goal, "lower", note)
        )
    once = Record("made", "made once per scene", 1)
    views = len(case.scene.views)
    for name, timing in case.made.items():
        once.sides[name] = timing.record()
        each = 1000 * timing.median / views
        note = f"{views} views, {each:.0f} ms a view"
        what = f"targets made once, {name}"
        once.lines.append(Line("made", what, name, "", timing.median, "s", notes=note))
    return [record, once]


def run(setup: Setup) -> dict[str, Any]:
    """Measure; progress goes to stderr."""
    before = machine.describe(setup.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if setup.scene and setup.workspace:
            archive, place = Path(setup.scene), Workspace(Path(setup.workspace))
        else:
            print("a built-in room ...", file=sys.stderr, flush=True)
            archive, place = built_in(setup, root)
        case = Case(archive, place, root / "scratch")
        print("targets ...", file=sys.stderr, flush=True)
        case.make()
        print("steps ...", file=sys.stderr, flush=True)
        records = measure(case, setup)
        source = case.scene.source
        about = {
            "kind": "finetune step", "name": case.scene.name, "views": len(case.scene.views),
            "backbone": source.backbone, "width": source.width, "height": source.height,
        }  # fmt: skip
    return results.report("finetune_step", before, setup.to_json(), about, records)


def main() -> None:
    """Run and print the table."""
    parsed = options.parser(__doc__ or "").parse_args()
    if parsed.rounds is None and not parsed.quick:
        parsed.rounds = ROUNDS
    options.finish(run(options.setup_from(parsed)), parsed.out)


if __name__ == "__main__":
    main()
