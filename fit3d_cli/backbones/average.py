"""Weights between weights: moving averages, and the line from a base to what was tuned from it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fit3d_cli.backbones.adapters import zero_at_start
from fit3d_cli.errors import WeightsError

_ADAPTER = "adapter."


def moving_average(
    average: Mapping[str, Tensor], parameters: Mapping[str, Tensor], decay: float
) -> None:
    """``average = decay average + (1 - decay) parameters``, in place.

    The average of a training starts as a copy of what it starts from, so it needs no correction,
    and it is a function of the last average alone: written out and read back, it goes on the same.

    Args:
        average: By name; their types and devices are kept.
        parameters: With at least those names.
        decay: In [0, 1).
    """
    with torch.no_grad():
        for name, value in average.items():
            value.lerp_(parameters[name].detach().to(value), 1.0 - decay)


def interpolate_state(
    base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """``base + alpha (tuned - base)``, exact at both ends (WiSE-FT, Wortsman et al. 2022).

    An adapter that only the tuned model has starts from the one that does nothing.

    Args:
        base: ``Backbone.state()`` of the base.
        tuned: ``Backbone.state()`` of the tuned model, merged.
        alpha: 0 = base, 1 = tuned.

    Returns:
        New tensors under the names of ``tuned``.

    Raises:
        WeightsError: The two are not of one architecture.
    """
    start = dict(base)
    if not any(name.startswith(_ADAPTER) for name in base):
        for name in tuned:
            if name.startswith(_ADAPTER):
                idle = zero_at_start(name.removeprefix(_ADAPTER))
                start[name] = torch.zeros_like(tuned[name]) if idle else tuned[name]
    foreign = sorted(start.keys() ^ tuned.keys())
    foreign += sorted(k for k in start.keys() & tuned.keys() if start[k].shape != tuned[k].shape)
    if foreign:
        raise WeightsError(
            f"base and tuned model are not of one architecture ({foreign[0]})",
            hint="name the base that the model was tuned from",
        )
    return {name: _between(start[name], value, alpha) for name, value in tuned.items()}


def _between(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    if not end.is_floating_point() or alpha == 1:
        return end.detach().clone()
    return torch.lerp(start.detach().to(end), end.detach(), alpha)
