"""ScanNet++ scenes: ``<scene>``, ``<scene>/dslr`` or ``<scene>/iphone``.

Given the scene itself, ``dslr`` is taken where it is there. Worlds are metric.

``dslr``: photos in ``resized_images``, cameras in ``nerfstudio/transforms.json`` (one lens,
``OPENCV_FISHEYE``; ``frames`` and ``test_frames``, ``is_bad`` ones are dropped), masks in
``resized_anon_masks`` (non-zero = use; 0 = made anonymous). Where the undistorted photos
(``resized_undistorted_images``, or ``undistorted_images`` of the toolbox) and
``transforms_undistorted.json`` are there, they are taken: they show more of the scene than what
a pinhole of the fisheye's own focal length keeps. Depth that the toolbox rendered from the mesh
(``render_depth``: 16 bit, millimetres along the optical axis) lies on the fisheye photos' pixels;
where it is there, those are taken. Poses are camera to world with OpenGL axes, copied from COLMAP
with the world's axes exchanged: (x, y, z) of the laser scan and of ``dslr/colmap`` is (y, x, -z)
here. The world is kept as ``transforms.json`` has it, and COLMAP's points are brought into it.
Principal points are COLMAP's: pixel centres at +0.5.

``iphone``: photos ``rgb/frame_NNNNNN.jpg`` (1920x1440, as the sensor lies: nothing is turned),
depth of the same name in ``depth`` (PNG, 16 bit, millimetres along the axis, 256x192), masks in
``rgb_masks``. Poses are those of ``colmap`` where it is there (refined, world to camera, with lens
distortion), else ``aligned_pose`` and ``intrinsic`` of ``pose_intrinsic_imu.json`` (ARKit's,
camera to world, OpenCV axes). Both are in the frame of the laser scan.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.capture.base import READERS, Capture, Distortion, Reader, SparsePoints, View
from fit3d_cli.capture.colmap import lens_of
from fit3d_cli.capture.colmap_model import (
    is_model,
    model_file,
    pose_matrix,
    read_cameras,
    read_images,
    read_points,
)
from fit3d_cli.capture.depth_maps import depth_beside
from fit3d_cli.capture.distortion import FISHEYE, make_distortion
from fit3d_cli.capture.files import (
    MAX_TEXT_BYTES,
    RESTORE,
    Fields,
    intrinsics,
    invert_pose,
    locate,
    read_json,
)
from fit3d_cli.errors import CaptureError
from fit3d_cli.geometry.cameras import OPENGL_TO_OPENCV

_FLAT = "nerfstudio/transforms_undistorted.json"
_BENT = "nerfstudio/transforms.json"
# Cameras, photos, masks; the first whose photos are there is taken.
_DSLR = (
    (_FLAT, "resized_undistorted_images", "resized_undistorted_masks"),
    (_FLAT, "undistorted_images", "undistorted_anon_masks"),
    (_BENT, "resized_images", "resized_anon_masks"),
)
_DEPTHS = "render_depth"
_POSES = "pose_intrinsic_imu.json"
_SUFFIXES = (".jpg", ".jpeg", ".png")
_PHONE_SIZE = (1920, 1440)  # what the intrinsics of the phone are for
_TOOLBOX = (
    "in the ScanNet++ toolbox run: "
    "python -m iphone.prepare_iphone_data iphone/configs/prepare_iphone_data.yml"
)
# nerfstudio's world of COLMAP's: its conversion exchanges x and y and turns z round.
_EXCHANGE = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, -1]], dtype=torch.float64)


def sniff(path: Path) -> bool:
    """Whether it is a scene with one of the cameras, or one camera's folder."""
    try:
        return any(test(base) for test, base in (
            (_is_dslr, path), (_is_phone, path), (_is_dslr, path / "dslr"),
            (_is_phone, path / "iphone")))  # fmt: skip
    except OSError:
        return False


def _is_dslr(base: Path) -> bool:
    return (base / _BENT).is_file() or (base / _FLAT).is_file()


def _is_phone(base: Path) -> bool:
    if (base / _POSES).is_file():
        return True
    return base.name == "iphone" and is_model(base / "colmap")


def read(path: Path) -> Capture:
    """Read the layout.

    Raises:
        CaptureError: A file is missing or damaged, or frames were not extracted from their video.
    """
    if _is_dslr(path):
        return _read_dslr(path, path, [])
    if _is_phone(path):
        return _read_phone(path, path)
    if not _is_dslr(path / "dslr"):
        return _read_phone(path, path / "iphone")
    both = _is_phone(path / "iphone")
    note = f"dslr taken; for the phone's video name {path / 'iphone'}"
    return _read_dslr(path, path / "dslr", [note] if both else [])


