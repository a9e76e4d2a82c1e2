"""Which points two posed depth maps both see, and where: correspondences without matching.

A place of one picture is lifted by its depth, moved to the world and projected into the other.
It is the same surface point there only if the other's depth says so (occlusion check). Between
pixel centres, 1 / z goes on from the nearest pixel with the lesser of the slopes on its two sides
(minmod): exact on every plane, since 1 / z is affine in the picture there, and never a blend
across a depth edge. Places are x and y in 0..1 of a picture's width and height, depth is z in world
units with 0 (or anything that is not a positive number) for unknown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.shapes import check_dims

_OUTSIDE = -1.0  # place of a point that has none
_NEAREST = 1e-9  # z below which a point is not in front of a camera


@dataclass(frozen=True)
class Transfer:
    """Places of one picture, looked up in another.

    Attributes:
        places: ``[P, 2]`` float32, x and y in 0..1 of the target picture, outside of that range
            for points it does not see, -1 for points behind it or of unknown depth.
        points: ``[P, 3]`` float64, in the world; zero where the depth is unknown.
        depth: ``[P]`` float64, z in the target's camera; zero where the depth is unknown.
        visible: ``[P]`` bool, whether the target sees the very point.
    """

    places: Tensor
    points: Tensor
    depth: Tensor
    visible: Tensor


@dataclass(frozen=True)
class DepthMaps:
    """Depth maps of V views, of any sizes.

    Attributes:
        values: ``[N]`` float64 the maps one after the other, rows first, zero = unknown.
        starts: ``[V]`` int64 where each map begins.
        cameras: V cameras at the sizes of the maps.
    """

    values: Tensor
    starts: Tensor
    cameras: Cameras

    @staticmethod
    def of(depths: Sequence[Tensor], cameras: Cameras) -> DepthMaps:
        """Stack maps.

        Args:
            depths: V times ``[H, W]``.
            cameras: V cameras, each given at the size of its map.

        Raises:
            ValueError: A camera is of another size than its map.
        """
        sizes = [(depth.shape[1], depth.shape[0]) for depth in depths]
        if sizes != [(int(w), int(h)) for w, h in cameras.sizes.tolist()]:
            raise ValueError(f"depth maps of {sizes[:3]}... for cameras of other sizes")
        counts = torch.tensor([0, *(depth.numel() for depth in depths)])
        values = torch.cat([depth.reshape(-1).double() for depth in depths])
        known = values.isfinite() & (values > 0)
        return DepthMaps(torch.where(known, values, 0.0), counts.cumsum(0)[:-1], cameras)

    def __getitem__(self, index: list[int] | Tensor) -> DepthMaps:
        """Some of the views; the values are shared."""
        return DepthMaps(self.values, self.starts[index], self.cameras[index])

    def at(self, places: Tensor, tolerance: float) -> Tensor:
        """Depth at places of every view, zero where the nearest pixel's is unknown.

        Args:
            places: ``[V, P, 2]``, finite; places outside take the border's.
            tolerance: Relative change per pixel up to which a slope is believed that has a known
                pixel on one side only.

        Returns:
            ``[V, P]`` float64.
        """
        views = torch.arange(len(places), device=places.device)
        views = views.repeat_interleave(places.shape[1])
        return self._at(views, places.flatten(0, 1), tolerance).reshape(places.shape[:2])

    def _at(self, views: Tensor, places: Tensor, tolerance: float) -> Tensor:
        """Depth ``[N]`` at places ``[N, 2]`` of views ``[N]``."""
        width, height = self.cameras.sizes[views].unbind(1)
        x = (places[:, 0].double() * width).clamp(min=0).minimum(width.double() - 1e-6)
        y = (places[:, 1].double() * height).clamp(min=0).minimum(height.double() - 1e-6)
        column, row = x.long(), y.long()
        centre = self.starts[views] + row * width + column
        nearest = self.values[centre]
        inverse = _inverse(nearest)

        def slope(step: Tensor | int, number: Tensor, count: Tensor) -> Tensor:
            """Change of 1 / z per pixel, the lesser of both sides; 0 where they disagree."""
            before = self.values[centre - torch.where(number > 0, step, 0)]
            after = self.values[centre + torch.where(number < count - 1, step, 0)]
            has_one, has_other = (before > 0) & (number > 0), (after > 0) & (number < count - 1)
            one = torch.where(has_one, inverse - _inverse(before), 0.0)
            other = torch.where(has_other, _inverse(after) - inverse, 0.0)
            gentle = tolerance * inverse  # a side alone may be an edge, which is not followed
            one = torch.where(has_one | (other.abs() > gentle), one, other)
            other = torch.where(has_other | (one.abs() > gentle), other, one)
            lesser = torch.where(one.abs() < other.abs(), one, other)
            return torch.where(one * other > 0, lesser, 0.0)

        across = slope(1, column, width) * (x - column - 0.5)
        down = slope(width, row, height) * (y - row - 0.5)
        there = (inverse + across + down).maximum(inverse / 4)  # a tolerance may be anything
        return torch.where(nearest > 0, 1 / there, 0.0)

    def find(self, points: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
        """Look world points up in every view.

        Args:
            points: ``[P, 3]``.
            tolerance: Relative depth difference above which a point counts as hidden.

        Returns:
            ``[V, P, 2]`` places, ``[V, P]`` z in the cameras, ``[V, P]`` bool: seen.
        """
        cameras = self.cameras
        rotations, moves = cameras.viewmats[:, :3, :3].double(), cameras.viewmats[:, :3, 3].double()
        local = points.double() @ rotations.transpose(1, 2) + moves[:, None]
        z = local[..., 2]
        ahead = z > _NEAREST
        pixels = (local @ cameras.Ks.double().transpose(1, 2))[..., :2]
        pixels = pixels / torch.where(ahead, z, 1.0)[..., None]
        places = torch.where(ahead[..., None], pixels / cameras.sizes[:, None], _OUTSIDE)
        seen = ahead & ((places >= 0) & (places < 1)).all(-1)
        views, which = seen.nonzero(as_tuple=True)
        there, at = self._at(views, places[views, which], tolerance), z[views, which]
        seen[views, which] = (there > 0) & ((at - there).abs() <= tolerance * at)
        return places, z, seen


def unproject(places: Tensor, maps: DepthMaps, tolerance: float) -> tuple[Tensor, Tensor]:
    """World points at places of the only view of ``maps``.

    Args:
        places: ``[P, 2]``.
        maps: One depth map with its camera.
        tolerance: See ``DepthMaps.at``.

    Returns:
        ``[P, 3]`` float64 points, zero where unknown, and ``[P]`` bool: the place lies in the
        picture and its depth is known.
    """
    check_dims(places=(places, "P 2"))
    camera = maps.cameras
    places = places.double()
    z = maps.at(places[None], tolerance)[0]
    known = (z > 0) & ((places >= 0) & (places <= 1)).all(-1)
    pixels = torch.cat([places * camera.sizes[0], torch.ones_like(places[:, :1])], dim=1)
    local = z[:, None] * (pixels @ torch.linalg.inv(camera.Ks[0].double()).T)
    viewmat = camera.viewmats[0].double()
    points = (local - viewmat[:3, 3]) @ viewmat[:3, :3]  # R^T (x - t)
    return torch.where(known[:, None], points, 0.0), known


def transfer(
    places: Tensor,
    depth_a: Tensor,
    camera_a: Cameras,
    depth_b: Tensor,
    camera_b: Cameras,
    *,
    tolerance: float,
) -> Transfer:
    """Where places of picture a lie in picture b.

    Args:
        places: ``[P, 2]`` x and y in 0..1 of picture a.
        depth_a: ``[Ha, Wa]`` z of picture a.
        camera_a: One camera, at the size of ``depth_a``.
        depth_b: ``[Hb, Wb]`` z of picture b.
        camera_b: One camera, at the size of ``depth_b``.
        tolerance: A point is visible if its depth is known in a, it lies in front of b and inside
            its picture, b's depth is known there, and ``|z - depth_b| <= tolerance * z``.

    Raises:
        ValueError: A shape is wrong.
    """
    check_dims(depth_a=(depth_a, "Ha Wa"), depth_b=(depth_b, "Hb Wb"))
    points, known = unproject(places, DepthMaps.of([depth_a], camera_a), tolerance)
    found, z, seen = DepthMaps.of([depth_b], camera_b).find(points, tolerance)
    return Transfer(
        torch.where(known[:, None], found[0], _OUTSIDE).float(),
        points,
        torch.where(known, z[0], 0.0),
        known & seen[0],
    )


def grid_places(width: int, height: int, step: int = 1) -> Tensor:
    """Centres of every ``step``-th pixel of a picture, ``[P, 2]`` float64 in 0..1."""

    def centres(size: int) -> Tensor:
        first = min(step - 1, size - 1) // 2
        return (torch.arange(first, size, step, dtype=torch.float64) + 0.5) / size

    y, x = centres(height), centres(width)
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns.reshape(-1), rows.reshape(-1)], dim=1)


def overlap(
    depth_a: Tensor,
    camera_a: Cameras,
    depth_b: Tensor,
    camera_b: Cameras,
    tolerance: float,
    step: int = 1,
) -> float:
    """Share of the known pixels of a that b sees, 0 where a knows none.

    Args:
        depth_a: ``[Ha, Wa]``.
        camera_a: One camera, at the size of ``depth_a``.
        depth_b: ``[Hb, Wb]``.
        camera_b: One camera, at the size of ``depth_b``.
        tolerance: See ``transfer``.
        step: Looks at every ``step``-th pixel of every ``step``-th row of a.
    """
    places = grid_places(depth_a.shape[1], depth_a.shape[0], step)
    points, known = unproject(places, DepthMaps.of([depth_a], camera_a), tolerance)
    _, _, seen = DepthMaps.of([depth_b], camera_b).find(points[known], tolerance)
    return float(seen.double().mean()) if bool(known.any()) else 0.0


def rotation_angle(viewmat_a: Tensor, viewmat_b: Tensor) -> Tensor:
    """Angle of the rotation between cameras, degrees in 0..180.

    Args:
        viewmat_a: ``[..., 3 or 4, 3 or 4]``.
        viewmat_b: The same, broadcast against it.

    Returns:
        ``[...]`` float64.
    """
    a, b = viewmat_a[..., :3, :3].double(), viewmat_b[..., :3, :3].double()
    turn = a @ b.transpose(-1, -2)
    cosine = (turn.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    # |R - R^T| = 2 sqrt(2) sin: exact for small angles, where the cosine alone is not.
    sine = (turn - turn.transpose(-1, -2)).flatten(-2).norm(dim=-1) / (2 * math.sqrt(2))
    return torch.rad2deg(torch.atan2(sine, cosine))


def _inverse(depth: Tensor) -> Tensor:
    return 1 / torch.where(depth > 0, depth, 1.0)
