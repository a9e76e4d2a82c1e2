import math

import torch
from torch import Tensor

from fit3d_cli.geometry.rotations import look_at, matrices_to_quats, quats_to_matrices


def random_quats(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    quats = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(quats, dim=1)


def product(p: Tensor, q: Tensor) -> Tensor:
    """Hamilton's product, component by component."""
    a, b, c, d = p.unbind(1)
    w, x, y, z = q.unbind(1)
    return torch.stack(
        [
            a * w - b * x - c * y - d * z,
            a * x + b * w + c * z - d * y,
            a * y - b * z + c * w + d * x,
            a * z + b * y - c * x + d * w,
        ],
        dim=1,
    )


def test_matrices_are_rotations() -> None:
    matrices = quats_to_matrices(random_quats(50))
    eye = torch.eye(3, dtype=torch.float64).expand(50, 3, 3)
    torch.testing.assert_close(matrices @ matrices.transpose(1, 2), eye, rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(50, dtype=torch.float64))


def test_product_of_quats_is_product_of_matrices() -> None:
    p, q = random_quats(50, 1), random_quats(50, 2)
    torch.testing.assert_close(
        quats_to_matrices(product(p, q)), quats_to_matrices(p) @ quats_to_matrices(q)
    )
    identity = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)
    assert torch.equal(quats_to_matrices(identity)[0], torch.eye(3, dtype=torch.float64))
    conjugate = p * torch.tensor([1.0, -1, -1, -1])
    torch.testing.assert_close(
        quats_to_matrices(conjugate), quats_to_matrices(p).transpose(1, 2), rtol=0, atol=1e-15
    )


def test_handedness_and_axis_order() -> None:
    half = math.sqrt(0.5)
    about_z = quats_to_matrices(torch.tensor([[half, 0, 0, half]], dtype=torch.float64))[0]
    # A quarter turn about +z takes x to y; wxyz read as xyzw would be another turn.
    torch.testing.assert_close(
        about_z @ torch.tensor([1.0, 0, 0], dtype=torch.float64),
        torch.tensor([0.0, 1, 0], dtype=torch.float64),
    )


def test_length_does_not_matter() -> None:
    quats = random_quats(20)
    torch.testing.assert_close(quats_to_matrices(7 * quats), quats_to_matrices(quats))


def test_round_trip_also_where_w_is_small() -> None:
    quats = torch.cat([random_quats(200), torch.eye(4, dtype=torch.float64), random_quats(40, 3)])
    quats[-40:, 0] *= 1e-9  # half turns, where the naive formula divides by nothing
    quats = torch.nn.functional.normalize(quats, dim=1)
    back = matrices_to_quats(quats_to_matrices(quats))
    assert (back[:, 0] >= 0).all()
    # q and -q are the same rotation.
    assert ((back * quats).sum(1).abs() - 1).abs().max() < 1e-12
    torch.testing.assert_close(quats_to_matrices(back), quats_to_matrices(quats))


def test_look_at_puts_target_in_the_middle_and_up_upwards() -> None:
    generator = torch.Generator().manual_seed(0)
    eyes, targets = torch.randn(2, 30, 3, generator=generator, dtype=torch.float64)
    up = torch.tensor([0.0, 0, 1], dtype=torch.float64)
    viewmats = look_at(eyes, targets, up)

    def to_camera(points: Tensor) -> Tensor:
        return (viewmats[:, :3, :3] @ points[:, :, None])[:, :, 0] + viewmats[:, :3, 3]

    seen = to_camera(targets)
    torch.testing.assert_close(seen[:, :2], torch.zeros(30, 2, dtype=torch.float64))
    torch.testing.assert_close(seen[:, 2], (targets - eyes).norm(dim=1))
    torch.testing.assert_close(to_camera(eyes), torch.zeros(30, 3, dtype=torch.float64))
    # OpenCV's y points down, so something above the target is projected to negative y.
    above = to_camera(targets + 0.1 * up)
    assert (above[:, 1] < 0).all()
    torch.testing.assert_close(above[:, 0], torch.zeros(30, dtype=torch.float64))
    torch.testing.assert_close(
        torch.linalg.det(viewmats[:, :3, :3]), torch.ones(30, dtype=torch.float64)
    )
