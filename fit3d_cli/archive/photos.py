"""From a scene back to the photos that it was lifted from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fit3d_cli.capture.base import Capture
from fit3d_cli.capture.read import capture_digest, is_capture, read_capture
from fit3d_cli.errors import CaptureError
from fit3d_cli.scene import Scene
from fit3d_cli.workspace import Workspace


def scene_capture(scene: Scene, place: Workspace, captures: Sequence[Path] = ()) -> Capture:
    """The capture of a scene, its views as in the scene, after proving that nothing changed.

    Args:
        scene: Names its views and knows the digest of its capture.
        place: Workspace that remembers where captures lie.
        captures: ``--captures`` directories: captures, or folders of captures; asked first.

    Raises:
        CaptureError: The photos are not there, or not the ones that the scene was lifted from.
    """
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
