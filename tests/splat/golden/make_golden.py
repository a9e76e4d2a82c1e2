"""Writes the golden files beside it: what gsplat 1.5.3 makes of a small scene.

    python tests/splat/golden/make_golden.py

From gsplat's own torch functions (``gsplat.cuda._torch_impl``, float64, CPU): the covariances, the
projection (centres, depths, conics, radii at 3.33 standard deviations), the harmonics and the tile
lists with their order. Ours is only the accumulation over those lists, written from the formulas
of gsplat's ``RasterizeToPixels3DGSFwd.cu``, since its torch version needs a GPU for the lists; it
is made with 0.99 as the limit of alpha, which gsplat's main branch and fit3d use; of the release's
limit, 0.999, only the alphas are kept.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
COUNT, WIDTH, HEIGHT, TILE = 24, 21, 18, 16
ALPHA_MIN, T_MIN = 1 / 255, 1e-4


def make_scene() -> dict[str, Tensor]:
    """Gaussians around the origin: wide and narrow, faint and opaque, some with alpha > 0.99."""
    rng = torch.Generator().manual_seed(7)
    opacities = torch.rand(COUNT, generator=rng)
    opacities[::6] = 1.0
    opacities[5], opacities[11] = 0.003, 0.0045  # below and just above 1/255
    return {
        "means": torch.randn(COUNT, 3, generator=rng) * 0.6,
        "quats": torch.randn(COUNT, 4, generator=rng),
        "scales": torch.exp(torch.randn(COUNT, 3, generator=rng) * 0.7 - 1.8),
        "opacities": opacities,
        "sh": 0.4 * torch.randn(COUNT, 16, 3, generator=rng),
    }


def make_cameras() -> list[tuple[Tensor, Tensor]]:
    """Straight on; turned with a moved principal point; from within, with Gaussians behind."""
    cameras = []
    for (ax, ay), position, focal, centre in (
        ((0.0, 0.0), (0.0, 0.0, 3.0), 20.0, (10.5, 9.0)),
        ((0.5, -0.8), (0.2, -0.1, 2.2), 16.0, (8.0, 11.5)),
        ((-1.1, 2.3), (0.0, 0.0, 0.4), 9.0, (10.5, 9.0)),
    ):
        turn_x = [[1, 0, 0], [0, math.cos(ax), -math.sin(ax)], [0, math.sin(ax), math.cos(ax)]]
        turn_y = [[math.cos(ay), 0, math.sin(ay)], [0, 1, 0], [-math.sin(ay), 0, math.cos(ay)]]
        viewmat = torch.eye(4)
        viewmat[:3, :3] = torch.tensor(turn_x) @ torch.tensor(turn_y)
        viewmat[:3, 3] = torch.tensor(position)
        K = torch.tensor([[focal, 0, centre[0]], [0, 1.1 * focal, centre[1]], [0, 0, 1]])
        cameras.append((viewmat, K))
    return cameras


def accumulate(
    means2d: Tensor, conics: Tensor, opacities: Tensor, values: Tensor,
    offsets: Tensor, ids: Tensor, alpha_max: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Values ``[H, W, D]`` and alphas ``[H, W]`` from gsplat's tile lists."""
    image = torch.zeros(HEIGHT, WIDTH, values.shape[1], dtype=torch.float64)
    alphas = torch.zeros(HEIGHT, WIDTH, dtype=torch.float64)
    ends = torch.cat([offsets.flatten()[1:], torch.tensor([len(ids)])]).tolist()
    columns = offsets.shape[1]
    for y in range(HEIGHT):
        for x in range(WIDTH):
            tile = y // TILE * columns + x // TILE
            left = 1.0
            for n in ids[int(offsets.flatten()[tile]) : ends[tile]].tolist():
                dx, dy = (means2d[n] - torch.tensor([x + 0.5, y + 0.5])).tolist()
                a, b, c = conics[n].tolist()
                sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
                alpha = min(alpha_max, float(opacities[n]) * math.exp(-sigma))
                if sigma < 0 or alpha < ALPHA_MIN:
                    continue
                if left * (1 - alpha) <= T_MIN:
                    break
                image[y, x] += alpha * left * values[n]
                left *= 1 - alpha
            alphas[y, x] = 1 - left
    return image, alphas


def make_golden() -> dict[str, dict[str, np.ndarray]]:
    """The files' arrays by file name."""
    from gsplat.cuda import _torch_impl as impl

    scene = make_scene()
    exact = {name: tensor.double() for name, tensor in scene.items()}
    covars, _ = impl._quat_scale_to_covar_preci(
        exact["quats"], exact["scales"], compute_preci=False
    )
    files = {"scene.npz": {name: tensor.numpy() for name, tensor in scene.items()}}
    for index, (viewmat, K) in enumerate(make_cameras()):
        view, intrinsics = viewmat.double(), K.double()
        radii, means2d, depths, conics, _ = (
            None if out is None else out[0]
            for out in impl._fully_fused_projection(
                exact["means"], covars, view[None], intrinsics[None], WIDTH, HEIGHT,
                eps2d=0.3, near_plane=0.01, far_plane=1e10,
            )
        )  # fmt: skip
        # The torch version does not look at opacities; the CUDA one culls those below 1/255.
        radii[scene["opacities"] < ALPHA_MIN] = 0
        center = -view[:3, :3].T @ view[:3, 3]
        colors = (
            impl._spherical_harmonics(3, exact["means"] - center, exact["sh"]) + 0.5
        ).clamp_min(0)
        rows, columns = -(-HEIGHT // TILE), -(-WIDTH // TILE)
        _, keys, ids = impl._isect_tiles(
            means2d[None], radii[None], depths[None], TILE, columns, rows
        )
        offsets = impl._isect_offset_encode(keys, 1, columns, rows)[0]
        arrays = {
            "viewmat": viewmat, "K": K, "radii": radii.short(), "means2d": means2d,
            "depths": depths, "conics": conics, "colors": colors,
        }  # fmt: skip
        for name, alpha_max in (("main", 0.99), ("release", 0.999)):
            image, alphas = accumulate(
                means2d, conics, exact["opacities"], colors, offsets, ids, alpha_max
            )
            arrays[f"alphas_{name}"] = alphas
            if name == "main":
                arrays["image_main"] = image
        files[f"view{index}.npz"] = {
            name: tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
            for name, tensor in arrays.items()
        }
    return files


if __name__ == "__main__":
    for file, arrays in make_golden().items():
        np.savez_compressed(HERE / file, **arrays)
        print(f"{file}: {(HERE / file).stat().st_size} bytes")
