"""Density control: the budget holds and the optimisers follow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fit3d_cli.device import seeded
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.splat.densify import Densifier
from fit3d_cli.splat.rasterize import render_gaussians

pytest.importorskip("gsplat")


def _leaves(scene) -> tuple[dict, dict]:
    g = scene.gaussians
    params = {
        "means": g.means, "scales": g.scales.log(), "quats": g.quats,
        "opacities": torch.logit(g.opacities), "sh": g.sh,
    }  # fmt: skip
    params = {k: torch.nn.Parameter(v.clone()) for k, v in params.items()}
    return params, {k: torch.optim.Adam([v], lr=1e-3) for k, v in params.items()}


def _step(scene, params: dict, optimizers: dict, densifier: Densifier, step: int) -> None:
    gaussians = Gaussians(
        params["means"], params["quats"], params["scales"].exp(),
        params["opacities"].sigmoid(), params["sh"],
    )  # fmt: skip
    picture = render_gaussians(gaussians, *scene.camera)
    densifier.before_backward(picture)
    target = torch.linspace(0, 1, scene.width)[None, :, None]
    (picture.rgb - target).abs().mean().backward()
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad()
    densifier.after_backward(params, optimizers, step, picture, scene.width, scene.height)


def _densifier(**changes) -> Densifier:
    settings = dict(
        scene_extent=1.0, max_gaussians=75, start=0, stop=100, every=3, grow_grad2d=1e-6,
        reset_every=0,
    )  # fmt: skip
    return Densifier(**(settings | changes))


def test_the_budget_holds_and_moments_follow(scene_factory: Callable) -> None:
    scene = scene_factory()
    params, optimizers = _leaves(scene)
    densifier = _densifier()
    counts = []
    with seeded(0):
        for step in range(10):
            _step(scene, params, optimizers, densifier, step)
            counts.append(len(params["means"]))
    assert max(counts) <= 75
    assert counts[3] > 60  # the first refinement did grow
    for name, parameter in params.items():
        group = optimizers[name].param_groups[0]
        assert group["params"] == [parameter]
        moments = optimizers[name].state[parameter]
        assert moments["exp_avg"].shape == moments["exp_avg_sq"].shape == parameter.shape
        assert len(parameter) == counts[-1]


def test_without_a_tight_budget_the_threshold_is_the_users(scene_factory: Callable) -> None:
    scene = scene_factory()
    for limit, grows in ((1e9, False), (1e-6, True)):
        params, optimizers = _leaves(scene)
        densifier = _densifier(grow_grad2d=limit, max_gaussians=1000)
        with seeded(0):
            for step in range(4):
                _step(scene, params, optimizers, densifier, step)
        assert (len(params["means"]) > 60) == grows


def test_a_full_scene_only_shrinks(scene_factory: Callable) -> None:
    scene = scene_factory()
    params, optimizers = _leaves(scene)
    with torch.no_grad():
        params["opacities"][:5] = -10  # below the pruning threshold
    densifier = _densifier(max_gaussians=60)
    for step in range(4):
        _step(scene, params, optimizers, densifier, step)
    assert len(params["means"]) == 55


def test_opacities_are_reset(scene_factory: Callable) -> None:
    scene = scene_factory()
    params, optimizers = _leaves(scene)
    densifier = _densifier(reset_every=2, every=50)
    for step in range(2):
        _step(scene, params, optimizers, densifier, step)
    assert params["opacities"].sigmoid().max() > 0.5
    _step(scene, params, optimizers, densifier, 2)
    # gsplat resets to twice its pruning threshold of 0.005; the rest is float32 logit rounding.
    assert params["opacities"].sigmoid().max() <= 0.01 + 1e-6


def test_state_continues(scene_factory: Callable) -> None:
    scene = scene_factory()
    counts = []
    for interrupted in (False, True):
        params, optimizers = _leaves(scene)
        densifier = _densifier(every=4)
        assert densifier.state() == {}
        with seeded(0):
            for step in range(5):
                if interrupted and step == 3:
                    state = densifier.state()
                    assert set(state) == {"grad2d", "count"}
                    densifier = _densifier(every=4)
                    densifier.load_state(state)
                _step(scene, params, optimizers, densifier, step)
        counts.append(params["means"])
    assert torch.equal(*counts)
