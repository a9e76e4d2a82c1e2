"""Adaptive density control: gsplat's default strategy under a budget of Gaussians."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

_NEVER = 2**31  # a step that no schedule reaches
_COUNTERS = ("grad2d", "count")


class Splatted(Protocol):
    """What a rendering tells the strategy: ``Rendering`` and ``Picture`` both do."""

    @property
    def means2d(self) -> Tensor:
        """``[1, N, 2]`` projected centres, in the autograd graph."""
        ...

    @property
    def radii(self) -> Tensor:
        """``[1, N, 2]`` extents, 0 where culled."""
        ...


class Densifier:
    """Clone, split and prune Gaussians while they are fitted (3DGS, section 5).

    One step of the fitting loop is: render, ``before_backward``, backward, optimiser steps,
    ``after_backward``. Splitting draws from torch's global generator: run it under
    ``device.seeded``.

    gsplat's own opacity reset never fires in releases up to 1.5.3 (``step % n == 0 & step > 0``
    is false for every step), although the paper resets. Here it does fire, at every multiple
    of ``reset_every`` before ``stop``; a gsplat that resets as well does no harm, since
    resetting twice is resetting once.

    Args:
        scene_extent: Radius of the cameras' volume, world units; sizes are relative to it.
        max_gaussians: The count never exceeds this (unless it starts above).
        start: First step after which Gaussians may grow.
        stop: Step from which nothing changes any more.
        every: Steps between refinements.
        grow_grad2d: Mean screen-space gradient (in half picture widths) above which a
            Gaussian grows. Raised where the budget would not hold all of them, so that those
            with the largest gradients win.
        reset_every: Steps between opacity resets, which also allow pruning of huge Gaussians
            after the first; 0 for never.
    """

    def __init__(
        self,
        *,
        scene_extent: float,
        max_gaussians: int,
        start: int,
        stop: int,
        every: int,
        grow_grad2d: float,
        reset_every: int = 3000,
    ) -> None:
        from gsplat.strategy import DefaultStrategy

        self.max_gaussians = max_gaussians
        self.grow_grad2d = grow_grad2d
        self.reset_every = reset_every
        self._strategy = DefaultStrategy(
            grow_grad2d=grow_grad2d,
            refine_start_iter=start,
            refine_stop_iter=stop,
            refine_every=every,
            reset_every=reset_every or _NEVER,
        )
        self._state: dict[str, Any] = self._strategy.initialize_state(scene_scale=scene_extent)

    def before_backward(self, rendering: Splatted) -> None:
        """Ask for the gradient of the projected centres; call before the backward pass."""
        rendering.means2d.retain_grad()

    def after_backward(
        self,
        params: dict[str, torch.nn.Parameter],
        optimizers: dict[str, torch.optim.Optimizer],
        step: int,
        rendering: Splatted,
        width: int,
        height: int,
    ) -> None:
        """Collect gradients and, when it is time, grow, prune and reset, in place.

        Args:
            params: ``means``, ``scales`` (logs), ``quats``, ``opacities`` (logits), ``sh``;
                their values are replaced by new parameters when the count changes.
            optimizers: One per parameter, same keys; their moments follow.
            step: Index of the step that was just made.
            rendering: The step's rendering, after the backward pass.
            width: Picture width in pixels.
            height: Picture height in pixels.
        """
        from gsplat.strategy.ops import reset_opa

        strategy = self._strategy
        if step >= strategy.refine_stop_iter:
            return
        info = {
            "means2d": rendering.means2d,
            "radii": rendering.radii,
            "width": width,
            "height": height,
            "n_cameras": 1,
            "gaussian_ids": None,
        }
        if step > strategy.refine_start_iter and step % strategy.refine_every == 0:
            strategy.grow_grad2d = self._threshold(rendering, width, height)
        strategy.step_post_backward(params, optimizers, self._state, step, info)
        strategy.grow_grad2d = self.grow_grad2d
        if self.reset_every and step > 0 and step % self.reset_every == 0:
            reset_opa(params, optimizers, self._state, value=2 * strategy.prune_opa)

    def _threshold(self, rendering: Splatted, width: int, height: int) -> float:
        """The lowest gradient, not below ``grow_grad2d``, that keeps the budget.

        Every Gaussian above it adds one: a clone adds itself, a split puts two for one.
        """
        assert rendering.means2d.grad is not None, "before_backward was not called"
        grads = rendering.means2d.grad[0]
        grads = grads * _half_picture(width, height).to(grads.device)
        seen = (rendering.radii[0] > 0).all(1)
        total = torch.where(seen, grads.norm(dim=1), 0.0)
        count = seen.to(total.dtype)
        if self._state["grad2d"] is not None:
            total, count = total + self._state["grad2d"], count + self._state["count"]
        mean = total / count.clamp_min(1)
        room = self.max_gaussians - len(mean)
        if room <= 0:
            return float("inf")
        if room >= len(mean):
            return self.grow_grad2d
        # At most `room` values are greater; the factor covers a different rounding in gsplat.
        limit = float(torch.topk(mean, room + 1).values[-1]) * (1 + 1e-5)
        return max(self.grow_grad2d, limit)

    def state(self) -> dict[str, Tensor]:
        """The running gradient sums ``grad2d [N]`` and ``count [N]``, empty before a step."""
        return {k: self._state[k].clone() for k in _COUNTERS if self._state[k] is not None}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what ``state`` returned."""
        for key in _COUNTERS:
            self._state[key] = state[key].clone() if key in state else None


def _half_picture(width: int, height: int) -> Tensor:
    """``[2]`` from gradients per pixel to gradients per half picture, gsplat's unit."""
    return torch.tensor([width / 2, height / 2])
