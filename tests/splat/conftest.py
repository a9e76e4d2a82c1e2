"""Small seeded scenes for the splatting tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.geometry.rotations import quats_to_matrices
from fit3d_cli.splat import backends
from fit3d_cli.splat.cuda import loader


@dataclass(frozen=True)
class SmallScene:
    gaussians: Gaussians
    viewmat: Tensor  # [4, 4] float64
    K: Tensor  # [3, 3] float64
    width: int
    height: int

    @property
    def camera(self) -> tuple[Tensor, Tensor, int, int]:
        return self.viewmat, self.K, self.width, self.height

    def geometry(self) -> list[Tensor]:
        g = self.gaussians
        return [g.means, g.quats, g.scales, g.opacities]


def make_scene(
    count: int = 60, width: int = 37, height: int = 29, seed: int = 0, degree: int = 1
) -> SmallScene:
    """Gaussians in front of a turned, off-centre camera; some opaque, some off the picture."""
    rng = torch.Generator().manual_seed(seed)
    z = 1.5 + 3 * torch.rand(count, generator=rng)
    xy = (torch.rand(count, 2, generator=rng) - 0.5) * z[:, None]
    camera_points = torch.cat([xy * 1.2, z[:, None]], dim=1).double()
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = quats_to_matrices(torch.tensor([[0.9, 0.2, -0.3, 0.1]]).double())[0]
    viewmat[:3, 3] = torch.tensor([0.3, -0.2, 0.5])
    points = (camera_points - viewmat[:3, 3]) @ viewmat[:3, :3]
    focal = 0.9 * max(width, height)
    K = torch.tensor(
        [[focal, 0, 0.43 * width], [0, 1.1 * focal, 0.58 * height], [0, 0, 1]], dtype=torch.float64
    )
    gaussians = Gaussians(
        means=points.float(),
        quats=torch.randn(count, 4, generator=rng),  # not unit: the kernels normalise
        scales=torch.exp(torch.randn(count, 3, generator=rng) * 0.6 - 2.2),
        opacities=torch.sigmoid(2 * torch.randn(count, generator=rng) + 0.5),
        sh=0.4 * torch.randn(count, (degree + 1) ** 2, 3, generator=rng),
    )
    return SmallScene(gaussians, viewmat, K, width, height)


@pytest.fixture
def scene_factory() -> Callable[..., SmallScene]:
    return make_scene


@pytest.fixture(params=["fast", "baseline"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test on the best instruction set and on the portable one."""
    from fit3d_cli import _kernels

    _kernels.use_baseline(request.param == "baseline")
    yield request.param
    _kernels.use_baseline(False)


@pytest.fixture(scope="session")
def emulated(repository: Path) -> ModuleType:
    """The CUDA module compiled for the CPU (``make emulated``)."""
    found = list((repository / "build" / "emulated").glob("_cuda*.so"))
    assert found, "the CUDA kernels are not built for the CPU: run make emulated"
    spec = importlib.util.spec_from_file_location("fit3d_cli._cuda", found[0])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Where there is no GPU its variants do not exist: dozens of skipped tests would say nothing.
_WHERE = ["emulated"]
if torch.cuda.is_available():
    _WHERE.append(pytest.param("cuda", marks=pytest.mark.gpu))


@pytest.fixture(params=_WHERE)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where the CUDA engine's tensors lie: on the CPU in the emulator, or on a GPU."""
    if request.param == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    module = request.getfixturevalue("emulated")
    monkeypatch.setattr(loader, "load", lambda: module)
    monkeypatch.setattr(backends, "automatic", lambda _: "cuda")
    return torch.device("cpu")
