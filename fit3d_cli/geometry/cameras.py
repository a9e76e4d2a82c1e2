"""Pinhole cameras: world-to-camera matrices, OpenCV axes, pixel centres at +0.5."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.geometry.rotations import look_at
from fit3d_cli.shapes import check_dims

# OpenGL/NeRF cameras look along -z with +y up; OpenCV cameras along +z with +y down.
OPENGL_TO_OPENCV = (1.0, -1.0, -1.0, 1.0)

_MOST = 0.6  # of the cameras must see the middle of an orbit for it to be one


@dataclass(frozen=True)
class Cameras:
    """C pinhole cameras.

    Attributes:
        viewmats: ``[C, 4, 4]`` float64, world to camera.
        Ks: ``[C, 3, 3]`` float64 intrinsics in pixels; a centred principal point is ``W / 2``.
        sizes: ``[C, 2]`` int64, ``(width, height)`` of each picture in pixels.
    """

    viewmats: Tensor
    Ks: Tensor
    sizes: Tensor

    def __post_init__(self) -> None:
        check_dims(
            viewmats=(self.viewmats, "C 4 4"), Ks=(self.Ks, "C 3 3"), sizes=(self.sizes, "C 2")
        )

    def __len__(self) -> int:
        return len(self.viewmats)

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Cameras:
        """A subset; an integer gives one camera, still with its leading dimension."""
        if isinstance(index, int):
            index = [index]
        return Cameras(self.viewmats[index], self.Ks[index], self.sizes[index])

    @property
    def camtoworlds(self) -> Tensor:
        """``[C, 4, 4]`` camera-to-world matrices."""
        inverse: Tensor = torch.linalg.inv(self.viewmats)
        return inverse

    @property
    def centers(self) -> Tensor:
        """``[C, 3]`` camera centres in the world."""
        rotations = self.viewmats[:, :3, :3]
        return -(rotations.transpose(1, 2) @ self.viewmats[:, :3, 3:])[:, :, 0]

    @property
    def extent(self) -> float:
        """Scene extent: 1.1 times the largest distance of a centre from their mean (3DGS)."""
        centers = self.centers
        return 1.1 * float((centers - centers.mean(0)).norm(dim=1).max())

    def resized(self, width: int, height: int) -> Cameras:
        """The same cameras for pictures resized to ``width`` x ``height`` (never cropped).

        Continuous pixel coordinates scale linearly when pixel centres lie at +0.5, so both
        the focal lengths and the principal point are multiplied.
        """
        target = torch.tensor([width, height], dtype=torch.float64)
        scale = target / self.sizes.to(torch.float64)
        Ks = self.Ks.clone()
        Ks[:, 0] *= scale[:, 0:1]
        Ks[:, 1] *= scale[:, 1:2]
        return Cameras(self.viewmats, Ks, target.to(torch.int64).expand(len(self), 2).clone())


def stack_cameras(cameras: list[Cameras]) -> Cameras:
    """Concatenate camera batches in order."""
    return Cameras(
        torch.cat([c.viewmats for c in cameras]),
        torch.cat([c.Ks for c in cameras]),
        torch.cat([c.sizes for c in cameras]),
    )


def orbit_cameras(cameras: Cameras, count: int, *, up: Tensor | None = None) -> Cameras:
    """A closed path through the space between the given cameras, looking where they look.

    The path is an ellipse in the plane of the camera centres. Its axes are 0.6 standard
    deviations times sqrt(2), so it stays inside the captured volume. If most cameras see the
    point nearest to all optical axes (photos around an object), the path looks at it; else (photos
    from inside a room) every frame looks where the cameras near it look.

    Args:
        cameras: The captured cameras, all used for the path; the first gives Ks and size.
        count: Frames of the path.
        up: ``[3]`` world up; by default the mean of the cameras' own up directions.
    """
    centers = cameras.centers
    axes = cameras.viewmats[:, 2, :3]  # optical axes in the world
    if up is None:
        up = -cameras.viewmats[:, 1, :3].mean(0)
    up = torch.nn.functional.normalize(up.to(torch.float64), dim=0)
    middle = centers.mean(0)
    # Least-squares point closest to all optical axes; a small pull to a point ahead of the
    # middle camera keeps parallel axes solvable.
    eye = torch.eye(3, dtype=torch.float64)
    projectors = eye - axes[:, :, None] * axes[:, None, :]
    spread = float((centers - middle).norm(dim=1).mean().clamp_min(1e-6))
    ahead = middle + 2 * spread * torch.nn.functional.normalize(axes.mean(0), dim=0)
    lhs = projectors.sum(0) + 1e-2 * len(cameras) * eye
    rhs = (projectors @ centers[:, :, None]).sum(0)[:, 0] + 1e-2 * len(cameras) * ahead
    target = torch.linalg.solve(lhs, rhs)
    offsets = centers - middle
    flat = offsets - (offsets @ up)[:, None] * up
    _, singular, basis = torch.linalg.svd(flat, full_matrices=False)
    radii = 0.6 * singular[:2] / len(cameras) ** 0.5 * 2**0.5
    angles = torch.arange(count, dtype=torch.float64) * (2 * torch.pi / count)
    eyes = (
        middle
        + torch.cos(angles)[:, None] * radii[0] * basis[0]
        + torch.sin(angles)[:, None] * radii[1] * basis[1]
    )
    if _seeing(cameras, target) < _MOST:
        nearness = torch.exp(-0.5 * (torch.cdist(eyes, centers) / (0.5 * spread)) ** 2)
        targets = eyes + torch.nn.functional.normalize(nearness @ axes, dim=1)
    else:
        targets = target.expand_as(eyes)
    viewmats = look_at(eyes, targets, up)
    first = cameras[0]
    return Cameras(viewmats, first.Ks.repeat(count, 1, 1), first.sizes.repeat(count, 1))


def _seeing(cameras: Cameras, point: Tensor) -> float:
    """Share of the cameras in whose picture a world point ``[3]`` lies."""
    local = cameras.viewmats[:, :3, :3] @ point + cameras.viewmats[:, :3, 3]
    projected = (cameras.Ks @ local[:, :, None])[:, :, 0]
    pixels = projected[:, :2] / projected[:, 2:].clamp_min(1e-9)
    inside = (local[:, 2] > 0) & (pixels >= 0).all(1) & (pixels <= cameras.sizes).all(1)
    return float(inside.double().mean())
