"""Posed views with depth: what ``fit3d probe corr DATASET`` names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.archive import read_archive
from fit3d_cli.archive.photos import scene_capture
from fit3d_cli.backbones.cache import TokenItem, image_digest
from fit3d_cli.capture.base import Capture, View
from fit3d_cli.capture.frames import load_frame, view_camera
from fit3d_cli.capture.read import is_capture, read_capture
from fit3d_cli.errors import DatasetError, UnknownNameError
from fit3d_cli.geometry.cameras import Cameras, stack_cameras
from fit3d_cli.probing.tasks.base import Question, require_no_data
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.rendering import render_maps
from fit3d_cli.scene import Scene
from fit3d_cli.tensorfile.overflow import KeptList, Overflow

DEPTH_SIDE = (
    320  # long side of depth maps: two cells for a pixel of the frame, however large photos
)
MAX_VIEWS = 300
_HIT = 0.5  # alpha below which a rendered pixel shows nothing in particular


@dataclass(frozen=True)
class PosedViews:
    """Views whose depth is known, in the order of their names.

    Attributes:
        name: Of the capture.
        views: The photos.
        depths: ``[H, W]`` float32 each, z in world units, 0 = unknown or masked.
        cameras: One per view, at the size of its depth.
        notes: Where the depth is from, and what was left out.
    """

    name: str
    views: tuple[View, ...]
    depths: Sequence[Tensor]
    cameras: Cameras
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.views)


def open_posed(question: Question) -> PosedViews:
    """Find the views and read or render their depth.

    The dataset is the directory of a capture, a ``.f3d``, or the name of a scene of the workspace.
    The capture's own depth is taken where there is any; otherwise that of the scene, whose photos
    the workspace remembers.

    Raises:
        UnknownNameError: It is none of these.
        DatasetError: There is no depth, or of fewer than two views.
        CaptureError: The photos are missing, damaged or have changed.
        ArchiveError: The scene is damaged.
        SettingsError: A directory of data is named besides.
    """
    require_no_data(question)
    wanted = question.settings.corr.depth
    capture, scene = _find(question)
    overflow = Overflow(
        question.place.cache_dir, budget=question.settings.memory << 19,
        hint="make room there, or raise --set probe.memory",
    )  # fmt: skip
    measured = [view for view in capture.views if view.depth_path is not None]
    if wanted != "rendered" and len(measured) >= 2:
        views, note = _spread(measured, question.settings.max_images)
        depths = _measured(views, overflow, question.on_event)
        source = f"the capture's depth, {len(measured)} of {len(capture.views)} views have it"
    elif wanted == "capture" or not (scene or _scene_path(question, capture).is_file()):
        hint = "use a capture with depth pictures, or lift it: depth is then rendered"
        if wanted == "rendered":
            hint = "run fit3d lift on it, or use --set probe.corr.depth=auto"
        have = len(measured)
        raise DatasetError(
            "no lifted scene to render depth from" if wanted == "rendered"
            else f"{have} {'view has' if have == 1 else 'views have'} depth, corr needs 2",
            where=capture.root,
            hint=hint,
        )  # fmt: skip
    else:
        scene = scene or read_archive(_scene_path(question, capture), features=False)
        capture = scene_capture(scene, question.place)
        views, note = _spread(capture.views, question.settings.max_images)
        depths = _rendered(scene.to(question.device), views, overflow, question.on_event)
        source = "depth rendered from the lifted scene"
    if scene is not None:
        held = len(scene.views(heldout=True))
        note += (f"{held} of the scene's {len(scene.names)} views were held out of lifting and "
                 "tuning; all are used here",)  # fmt: skip
    cameras = stack_cameras([view_camera(view).resized(*_size(view)) for view in views])
    return PosedViews(capture.name, views, depths, cameras, (source, *note))


def token_item(view: View, size: tuple[int, int]) -> TokenItem:
    """What the token cache needs to know of a view, undistorted and resized."""
    recipe = ""
    if view.distortion is not None:
        numbers = [float(x).hex() for x in view.K.flatten().tolist()]
        recipe = f"undistort {view.distortion.model} {view.distortion.params} {numbers}"
    return TokenItem(
        image_digest(view.image_path, recipe),
        size,
        lambda: load_frame(view, *size, depth=False).image,
    )


def _find(question: Question) -> tuple[Capture, Scene | None]:
    path = Path(question.dataset)
    lifted = question.place.scene_path(question.dataset).is_file()
    # Photos without poses may lie in a folder called like the scene that was made of them.
    if path.is_dir() and (is_capture(path) or not lifted):
        return read_capture(path), None
    archive = path if path.suffix == ".f3d" else question.place.scene_path(question.dataset)
    if not archive.is_file():
        known = [*question.place.captures(), *(p.stem for p in question.place.scene_paths())]
        raise UnknownNameError(
            f"no capture or scene {question.dataset!r}",
            where="DATASET",
            hint="name the directory of an RGB-D capture, a .f3d file"
            + (f", or one of {', '.join(sorted(set(known)))}" if known else ""),
        )
    scene = read_archive(archive, features=False)
    return scene_capture(scene, question.place), scene


def _scene_path(question: Question, capture: Capture) -> Path:
    return question.place.scene_path(capture.name)


def _spread(
    views: list[View] | tuple[View, ...], limit: int
) -> tuple[tuple[View, ...], tuple[str, ...]]:
    """At most ``limit`` views (0 = ``MAX_VIEWS``), evenly, and what the report says of it."""
    most = min(limit or MAX_VIEWS, MAX_VIEWS)
    if len(views) <= most:
        return tuple(views), ()
    chosen = tuple(views[(2 * i + 1) * len(views) // (2 * most)] for i in range(most))
    return chosen, (f"{most} of {len(views)} views, evenly spread",)


def _size(view: View) -> tuple[int, int]:
    scale = DEPTH_SIDE / max(view.width, view.height)
    return max(1, round(view.width * scale)), max(1, round(view.height * scale))


def _measured(views: tuple[View, ...], overflow: Overflow, on_event: OnEvent) -> KeptList[Tensor]:
    depths = []
    for done, view in enumerate(views, start=1):
        frame = load_frame(view, *_size(view))
        assert frame.depth is not None
        depths.append(overflow.keep(frame.depth * frame.mask))
        on_event(Progress("depths", done, len(views)))
    return KeptList(depths)


def _rendered(
    scene: Scene, views: tuple[View, ...], overflow: Overflow, on_event: OnEvent
) -> KeptList[Tensor]:
    depths = []
    for done, view in enumerate(views, start=1):
        frame = load_frame(view, *_size(view), depth=False)
        maps = render_maps(scene, frame.camera, features=False)
        shown = torch.where(maps.alphas >= _HIT, maps.depth, 0.0) * frame.mask
        depths.append(overflow.keep(shown))
        on_event(Progress("rendered depths", done, len(views)))
    return KeptList(depths)
