"""What is splatted: a lifted scene from an archive, or a seeded room.

The room: a box of 5 x 4 x 2.6 m with six smaller boxes in it. Gaussians lie on the surfaces at
random, scattered along the normal by one standard deviation of their own; their sizes are
log-normal around ``SPREAD`` times the mean spacing, so that a picture's pairs per pixel hardly
depend on N. Opacities are the logistic of a normal (mean -1, deviation 2.2), which is what a fit
to a real capture gave; at most 0.98, as some rasterisers clamp alpha at 0.99 and others at 0.999.
``SPREAD`` was chosen so that 400,000 Gaussians give about the lists of that capture.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.options import Setup
from benchmarks.rivals import lists, pairs
from benchmarks.rivals.lists import Inputs
from fit3d_cli.archive import read_archive
from fit3d_cli.decoders import Decoder
from fit3d_cli.geometry.cameras import Cameras, stack_cameras
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.geometry.rotations import look_at
from fit3d_cli.splat.rasterize import view_weights
from fit3d_cli.splat.view import View

SPREAD = 1.2
_ROOM = (5.0, 4.0, 2.6)


@dataclass(frozen=True)
class BenchScene:
    """Gaussians, values and cameras.

    Attributes:
        origin: Where it comes from, for the JSON.
        gaussians: N Gaussians.
        features: ``[N, D]``.
        cameras: All at the size of the benchmark.
        decoder: Of the archive, None for the room.
        grid: Token grid ``(h, w)``.
    """

    origin: dict[str, Any]
    gaussians: Gaussians
    features: Tensor
    cameras: Cameras
    decoder: Decoder | None
    grid: tuple[int, int]

    @property
    def inputs(self) -> Inputs:
        """As the rasterisers take it."""
        g = self.gaussians
        return Inputs(g.means, g.quats, g.scales, g.opacities, self.features)

    def view(self, index: int) -> View:
        """A camera as the rasterisers take it."""
        width, height = self.cameras.sizes[index].tolist()
        camera = self.cameras.viewmats[index], self.cameras.Ks[index]
        return View(*camera, int(width), int(height)).to(torch.float32)


def load(setup: Setup) -> BenchScene:
    """The scene that a run asks for; its values have ``setup.dim`` channels."""
    if setup.scene is None:
        return room(setup.synthetic, setup)
    scene = read_archive(Path(setup.scene))
    cameras = [scene.cameras[i].resized(setup.width, setup.height) for i in range(len(scene.names))]
    features = fit_channels(scene.features, setup.dim, setup.seed)
    patch = scene.source.patch_size
    return BenchScene(
        {"kind": "archive", "name": scene.name, "backbone": scene.source.backbone},
        scene.gaussians,
        features,
        stack_cameras(cameras),
        scene.decoder if scene.decoder.in_dim == setup.dim else None,
        (setup.height // patch, setup.width // patch),
    )


def fit_channels(features: Tensor, dim: int, seed: int) -> Tensor:
    """The first ``dim`` channels; missing ones are drawn with the spread of those that exist."""
    missing = dim - features.shape[1]
    if missing <= 0:
        return features[:, :dim].contiguous()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(features), missing, generator=generator) * features.std()
    return torch.cat([features, drawn], 1)


def room(count: int, setup: Setup) -> BenchScene:
    """The seeded room with ``count`` Gaussians, seen from 100 places within it."""
    generator = torch.Generator().manual_seed(setup.seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    size = torch.tensor([_ROOM, *([0.4, 0.4, 0.4],) * 6])
    size[1:] += uniform(6, 3) * torch.tensor([1.2, 0.8, 1.2])
    corner = torch.cat([torch.zeros(1, 3), uniform(6, 3) * (size[:1] - size[1:])])
    corner[1:, 2] = 0
    # Six faces of each box: area, and the axis that is fixed at 0 or 1.
    axis = torch.arange(3).repeat(len(size), 2)
    end = torch.arange(2).repeat_interleave(3).repeat(len(size), 1)
    area = (size.prod(1)[:, None] / size.gather(1, axis)).flatten()
    face = torch.multinomial(area, count, replacement=True, generator=generator)
    box, axis, end = face // 6, axis.flatten()[face], end.flatten()[face]
    place = uniform(count, 3).scatter(1, axis[:, None], end[:, None].float())
    spacing = math.sqrt(float(area.sum()) / count)
    scales = SPREAD * spacing * torch.exp(0.35 * normal(count, 3))
    thin = scales.gather(1, axis[:, None]) * 0.6
    means = corner[box] + place * size[box]
    means = means.scatter_add(1, axis[:, None], thin * normal(count, 1))
    quats = torch.nn.functional.normalize(
        torch.tensor([1.0, 0.0, 0.0, 0.0]) + 0.3 * normal(count, 4)
    )
    gaussians = Gaussians(
        means,
        quats,
        scales.scatter(1, axis[:, None], thin),
        torch.sigmoid(2.2 * normal(count) - 1).clamp_max(0.98),
        torch.zeros(count, 1, 3),
    )
    return BenchScene(
        {"kind": "synthetic room", "count": count, "seed": setup.seed, "spread": SPREAD},
        gaussians,
        normal(count, setup.dim),
        _walk(setup),
        None,
        (setup.height // 16, setup.width // 16),
    )


def _walk(setup: Setup, views: int = 100) -> Cameras:
    """Cameras on an ellipse in the room, each looking past its middle to the far side."""
    angle = torch.arange(views, dtype=torch.float64) * (2 * math.pi / views)
    middle = torch.tensor(_ROOM, dtype=torch.float64) / 2
    reach = middle * torch.tensor([0.7, 0.7, 0.0], dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    viewmats = look_at(middle + reach * circle, middle - 0.6 * reach * circle, up)
    focal = 0.8125 * setup.width
    K = torch.tensor([[focal, 0, setup.width / 2], [0, focal, setup.height / 2], [0, 0, 1]])
    sizes = torch.tensor([setup.width, setup.height]).expand(views, 2)
    return Cameras(viewmats, K.double().expand(views, 3, 3).clone(), sizes.clone())


def typical_view(scene: BenchScene, candidates: int = 9) -> int:
    """The view with the median number of (Gaussian, tile) pairs among some evenly spaced ones."""
    step = max(1, len(scene.cameras) // candidates)
    chosen = list(range(0, len(scene.cameras), step))[:candidates]
    counted = sorted((len(_lists(scene, scene.view(i)).ids), i) for i in chosen)
    return counted[len(counted) // 2][1]


def settle_view(scene: BenchScene, setup: Setup, candidates: int = 9) -> Setup:
    """The settings with a view chosen, if none was given; see ``typical_view``."""
    return setup if setup.view is not None else replace(setup, view=typical_view(scene, candidates))


def _lists(scene: BenchScene, view: View) -> lists.Lists:
    with torch.no_grad():
        return lists.bin_tiles(lists.project(scene.inputs, view), view.width, view.height)


def statistics(scene: BenchScene, view: View) -> dict[str, Any]:
    """What kind of scene it is: how many pairs, how long the lists, how opaque."""
    found = _lists(scene, view)
    lengths = torch.cat([batch.length for batch in found.batches]).double()
    quarters = lengths.quantile(torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64))
    g = scene.gaussians
    weights = view_weights(g, view.viewmat, view.K, view.width, view.height)
    with torch.no_grad():
        flat = lists.project(scene.inputs, view)
    pixels = view.width * view.height
    return {
        "gaussians": len(g),
        "visible": int(flat.seen.sum()),
        "box_entries": len(found.ids),
        "list_length": dict(zip(("q1", "median", "q3", "max"), quarters.tolist(), strict=True)),
        "pairs_per_pixel": pairs.count(flat, found, view) / pixels,
        "stored_lanes_per_pixel": weights.nnz / pixels,
        "mean_alpha": float(weights.alphas.mean()),
        "width": view.width,
        "height": view.height,
        "digest": digest(scene, view),
    }


def digest(scene: BenchScene, view: View) -> str:
    """sha256 of everything that decides the picture."""
    total = hashlib.sha256(f"{view.width} {view.height} {view.near_plane} {view.eps2d}".encode())
    for tensor in (*scene.inputs, view.viewmat, view.K):
        total.update(tensor.detach().contiguous().numpy().tobytes())
    return total.hexdigest()


def with_channels(scene: BenchScene, dim: int, seed: int) -> BenchScene:
    """The same scene with another number of channels."""
    return replace(scene, features=fit_channels(scene.features, dim, seed))
