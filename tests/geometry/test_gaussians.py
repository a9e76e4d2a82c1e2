import dataclasses

import pytest
import torch

from fit3d_cli.geometry.gaussians import SH_C0, Gaussians, rgb_to_sh


def make(count: int = 5, coefficients: int = 4) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    return Gaussians(
        torch.randn(count, 3, generator=generator),
        torch.randn(count, 4, generator=generator),
        torch.rand(count, 3, generator=generator),
        torch.rand(count, generator=generator),
        torch.randn(count, coefficients, 3, generator=generator),
    )


@pytest.mark.parametrize(("coefficients", "degree"), [(1, 0), (4, 1), (9, 2), (16, 3)])
def test_degree(coefficients: int, degree: int) -> None:
    assert make(2, coefficients).sh_degree == degree


@pytest.mark.parametrize(
    ("field", "shape"),
    [("means", (5, 2)), ("quats", (5, 3)), ("scales", (4, 3)), ("opacities", (5, 1)),
     ("sh", (5, 4)), ("sh", (5, 5, 3)), ("sh", (5, 4, 2))],
)  # fmt: skip
def test_wrong_shapes_are_refused(field: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(make(), **{field: torch.zeros(shape)})


def test_select_takes_rows_of_everything() -> None:
    gaussians = make()
    mask = torch.tensor([True, False, True, False, False])
    for index in (mask, torch.tensor([0, 2])):
        chosen = gaussians.select(index)
        assert len(chosen) == 2
        for field in dataclasses.fields(Gaussians):
            assert torch.equal(
                getattr(chosen, field.name), getattr(gaussians, field.name)[[0, 2]]
            ), field.name
    assert len(gaussians.select(torch.zeros(5, dtype=torch.bool))) == 0


def test_to_moves_everything() -> None:
    moved = make().to("meta")
    assert all(getattr(moved, f.name).is_meta for f in dataclasses.fields(Gaussians))


def test_colour_is_the_constant_harmonic() -> None:
    rgb = torch.rand(10, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rgb_to_sh(rgb) * SH_C0 + 0.5, rgb)
    # Y_00 = 1 / (2 sqrt(pi)), so that its square integrates to one over the sphere.
    assert pytest.approx(1) == SH_C0**2 * 4 * torch.pi