def _read_dslr(root: Path, base: Path, notes: list[str]) -> Capture:
    source, photos, masks = _chosen(base)
    top = read_json(source)
    lens = _lens(top)
    flat = source.name == Path(_FLAT).name
    if flat and (base / _DSLR[-1][1]).is_dir():
        notes.append(f"undistorted photos taken ({photos.name}), not the fisheye's")
    depths = None if flat or not (base / _DEPTHS).is_dir() else base / _DEPTHS
    if depths is not None and any((base / other).is_dir() for _, other, _ in _DSLR[:-1]):
        notes.append(f"the fisheye's photos taken, which {_DEPTHS} belongs to")
    frames = top.objects("frames")
    tests = top.objects("test_frames") if "test_frames" in top else []
    dropped = {}
    # The photos of the benchmark's hidden scenes are not published.
    if tests and not any((photos / f.text("file_path")).is_file() for f in tests):
        dropped["test photo not published"] = len(tests)
        tests = []
    good = [frame for frame in (*frames, *tests) if not frame.flag("is_bad")]
    if len(good) < len(frames) + len(tests):
        dropped["marked as bad"] = len(frames) + len(tests) - len(good)
    if not masks.is_dir():
        notes.append(f"no {masks.name}: nothing is masked")
    views = tuple(_dslr_view(root, photos, masks, depths, frame, lens) for frame in good)
    points, note = _points(base / "colmap", views)
    return Capture(root.name, root, "scannetpp", views, points, metric=True, dropped=dropped,
                   notes=(*notes, *note))  # fmt: skip


def _chosen(base: Path) -> tuple[Path, Path, Path]:
    """The file of the cameras, the folder of the photos and that of the masks."""
    for cameras, photos, masks in _DSLR[:: -1 if (base / _DEPTHS).is_dir() else 1]:
        if (base / cameras).is_file() and (base / photos).is_dir():
            return base / cameras, base / photos, base / masks
    raise CaptureError(
        "no photos: neither resized_undistorted_images nor resized_images",
        where=base,
        hint="download the scene's dslr_resized_dir, with dslr_resized_mask_dir",
    )


_Lens = tuple[Tensor, int, int, Distortion | None]


def _lens(top: Fields) -> _Lens:
    model = top.text("camera_model")
    K = intrinsics(*(top.number(name) for name in ("fl_x", "fl_y", "cx", "cy")))
    width, height = top.size("w"), top.size("h")
    if model == "PINHOLE":
        return K, width, height, None
    if model != "OPENCV_FISHEYE":
        top.fail(f"expected OPENCV_FISHEYE or PINHOLE, found {model}", "camera_model")
    k1, k2, k3, k4 = (top.number(name) for name in ("k1", "k2", "k3", "k4"))
    return K, width, height, make_distortion(FISHEYE, (k1, k2, k3, k4))


def _dslr_view(
    root: Path, photos: Path, masks: Path, depths: Path | None, frame: Fields, lens: _Lens
) -> View:
    name, place = locate(photos, frame.text("file_path"), frame.path)
    mask = None
    if masks.is_dir():
        mask = locate(masks, frame.text("mask_path", f"{Path(name).stem}.png"), frame.path)[1]
    depth = depths / Path(name).with_suffix(".png") if depths else None
    K, width, height, distortion = lens
    c2w = frame.pose("transform_matrix") * torch.tensor(OPENGL_TO_OPENCV, dtype=torch.float64)
    return View(
        name=f"{photos.relative_to(root).as_posix()}/{name}",
        image_path=place,
        viewmat=invert_pose(c2w),
        K=K.clone(),
        width=width,
        height=height,
        distortion=distortion,
        depth_path=depth if depth and depth.is_file() else None,
        mask_path=mask,
    )


def _points(model: Path, views: tuple[View, ...]) -> tuple[SparsePoints | None, list[str]]:
    """COLMAP's points in the world of the views, and a note where they cannot be brought there.

    That the exchange of axes is the right one is checked on the cameras that both know.
    """
    images, points = model_file(model, "images"), model_file(model, "points3D")
    if images is None or points is None:
        return None, []
    if images.stat().st_size > MAX_TEXT_BYTES:
        return None, [f"points of {model.name} left out: {images.name} is too large to be read"]
    stored = {Path(image.name).name: image.pose for image in read_images(images)}
    pairs = [(view.viewmat, stored[view.image_path.name])
             for view in views if view.image_path.name in stored]  # fmt: skip
    if not pairs:
        return None, [f"points of {model.name} left out: it has none of the photos"]
    here = torch.stack([_center(viewmat) for viewmat, _ in pairs])
    there = torch.stack([_center(pose_matrix(pose)) for _, pose in pairs]) @ _EXCHANGE.T
    if not bool(((here - there).norm(dim=1) < 0.01).all()):
        return None, [f"points of {model.name} left out: its cameras are not those of nerfstudio"]
    found = read_points(points)
    return (None if found is None else SparsePoints(found.xyz @ _EXCHANGE.T, found.rgb)), []


