"""What can be known to go wrong before anything is computed or written."""

from __future__ import annotations

from fit3d_cli.archive.checks import check_names, check_numbers, check_scene_name
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.capture.base import Capture
from fit3d_cli.capture.read import view_cameras
from fit3d_cli.errors import ArchiveError, CaptureError, SettingsError
from fit3d_cli.settings import FeatureSettings

_ASPECT = 0.1


def check_dim(dim: int, backbone: Backbone) -> None:
    """Refuse channels that could only be zero; the default fits any backbone.

    Raises:
        SettingsError: More channels than the backbone has.
    """
    if dim > max(backbone.dim, FeatureSettings().dim):
        raise SettingsError(
            f"more than the {backbone.dim} channels of {backbone.name}",
            where=f"--dim {dim}",
            hint=f"give at most {backbone.dim}",
        )


def check_shapes(capture: Capture) -> None:
    """Refuse portrait beside landscape photos: all tokens of a scene share one grid.

    Photos are resized to that grid and never cropped, so another shape would be squeezed. A tenth
    of difference in aspect is let through; it comes from rounded crops and undistortion.

    Raises:
        CaptureError: The photos differ in shape.
    """
    first = capture.views[0]
    for view in capture.views:
        if abs(view.width * first.height / (view.height * first.width) - 1) > _ASPECT:
            raise CaptureError(
                f"{view.name} is {view.width}x{view.height}, {first.name} is "
                f"{first.width}x{first.height}: photos of one capture must share a shape",
                where=capture.root,
                hint="put portrait and landscape photos into captures of their own",
            )


def check_storable(capture: Capture) -> None:
    """Refuse before the fit what an archive could not hold after it.

    Raises:
        CaptureError: Impossible cameras, or names that are no file names.
    """
    cameras = view_cameras(capture)
    hint = "correct the cameras and names of this capture"
    tensors = {"viewmats": cameras.viewmats, "Ks": cameras.Ks, "sizes": cameras.sizes}
    try:
        check_numbers({f"cam.{k}": v for k, v in tensors.items()}, capture.root, hint=hint)
        check_names([view.name for view in capture.views], capture.root, hint=hint)
        check_scene_name(capture.name, capture.root, hint=hint)
    except ArchiveError as error:
        raise CaptureError(error.what, where=error.where, hint=error.hint) from error
