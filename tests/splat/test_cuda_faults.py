"""What a user reads when CUDA cannot be used: one typed error with a remedy each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest
import torch

import fit3d_cli
from fit3d_cli.errors import DeviceError, EnvironmentFault
from fit3d_cli.splat import backends
from fit3d_cli.splat.cuda import loader
from fit3d_cli.splat.rasterize import rasterize, render_gaussians, view_weights

GPU = torch.device("cuda", 0)


@pytest.fixture
def splat(
    scene_factory: Callable, emulated: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], torch.Tensor]:
    """Renders in the emulator, and takes the gradient."""
    monkeypatch.setattr(loader, "load", lambda: emulated)
    scene = scene_factory()

    def run() -> torch.Tensor:
        leaves = [t.requires_grad_() for t in (*scene.geometry(), torch.ones(60, 3))]
        out = rasterize(*leaves, *scene.camera, backend="cuda")
        return torch.autograd.grad(out.values.sum(), leaves)[0]

    return run


def _cuda_error(module: ModuleType, code: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        error = module.CudaError("cudaThing: it did not work")
        error.code = code
        raise error

    return fail


def test_a_build_without_cuda(scene_factory: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fit3d_cli._cuda", None)
    monkeypatch.delattr(fit3d_cli, "_cuda", raising=False)
    scene = scene_factory(count=4)
    with pytest.raises(DeviceError, match="no CUDA kernels") as caught:
        rasterize(*scene.geometry(), torch.ones(4, 3), *scene.camera, backend="cuda")
    assert "FIT3D_CUDA=ON" in caught.value.hint and caught.value.exit_code == 3
    with pytest.raises(DeviceError, match="no CUDA kernels"):
        view_weights(scene.gaussians, *scene.camera, backend="cuda")


@pytest.mark.parametrize(
    ("count", "runs", "message"),
    [(0, True, "no driver answers"), (1, False, "sm_75.* runs no kernels built for 80-real")],
)
def test_a_machine_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, count: int, runs: bool, message: str
) -> None:
    info = SimpleNamespace(name="T4", major=7, minor=5, driver=12040, runtime=13000, runs=runs)
    fake = SimpleNamespace(
        emulated=False, architectures="80-real,90-real", CudaError=RuntimeError,
        device_count=lambda: count, device_info=lambda _: info,
    )  # fmt: skip
    monkeypatch.setattr(loader, "load", lambda: fake)
    with pytest.raises(DeviceError, match=message) as caught:
        loader.require(GPU)
    assert "--device cpu" in caught.value.hint
    if not runs:
        assert "driver 12.4" in str(caught.value) and "CUDA 13.0" in str(caught.value)


def test_a_device_that_is_not_there(emulated: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(emulated=False, CudaError=RuntimeError, device_count=lambda: 1)
    monkeypatch.setattr(loader, "load", lambda: fake)
    with pytest.raises(DeviceError, match="device 3 of 1"):
        loader.require(torch.device("cuda", 3))
    fake.emulated, fake.CudaError = False, emulated.CudaError
    fake.device_count = _cuda_error(emulated, 35)
    with pytest.raises(DeviceError, match="driver is older"):
        loader.require(GPU)


def test_tensors_elsewhere(splat: Callable, scene_factory: Callable) -> None:
    scene = scene_factory(count=4)
    means, quats, scales, opacities = scene.geometry()
    values = torch.ones(4, 3)
    with pytest.raises(DeviceError, match="tensors on meta"):
        geometry = [t.to("meta") for t in scene.geometry()]
        rasterize(*geometry, values.to("meta"), *scene.camera, backend="cuda")
    with pytest.raises(DeviceError, match="quats is on meta, the others on cpu"):
        rasterize(means, quats.to("meta"), scales, opacities, values, *scene.camera, backend="cuda")
    with pytest.raises(DeviceError, match="values is on meta"):
        rasterize(*scene.geometry(), values.to("meta"), *scene.camera, backend="cuda")
    with pytest.raises(TypeError, match="scales is"):
        rasterize(means, quats, scales.half(), opacities, values, *scene.camera, backend="cuda")


def test_no_memory_for_a_tensor(splat: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = torch.empty

    def meagre(shape, **options):
        if len(shape) == 2 and shape[1] == 32:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return honest(shape, **options)

    monkeypatch.setattr(torch, "empty", meagre)
    with pytest.raises(EnvironmentFault, match=r"weights of one view needs \d+\.\d+ GiB") as caught:
        splat()
    assert caught.value.exit_code == 3 and "fewer Gaussians" in caught.value.hint


@pytest.mark.parametrize("name", ["project_forward", "weights_fill", "apply", "reduce_moments"])
@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [(2, EnvironmentFault, "no memory"), (209, DeviceError, "cannot run"),
     (35, DeviceError, "driver is older")],
)  # fmt: skip
def test_a_call_that_fails(
    splat: Callable,
    emulated: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    code: int,
    kind: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr(emulated, name, _cuda_error(emulated, code))
    with pytest.raises(kind, match=message):
        splat()


def test_a_bug_of_ours_stays_a_bug(
    splat: Callable, emulated: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulated, "apply", _cuda_error(emulated, 700))  # an illegal address
    with pytest.raises(emulated.CudaError):
        splat()


def test_too_many_pairs(
    splat: Callable, emulated: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulated, "bin_count", lambda *_: 2**28)
    with pytest.raises(EnvironmentFault, match="268435456 pairs"):
        splat()


def test_options_are_checked(scene_factory: Callable) -> None:
    scene = scene_factory(count=4)
    with pytest.raises(ValueError, match="backend 'gpu'"):
        render_gaussians(scene.gaussians, *scene.camera, backend="gpu")
    with pytest.raises(ValueError, match="backend 'reference'"):
        view_weights(scene.gaussians, *scene.camera, backend="reference")
    with pytest.raises(ValueError, match="math 'fp16'"):
        view_weights(scene.gaussians, *scene.camera, math="fp16")
    with pytest.raises(ValueError, match="needs a CUDA device"):
        view_weights(scene.gaussians, *scene.camera, math="tensor")
    assert backends.automatic(GPU) == "cuda" and backends.automatic(torch.device("cpu")) == "cpu"
