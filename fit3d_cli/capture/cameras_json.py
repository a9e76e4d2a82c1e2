"""``cameras.json``: fit3d's own plain interchange layout.

One JSON object at the top of the capture. OpenCV axes, camera to world, pixel centres at +0.5::

    {
      "w": 640, "h": 480, "fx": 500.0, "fy": 500.0, "cx": 320.0, "cy": 240.0,
      "metric": true,
      "distortion": {"model": "opencv", "params": [k1, k2, p1, p2, k3, k4, k5, k6]},
      "frames": [
        {"file": "images/a.jpg", "mask": "masks/a.png", "depth": "depth/a.png",
         "depth_scale": 1000.0, "c2w_opencv": [[...], [...], [...], [...]]}
      ]
    }

Only ``frames``, ``file``, ``c2w_opencv``, ``fx`` and ``fy`` are needed: the size is else the
photo's, the principal point its middle. Every field but ``frames`` and ``metric`` may stand in
a frame as well, where it wins. A mask is used where it is not zero; depth is a 16-bit PNG in
``depth_scale`` units per world unit (default 1000), 0 = unknown. Other fields are ignored.
"""

from __future__ import annotations

from pathlib import Path

from fit3d_cli.capture.base import READERS, Capture, Distortion, Reader, View
from fit3d_cli.capture.distortion import COEFFICIENTS, make_distortion
from fit3d_cli.capture.files import Fields, intrinsics, invert_pose, locate, read_json, stored_size

FILE = "cameras.json"


def sniff(path: Path) -> bool:
    """Whether ``cameras.json`` is there and is not the list that 3DGS writes by that name."""
    place = path / FILE
    try:
        if not place.is_file():
            return False
        with place.open("rb") as file:
            return not file.read(64).lstrip().startswith(b"[")
    except OSError:
        return False


def read(path: Path) -> Capture:
    """Read the layout.

    Raises:
        CaptureError: The file is missing or damaged; the message names the field.
    """
    source = path / FILE
    top = read_json(source)
    views = tuple(_view(path, source, frame) for frame in top.objects("frames"))
    return Capture(path.name, path, "cameras-json", views, metric=top.flag("metric"))


def _view(root: Path, source: Path, frame: Fields) -> View:
    name, place = locate(root, frame.text("file"), source)
    size = stored_size(place) if "w" not in frame or "h" not in frame else None
    width, height = size or (frame.size("w"), frame.size("h"))
    mask, depth = frame.text("mask", ""), frame.text("depth", "")
    return View(
        name=name,
        image_path=place,
        viewmat=invert_pose(frame.pose("c2w_opencv")),
        K=intrinsics(
            frame.number("fx"), frame.number("fy"),
            frame.number("cx", width / 2), frame.number("cy", height / 2),
        ),
        width=width,
        height=height,
        distortion=_distortion(frame),
        depth_path=locate(root, depth, source)[1] if depth else None,
        depth_scale=frame.number("depth_scale", 1000.0),
        mask_path=locate(root, mask, source)[1] if mask else None,
    )  # fmt: skip


def _distortion(frame: Fields) -> Distortion | None:
    if frame.get("distortion") is None:
        return None
    stated = Fields(frame.get("distortion"), frame.path, f"{frame.label}.distortion")
    model = stated.text("model")
    if model not in COEFFICIENTS:
        stated.fail(f"unknown model {model!r}, expected {' or '.join(COEFFICIENTS)}", "model")
    params = stated.numbers("params")
    if len(params) > COEFFICIENTS[model]:
        stated.fail(f"more than {COEFFICIENTS[model]} coefficients", "params")
    return make_distortion(model, params)


READERS.add(
    "cameras-json",
    Reader("cameras.json (w h fx fy cx cy, frames with file and c2w_opencv)", sniff, read),
)
