"""Projection, colours and pictures against files that gsplat 1.5.3's torch functions wrote.

``golden/make_golden.py`` says which parts are gsplat's and which ours. Where gsplat itself is not
of one mind, these are the conventions and the numbers:

- limit of alpha: 0.999 in the release (all its rasterisation kernels), 0.99 on its main branch and
  here. Only pixels that some Gaussian covers with alpha > 0.99 differ (``test_limit_of_alpha``).
- extent: its torch function takes 3.33 standard deviations whatever the opacity; its CUDA one
  min(3.33, sqrt(2 ln(255 opacity))) and culls opacities below 1/255. Ours is the latter, and since
  sqrt(2 ln 255) = 3.329 the minimum never decides. Values do not depend on it: beyond the extent
  alpha is below 1/255, which all skip.
- near plane: its CUDA projection keeps z = near_plane, its torch one and ours do not.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.splat.kernel import Harmonics, Project
from fit3d_cli.splat.rasterize import rasterize, render_gaussians
from fit3d_cli.splat.view import View

GOLDEN = Path(__file__).parent / "golden"
WIDTH, HEIGHT = 21, 18
ALPHA_MIN = 1 / 255


def _load(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / name, allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.fixture(scope="module")
def gaussians() -> Gaussians:
    return Gaussians(**_load("scene.npz"))


@pytest.fixture(params=[0, 1, 2])
def view(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    return _load(f"view{request.param}.npz")


def test_projection(gaussians: Gaussians, view: dict[str, Tensor]) -> None:
    g = gaussians
    camera = View(view["viewmat"], view["K"], WIDTH, HEIGHT)
    means2d, conics, depths, radii = Project.apply(
        g.means, g.quats, g.scales, g.opacities, camera, 1
    )
    theirs, ours = (view["radii"] > 0).all(1), (radii > 0).all(1)
    assert 8 <= int(ours.sum()) < len(g)
    assert not (ours & ~theirs).any()  # our extents are never larger than 3.33 sigma
    # Files hold float32 of float64 results; ours are float32 chains of about 50 operations.
    torch.testing.assert_close(means2d[ours], view["means2d"][ours], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(conics[ours], view["conics"][ours], rtol=3e-5, atol=1e-6)
    torch.testing.assert_close(depths[ours], view["depths"][ours], rtol=1e-6, atol=1e-6)
    # The extent of gsplat's CUDA projection, from the file's conics.
    a, b, c = view["conics"].double().unbind(1)
    variances = torch.stack([c, a], 1) / (a * c - b * b)[:, None]
    opaque = g.opacities.double().clamp_min(ALPHA_MIN)
    extend = (2 * torch.log(opaque / ALPHA_MIN)).sqrt().clamp(max=3.33)
    exact = extend[:, None] * variances.sqrt()
    # A ceiling: rounding may move those that lie on a whole number.
    expected = torch.ceil(exact).clamp_min(1).int()
    clear = ((exact - exact.round()).abs() > 1e-3) & ours[:, None]
    assert torch.equal(radii[clear], expected[clear]) and int(clear.sum()) > 10
    # Whoever of theirs is not ours is off the picture by the smaller extent, or too faint.
    lost = theirs & ~ours
    reach = torch.where(g.opacities[:, None] >= ALPHA_MIN, expected.double(), -math.inf)
    middle = view["means2d"].double()
    size = torch.tensor([WIDTH, HEIGHT])
    assert ((middle + reach <= 0) | (middle - reach >= size)).any(1)[lost].all()


def test_colours(gaussians: Gaussians, view: dict[str, Tensor]) -> None:
    g, everyone = gaussians, torch.ones(len(gaussians), 2, dtype=torch.int32)
    center = -(view["viewmat"][:3, :3].T @ view["viewmat"][:3, 3])
    colors = Harmonics.apply(g.sh, g.means, everyone, center, 3, 1)
    # Sixteen float32 terms.
    torch.testing.assert_close((colors + 0.5).clamp_min(0), view["colors"], rtol=0, atol=1e-5)


def test_picture(gaussians: Gaussians, view: dict[str, Tensor], isa: str) -> None:
    """Everything at once, from 3D parameters to the picture."""
    picture = render_gaussians(gaussians, view["viewmat"], view["K"], WIDTH, HEIGHT)
    assert (view["alphas_main"] > 0.05).float().mean() > 0.3
    # No pixel of these scenes lies so close to a threshold that float32 decides differently.
    torch.testing.assert_close(picture.rgb, view["image_main"], rtol=0, atol=2e-5)
    torch.testing.assert_close(picture.alphas, view["alphas_main"], rtol=0, atol=1e-5)


def test_limit_of_alpha(gaussians: Gaussians, view: dict[str, Tensor]) -> None:
    """0.99 and 0.999 differ by at most 0.01 of alpha, and only where a Gaussian exceeds 0.99."""
    g = gaussians
    dx = view["means2d"][:, None] - torch.stack(
        torch.meshgrid(torch.arange(WIDTH) + 0.5, torch.arange(HEIGHT) + 0.5, indexing="xy"), -1
    ).reshape(-1, 2)
    a, b, c = view["conics"][..., None].unbind(1)
    sigma = 0.5 * (a * dx[..., 0] ** 2 + c * dx[..., 1] ** 2) + b * dx[..., 0] * dx[..., 1]
    raw = g.opacities[:, None] * torch.exp(-sigma) * (view["radii"][:, :1] > 0)
    clamped = (raw > 0.99).any(0).reshape(HEIGHT, WIDTH)
    out = rasterize(
        g.means, g.quats, g.scales, g.opacities, view["colors"], view["viewmat"], view["K"],
        WIDTH, HEIGHT,
    )  # fmt: skip
    apart = (out.alphas - view["alphas_release"]).abs()
    assert (apart[~clamped] <= 1e-5).all()  # float32
    assert (apart <= 0.01).all()


def test_files_are_what_the_script_writes() -> None:
    pytest.importorskip("gsplat.cuda._torch_impl")
    spec = importlib.util.spec_from_file_location("make_golden", GOLDEN / "make_golden.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    files = script.make_golden()
    assert set(files) == {path.name for path in GOLDEN.glob("*.npz")}
    for name, arrays in files.items():
        stored = _load(name)
        assert set(stored) == set(arrays)
        for key, array in arrays.items():
            # torch's matrix products may round differently on another processor.
            np.testing.assert_allclose(stored[key].numpy(), array, rtol=1e-5, atol=1e-6)
