"""Rendered views between the photos, as further samples.

A camera half-way between two neighbouring training views sees what both see, so the scene is well
determined there; its picture and its target are rendered from the same Gaussians.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.finetuning.targets.cache import Made
from fit3d_cli.finetuning.targets.find import SceneTargets
from fit3d_cli.geometry.cameras import Cameras, stack_cameras
from fit3d_cli.geometry.rotations import matrices_to_quats, quats_to_matrices
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.scene import FeatureSource, Scene
from fit3d_cli.splat.rasterize import render_gaussians
from fit3d_cli.tensorfile import MODEL_LIMITS, read_tensors
from fit3d_cli.tensorfile.overflow import Kept, KeptTable, Overflow

_COVERED = 0.5  # mean alpha below which a picture is mostly background
_TURN = 0.5  # scene extents that a turn by half a circle weighs, in search of a neighbour
# Where between two views, best first: the farther from both, the more a picture adds.
_PLACES = (0.5, 0.25, 0.75, 0.375, 0.625, 0.125, 0.875)


def novel_views(targets: SceneTargets, scene: Scene, count: int, on_event: OnEvent) -> Made:
    """Pictures from ``count`` places between training views, fewer if too few show anything.

    Args:
        targets: Which scene.
        scene: The scene, where its Gaussians are splatted.
        count: Wanted pictures.
        on_event: Told about each one, in the end about those that were left out.

    Returns:
        ``p<i>`` ``[H, W, 3]`` uint8, ``viewmats`` ``[n, 4, 4]`` and ``Ks`` ``[n, 3, 3]`` float64;
        metadata ``novel`` = n.
    """
    stage = f"{targets.name}: novel views"
    candidates = between(targets.cameras[list(targets.train)], count)
    overflow = Overflow(targets.folder)
    tensors: dict[str, Tensor | Kept] = {}
    kept: list[int] = []
    empty = 0
    for index in range(len(candidates)):
        if len(kept) == count:
            break
        on_event(Progress(stage, len(kept), count))
        picture = _picture(scene, candidates[index])
        if picture is None:
            empty += 1
            continue
        tensors[f"p{len(kept)}"] = overflow.keep(picture)
        kept.append(index)
    note = f"{empty} places that the scene hardly covers passed over" if empty else ""
    on_event(Progress(stage, len(kept), len(kept), note))
    tensors["viewmats"], tensors["Ks"] = candidates.viewmats[kept], candidates.Ks[kept]
    return KeptTable(tensors), {"novel": str(len(kept))}


def novel_cameras(pictures: Path, source: FeatureSource) -> Cameras:
    """The cameras of rendered views.

    Args:
        pictures: What ``novel_views`` made.
        source: Size of the pictures.

    Raises:
        ArchiveError: The file is gone or damaged.
    """
    found, _ = read_tensors(pictures, ["viewmats", "Ks"], limits=MODEL_LIMITS)
    size = torch.tensor([source.width, source.height])
    return Cameras(found["viewmats"], found["Ks"], size.expand(len(found["Ks"]), 2).clone())


def between(cameras: Cameras, count: int) -> Cameras:
    """Places between neighbours, in the order in which they should be used.

    Each view is paired with the one that is nearest in place and direction. The first ``count``
    places are spread evenly over the pairs; further ones follow, for those that show nothing.

    Args:
        cameras: At least one, all with pictures of one size.
        count: Places that are wanted.

    Returns:
        As many cameras as there are pairs times seven places; none from a single view.
    """
    pairs = neighbours(cameras)
    if not pairs or count <= 0:
        return cameras[[]]
    rounds = [[interpolate(cameras[a], cameras[b], t) for a, b in pairs] for t in _PLACES]
    ordered: list[Cameras] = []
    left = count
    for places in rounds:
        first = _spread(len(places), left)
        chosen = set(first)
        ordered += [places[i] for i in first]
        ordered += [place for i, place in enumerate(places) if i not in chosen]
        left = max(left - len(places), 0)
    return stack_cameras(ordered)


def neighbours(cameras: Cameras) -> list[tuple[int, int]]:
    """Each view with its nearest other one, every pair once, in the order of the views.

    The distance is that of the centres, in scene extents, plus the angle between the cameras;
    views turned by more than a quarter circle share too little and are no neighbours.
    """
    if len(cameras) < 2:
        return []
    rotations = cameras.viewmats[:, :3, :3]
    traces = torch.einsum("aij,bij->ab", rotations, rotations)
    angles = torch.arccos(((traces - 1) / 2).clamp(-1, 1)) / torch.pi
    distances = torch.cdist(cameras.centers, cameras.centers) / max(cameras.extent, 1e-12)
    cost = distances + _TURN * angles
    cost[angles > 0.5] = torch.inf
    cost.fill_diagonal_(torch.inf)
    least, nearest = cost.min(dim=1)
    near = enumerate(zip(least.tolist(), nearest.tolist(), strict=True))
    return sorted({(min(a, b), max(a, b)) for a, (value, b) in near if math.isfinite(value)})


def interpolate(first: Cameras, second: Cameras, t: float) -> Cameras:
    """The camera between two: centre and intrinsics on a line, rotation on the shortest arc.

    The rotation is Shoemake's slerp (1985) of unit quaternions.

    Args:
        first: One camera, where ``t`` is 0.
        second: One camera with pictures of the same size, where ``t`` is 1.
        t: Between 0 and 1.
    """
    quats = matrices_to_quats(torch.cat([first.viewmats, second.viewmats])[:, :3, :3])
    cosine = float((quats[0] * quats[1]).sum())
    end = quats[1] if cosine >= 0 else -quats[1]  # both stand for the same rotation
    angle = torch.arccos(torch.tensor(min(abs(cosine), 1.0), dtype=torch.float64))
    if float(angle) < 1e-6:
        quat = torch.lerp(quats[0], end, t)
    else:
        quat = (torch.sin((1 - t) * angle) * quats[0] + torch.sin(t * angle) * end) / angle.sin()
    rotation = quats_to_matrices(quat[None])[0]
    center = torch.lerp(first.centers[0], second.centers[0], t)
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3], viewmat[:3, 3] = rotation, -(rotation @ center)
    return Cameras(viewmat[None], torch.lerp(first.Ks, second.Ks, t), first.sizes.clone())


def _spread(total: int, wanted: int) -> list[int]:
    """At most ``wanted`` of ``total`` numbers, evenly spread."""
    wanted = min(total, wanted)
    return [(2 * i + 1) * total // (2 * wanted) for i in range(wanted)]


def _picture(scene: Scene, camera: Cameras) -> Tensor | None:
    """``[H, W, 3]`` uint8 over black; None where the scene hardly covers the picture."""
    width, height = map(int, camera.sizes[0].tolist())
    with torch.no_grad():
        made = render_gaussians(scene.gaussians, camera.viewmats[0], camera.Ks[0], width, height)
    if float(made.alphas.mean()) < _COVERED:
        return None
    return (made.rgb.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