def _center(viewmat: Tensor) -> Tensor:
    return invert_pose(viewmat)[:3, 3]


def _read_phone(root: Path, base: Path) -> Capture:
    photos = {p.stem: p for p in sorted((base / "rgb").glob("*")) if p.suffix in _SUFFIXES}
    if not photos:
        video = next((base / f"rgb{s}" for s in (".mp4", ".mkv") if (base / f"rgb{s}").is_file()),
                     None)  # fmt: skip
        if video is None:
            raise CaptureError("no rgb/*.jpg", where=base, hint="download its iphone_video_path, "
                               f"then {_TOOLBOX}")  # fmt: skip
        raise CaptureError(f"no rgb/*.jpg: {video.name} is not unpacked", where=base, hint=_TOOLBOX)
    notes = []
    if not (base / "depth").is_dir():
        packed = (base / "depth.bin").is_file()
        notes.append(f"depth left out: depth.bin is not unpacked; {_TOOLBOX}" if packed else
                     "no depth folder")  # fmt: skip
    if is_model(base / "colmap"):
        views = _refined_views(root, base, photos)
        points = model_file(base / "colmap", "points3D")
        sparse = read_points(points) if points else None
    else:
        views, sparse = _arkit_views(root, base, photos), None
        notes.append("no colmap: ARKit's poses taken, which are less exact")
    posed = {view.image_path.stem for view in views}
    dropped = {"no pose": len(photos.keys() - posed)} if photos.keys() - posed else {}
    return Capture(root.name, root, "scannetpp", tuple(views), sparse, metric=True,
                   dropped=dropped, notes=tuple(notes))  # fmt: skip


def _refined_views(root: Path, base: Path, photos: dict[str, Path]) -> list[View]:
    """Views with the poses and lenses of ``colmap``; its names may have a folder in front."""
    model = base / "colmap"
    cameras_file, images_file = model_file(model, "cameras"), model_file(model, "images")
    assert cameras_file is not None and images_file is not None
    cameras = read_cameras(cameras_file)
    views = []
    for image in read_images(images_file):
        camera = cameras.get(image.camera_id)
        if camera is None:
            raise CaptureError(
                f"{image.name} has camera {image.camera_id}, which is not in the cameras file",
                where=images_file,
                hint=RESTORE,
            )
        (fx, fy, cx, cy), distortion = lens_of(camera, model, base / "rgb")
        photo = photos.get(Path(image.name).stem, base / "rgb" / Path(image.name).name)
        size = (camera.width, camera.height)
        K = intrinsics(fx, fy, cx, cy)
        views.append(_phone_view(root, photo, pose_matrix(image.pose), K, size, distortion))
    return views


def _arkit_views(root: Path, base: Path, photos: dict[str, Path]) -> list[View]:
    top = read_json(base / _POSES)
    views = []
    for stem, photo in photos.items():
        if stem not in top:
            continue
        frame = Fields(top.get(stem), top.path, stem)
        if "aligned_pose" in frame:
            viewmat = invert_pose(frame.pose("aligned_pose"))
            views.append(_phone_view(root, photo, viewmat, _matrix(frame), _PHONE_SIZE, None))
    return views


def _matrix(frame: Fields) -> Tensor:
    """``intrinsic``, rows of a 3x3 pinhole matrix."""
    rows = frame.get("intrinsic")
    if not isinstance(rows, list) or len(rows) != 3:
        frame.fail("expected a 3x3 matrix", "intrinsic")
    wrapped = Fields({f"intrinsic[{i}]": row for i, row in enumerate(rows)}, frame.path,
                     frame.label)  # fmt: skip
    values = [wrapped.numbers(f"intrinsic[{i}]") for i in range(3)]
    if any(len(row) != 3 for row in values):
        frame.fail("expected a 3x3 matrix", "intrinsic")
    return intrinsics(values[0][0], values[1][1], values[0][2], values[1][2])


def _phone_view(
    root: Path, photo: Path, viewmat: Tensor, K: Tensor, size: tuple[int, int],
    distortion: Distortion | None,
) -> View:  # fmt: skip
    folder = photo.parent.parent
    mask = folder / "rgb_masks" / f"{photo.stem}.png"
    depth_path, depth_camera = depth_beside(folder / "depth" / f"{photo.stem}.png", K, *size)
    return View(
        name=photo.relative_to(root).as_posix(),
        image_path=photo,
        viewmat=viewmat,
        K=K,
        width=size[0],
        height=size[1],
        distortion=distortion,
        depth_path=depth_path,
        mask_path=mask if mask.is_file() else None,
        # Depth shares the photo's pixels, its lens distortion included.
        depth_camera=depth_camera if distortion is None else None,
    )


READERS.add(
    "scannetpp",
    Reader("<scene>/{dslr,iphone} (ScanNet++)", sniff, read),
)
