"""What only a real device can show: streams, memory, size, repetition under load."""

from __future__ import annotations

import pytest
import torch

from fit3d_cli.errors import EnvironmentFault
from fit3d_cli.splat.cuda import loader
from fit3d_cli.splat.rasterize import rasterize, view_weights

pytestmark = pytest.mark.gpu

# tf32 keeps 10 fraction bits: both factors of a product are off by 2^-11 at most.
TF32 = 1.01 * 2**-10


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_build_fits_the_device(device: torch.device) -> None:
    module = loader.require(device)
    info = module.device_info(device.index)
    assert not module.emulated and module.architectures and info.runs
    assert (info.major, info.minor) == torch.cuda.get_device_capability(device)
    assert 0 < info.free_bytes <= info.total_bytes


@pytest.mark.parametrize("dim", [3, 64])
def test_equals_the_cpu(crowd, device: torch.device, dim: int) -> None:
    values = _random(len(crowd.gaussians), dim)
    upstream = _random(crowd.height, crowd.width, dim, seed=1)
    results = []
    for where in (torch.device("cpu"), device):
        leaves = [t.requires_grad_() for t in (*crowd.geometry(where), values.to(where).clone())]
        out = rasterize(*leaves, *crowd.camera)
        grads = torch.autograd.grad((out.values * upstream.to(where)).sum(), leaves)
        results.append([t.detach().cpu() for t in (out.values, out.alphas, *grads)])
    cpu, ours = results
    # A Gaussian at a threshold counts on one side only: a few pixels, by at most a 255th each.
    flips = ((ours[0] - cpu[0]).abs().amax(-1) > 5e-5).float().mean()
    assert flips < 2e-3 and (ours[1] - cpu[1]).abs().max() < 0.02
    for name, a, b in zip(("means", "quats", "scales", "opacities", "values"), ours[2:], cpu[2:],
                          strict=True):  # fmt: skip
        off = (a - b).abs() > 1e-3 * b.abs().max()
        assert off.float().mean() < 1e-3, name


def test_pooling_equals_the_cpu(crowd, device: torch.device) -> None:
    for mode, grid in (("box", (19, 25)), ("tent", (19, 25)), ("tent", (23, 31))):
        cpu = view_weights(crowd.gaussians, *crowd.camera).pool(*grid, mode)
        ours = view_weights(crowd.gaussians.to(device), *crowd.camera).pool(*grid, mode)
        f = _random(len(crowd.gaussians), 40)
        maps = _random(*grid, 40, seed=1)
        # Means over patches: pixels at a threshold are diluted.
        for a, b in ((ours.apply(f.to(device)), cpu.apply(f)),
                     (ours.apply_t(maps.to(device)), cpu.apply_t(maps))):  # fmt: skip
            off = (a.cpu() - b).abs() > 1e-4 * b.abs().max()
            assert off.float().mean() < 1e-3


@pytest.mark.parametrize("dim", [16, 64, 384])
def test_tensor_cores_keep_their_bound(crowd, device: torch.device, dim: int) -> None:
    scene = crowd.gaussians.to(device)
    f = _random(len(scene), dim).to(device)
    g = _random(crowd.height, crowd.width, dim, seed=1).to(device)
    exact = view_weights(scene, *crowd.camera)
    ours = view_weights(scene, *crowd.camera, math="tensor")
    # The bound is relative to the sum of magnitudes; the rest covers sums of many float32 terms.
    size = exact.apply(f.abs())
    assert ((ours.apply(f) - exact.apply(f)).abs() <= TF32 * size + 1e-5).all()
    size = exact.apply_t(g.abs())
    error = (ours.apply_t(g) - exact.apply_t(g)).abs()
    assert (error <= TF32 * size + 1e-5 * size.amax().clamp_min(1)).all()


@pytest.mark.parametrize("math", ["float32", "tensor"])
def test_repetition_gives_the_same_bits(crowd, device: torch.device, math: str) -> None:
    values = _random(len(crowd.gaussians), 70).to(device)
    upstream = _random(crowd.height, crowd.width, 70, seed=1).to(device)
    noise = torch.randn(4096, 4096, device=device)
    first: list[torch.Tensor] = []
    for repeat in range(8):
        if repeat % 2:  # another stream keeps the device busy, so blocks run in another order
            with torch.cuda.stream(torch.cuda.Stream()):
                noise @ noise
        leaves = [t.clone().requires_grad_() for t in (*crowd.geometry(device), values)]
        out = rasterize(*leaves, *crowd.camera, math=math)
        loss = (out.values * upstream).sum() + out.alphas.sum()
        tokens = view_weights(crowd.gaussians.to(device), *crowd.camera).pool(19, 25)
        found = [out.values, out.alphas, *torch.autograd.grad(loss, leaves), *tokens.transposed()]
        first = first or found
        assert all(torch.equal(a, b) for a, b in zip(first, found, strict=True)), repeat


def test_kernels_run_on_the_current_stream(crowd, device: torch.device) -> None:
    scene = crowd.gaussians.to(device)
    weights = view_weights(scene, *crowd.camera)
    tokens = weights.pool(19, 25)
    f = _random(len(scene), 64).to(device)
    expected, pooled = weights.apply(f), tokens.apply(f)
    late = torch.zeros_like(f)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)  # the values come a tenth of a second late
        late.copy_(f)
        out, small = weights.apply(late), tokens.apply(late)
    side.synchronize()
    assert torch.equal(out, expected) and torch.equal(small, pooled)


def test_gradients_on_another_stream(crowd, device: torch.device) -> None:
    side = torch.cuda.Stream()
    results = []
    for stream in (torch.cuda.current_stream(), side):
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            leaves = [t.clone().requires_grad_() for t in crowd.geometry(device)]
            out = rasterize(*leaves, leaves[0], *crowd.camera)
            out.values.square().sum().backward()
        stream.synchronize()
        results.append([leaf.grad for leaf in leaves])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_no_memory(crowd, device: torch.device) -> None:
    scene = crowd.gaussians.to(device)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    try:
        allowed = torch.cuda.memory_reserved(device) + 24 * 2**20
        torch.cuda.set_per_process_memory_fraction(allowed / total, device)
        with pytest.raises(EnvironmentFault, match=r"needs \d+\.\d+ GiB, .* are free") as caught:
            for _ in range(100):
                view_weights(scene, crowd.viewmat, 4 * crowd.K, 1600, 1216)
        assert caught.value.exit_code == 3
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert view_weights(scene, *crowd.camera).nnz > 0  # nothing is broken afterwards
