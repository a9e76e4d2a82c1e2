"""The first Gaussians: from depth frames, sparse points, triangulation, or nothing at all."""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.geometry.gaussians import Gaussians, rgb_to_sh
from fit3d_cli.lifting.views import Frames
from fit3d_cli.shapes import check_dims

_START_OPACITY = 0.1  # 3DGS; depth-initialised surfaces start higher because they are known
_SURFACE_OPACITY = 0.5


def fuse_depth(
    frames: Frames, train: list[int], count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Back-project the depth frames and keep one point per occupied voxel.

    The voxel size is found by bisection so that about ``count`` voxels are occupied.

    Args:
        frames: Loaded views; those without depth are skipped.
        train: Indices of the training views.
        count: Wanted number of points, at most.
        generator: Draws the sampled pixels.

    Returns:
        ``[M, 3]`` float64 points and ``[M, 3]`` float32 colours in 0..1, M <= count.
    """
    points, colors = [], []
    per_view = max(64, 8 * count // max(1, len(train)))
    for index in train:
        depth = frames.depths[index]
        if depth is None:
            continue
        usable = ((depth > 0) & frames.masks[index]).nonzero()
        if len(usable) == 0:
            continue
        picked = usable[torch.randperm(len(usable), generator=generator)[:per_view]]
        rows, cols = picked[:, 0], picked[:, 1]
        pixels = torch.stack([cols, rows], 1).double() + 0.5
        points.append(backproject(frames.cameras[index], pixels, depth[rows, cols].double()))
        colors.append(frames.image(index)[rows, cols])
    if not points:
        return torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3)
    return _thin(torch.cat(points), torch.cat(colors), count)


def backproject(camera: Cameras, pixels: Tensor, depth: Tensor) -> Tensor:
    """World points of pixels with known depth.

    Args:
        camera: One camera.
        pixels: ``[M, 2]`` float64 x, y; pixel centres at +0.5.
        depth: ``[M]`` float64 z along the optical axis.

    Returns:
        ``[M, 3]`` float64.
    """
    check_dims(pixels=(pixels, "M 2"), depth=(depth, "M"))
    homogeneous = torch.cat([pixels, torch.ones(len(pixels), 1, dtype=torch.float64)], 1)
    rays = homogeneous @ torch.linalg.inv(camera.Ks[0]).T
    camtoworld = camera.camtoworlds[0]
    points: Tensor = (rays * depth[:, None]) @ camtoworld[:3, :3].T + camtoworld[:3, 3]
    return points


def random_points(
    cameras: Cameras, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Points inside the viewing frusta, uniform in inverse depth.

    Without any knowledge of the geometry the nearest depth is a tenth of the scene extent and
    the farthest five extents; inverse depth spreads them evenly over parallax.

    Args:
        cameras: Training cameras.
        count: Number of points.
        generator: Draws cameras, pixels and depths.

    Returns:
        ``[count, 3]`` float64 points and ``[count, 3]`` grey colours.
    """
    extent = max(cameras.extent, 1e-3)
    near, far = 0.1 * extent, 5 * extent
    owner = torch.randint(len(cameras), (count,), generator=generator)
    points = torch.zeros(count, 3, dtype=torch.float64)
    for index in range(len(cameras)):
        mine = (owner == index).nonzero()[:, 0]
        draws = torch.rand(len(mine), 3, generator=generator, dtype=torch.float64)
        pixels = draws[:, :2] * cameras.sizes[index].double()
        depth = 1 / (1 / far + draws[:, 2] * (1 / near - 1 / far))
        points[mine] = backproject(cameras[index], pixels, depth)
    return points, torch.full((count, 3), 0.5)


def gaussians_from_points(
    points: Tensor, colors: Tensor, count: int, *, sh_degree: int, surface: bool
) -> Gaussians:
    """Isotropic Gaussians whose size is the distance to their neighbours (3DGS).

    Args:
        points: ``[M, 3]`` world.
        colors: ``[M, 3]`` in 0..1.
        count: More points than this are thinned by voxels.
        sh_degree: Degree of the colour; the higher coefficients start at zero.
        surface: Whether the points lie on measured surfaces, and so start more opaque.
    """
    if len(points) > count:
        points, colors = _thin(points.double(), colors, count)
    means = points.float()
    distance = neighbour_distance(means)
    scales = distance.clamp_min(1e-7)[:, None].repeat(1, 3)
    quats = torch.zeros(len(means), 4)
    quats[:, 0] = 1
    sh = torch.zeros(len(means), (sh_degree + 1) ** 2, 3)
    sh[:, 0] = rgb_to_sh(colors.float())
    opacity = _SURFACE_OPACITY if surface else _START_OPACITY
    return Gaussians(means, quats, scales, torch.full((len(means),), opacity), sh)


def neighbour_distance(points: Tensor, neighbours: int = 3) -> Tensor:
    """Root mean squared distance to the nearest neighbours.

    Args:
        points: ``[N, 3]`` float32.
        neighbours: How many.

    Returns:
        ``[N]``; outliers are limited to ten times the median.
    """
    total = len(points)
    if total <= neighbours:
        return torch.full((total,), 0.01)
    # Sorting along a direction turns the search into a window: a neighbour farther along it than
    # the current best cannot win, so a generous window is nearly exact. The direction is oblique
    # to walls and floors, which would else lie in one slice of the order.
    centred = points - points.mean(0)
    oblique = torch.nn.functional.normalize(torch.tensor([1.0, 0.618, 0.382]), dim=0)
    order = torch.argsort(centred @ oblique)
    ordered = centred[order]
    window, chunk = 2048, 1024
    result = torch.empty(total)
    for first in range(0, total, chunk):
        last = min(total, first + chunk)
        low, high = max(0, first - window), min(total, last + window)
        distances = torch.cdist(ordered[first:last], ordered[low:high])
        nearest = distances.topk(neighbours + 1, largest=False).values[:, 1:]
        result[order[first:last]] = nearest.square().mean(1).sqrt()
    return result.clamp_max(10 * result.median())


def _thin(points: Tensor, colors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Average the points of each voxel, with voxels so large that at most ``count`` remain."""
    low = points.amin(0)
    # The span between quantiles ignores stray points far away, which would need huge voxels.
    spread = float(_span(points).max())
    small, large = spread * 1e-5, spread
    keys = _voxels(points, low, small)
    for _ in range(24):
        middle = (small * large) ** 0.5
        trial = _voxels(points, low, middle)
        if int(trial.max()) + 1 > count:
            small = middle
        else:
            large, keys = middle, trial
    total = int(keys.max()) + 1
    if total > count:
        return points[:count], colors[:count]
    weight = torch.zeros(total, dtype=torch.float64).index_add_(
        0, keys, torch.ones(len(keys), dtype=torch.float64)
    )
    mean = torch.zeros(total, 3, dtype=torch.float64).index_add_(0, keys, points.double())
    color = torch.zeros(total, 3, dtype=torch.float64).index_add_(0, keys, colors.double())
    return mean / weight[:, None], (color / weight[:, None]).float()


def _span(points: Tensor) -> Tensor:
    ordered = points.sort(dim=0).values
    last = len(ordered) - 1
    return (ordered[int(0.98 * last)] - ordered[int(0.02 * last)]).clamp_min(1e-9)


def _voxels(points: Tensor, low: Tensor, size: float) -> Tensor:
    """Index of each point's voxel among the occupied voxels, ``[M]`` int64."""
    cells = ((points - low) / size).floor().clamp_max(2**20).to(torch.int64)
    flat = (cells[:, 0] * (2**21) + cells[:, 1]) * (2**21) + cells[:, 2]
    inverse: Tensor = torch.unique(flat, return_inverse=True)[1]
    return inverse
