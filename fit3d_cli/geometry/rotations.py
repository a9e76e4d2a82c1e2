"""Quaternions (wxyz) and rotation matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_cli.shapes import check_dims


def quats_to_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices of quaternions, normalising them first.

    Args:
        quats: ``[N, 4]``, wxyz, any non-zero length.

    Returns:
        ``[N, 3, 3]`` rotation matrices, columns are the rotated axes.
    """
    check_dims(quats=(quats, "N 4"))
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)


def matrices_to_quats(matrices: Tensor) -> Tensor:
    """Unit quaternions (wxyz, w >= 0) of rotation matrices.

    The component with the largest magnitude is found first, which keeps the division
    well-conditioned (Shepperd 1978).

    Args:
        matrices: ``[N, 3, 3]`` rotations.

    Returns:
        ``[N, 4]``.
    """
    check_dims(matrices=(matrices, "N 3 3"))
    m = matrices
    m00, m11, m22 = m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]
    # Four candidates, each row is 4 * q_k * q for one k.
    candidates = torch.stack(
        [
            torch.stack(
                [1 + m00 + m11 + m22, m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0],
                 m[:, 1, 0] - m[:, 0, 1]], -1),
            torch.stack(
                [m[:, 2, 1] - m[:, 1, 2], 1 + m00 - m11 - m22, m[:, 1, 0] + m[:, 0, 1],
                 m[:, 0, 2] + m[:, 2, 0]], -1),
            torch.stack(
                [m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] + m[:, 0, 1], 1 - m00 + m11 - m22,
                 m[:, 2, 1] + m[:, 1, 2]], -1),
            torch.stack(
                [m[:, 1, 0] - m[:, 0, 1], m[:, 0, 2] + m[:, 2, 0], m[:, 2, 1] + m[:, 1, 2],
                 1 - m00 - m11 + m22], -1),
        ],
        dim=1,
    )  # fmt: skip
    best = torch.diagonal(candidates, dim1=1, dim2=2).argmax(dim=1)
    quats = candidates[torch.arange(len(m), device=m.device), best]
    quats = torch.nn.functional.normalize(quats, dim=-1)
    return torch.where(quats[:, :1] < 0, -quats, quats)


def look_at(eyes: Tensor, targets: Tensor, up: Tensor) -> Tensor:
    """World-to-camera matrices (OpenCV axes) of cameras that look at targets.

    Args:
        eyes: ``[C, 3]`` camera centres.
        targets: ``[C, 3]`` points that project to the image centre.
        up: ``[3]`` direction that points up in the pictures.

    Returns:
        ``[C, 4, 4]``, same dtype as ``eyes``.
    """
    check_dims(eyes=(eyes, "C 3"), targets=(targets, "C 3"), up=(up, "3"))
    forward = torch.nn.functional.normalize(targets - eyes, dim=-1)
    right = torch.nn.functional.normalize(
        torch.linalg.cross(forward, up.to(eyes).expand_as(forward)), dim=-1
    )
    down = torch.linalg.cross(forward, right)
    rotations = torch.stack([right, down, forward], dim=1)
    viewmats = torch.eye(4, dtype=eyes.dtype, device=eyes.device).repeat(len(eyes), 1, 1)
    viewmats[:, :3, :3] = rotations
    viewmats[:, :3, 3] = -(rotations @ eyes[:, :, None])[:, :, 0]
    return viewmats
