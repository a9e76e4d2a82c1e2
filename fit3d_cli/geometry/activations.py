"""How Gaussians are stored: logs of scales, logits of opacities.

Everything goes through float64, which makes a round trip stable: storing what was read gives
the same numbers again, so that files can be compared by their bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

# sigmoid(20) is 1 and sigmoid(-20) is 2e-9 in float32: beyond this a logit tells nothing.
MAX_LOGIT = 20.0


def opacities_to_logits(opacities: Tensor) -> Tensor:
    """Finite float32 logits of opacities in [0, 1], clamped to +-``MAX_LOGIT``; any shape."""
    return opacities.double().logit().clamp(-MAX_LOGIT, MAX_LOGIT).float()


def logits_to_opacities(logits: Tensor) -> Tensor:
    """Opacities in [0, 1], float32; any shape."""
    return logits.double().sigmoid().float()


def scales_to_logs(scales: Tensor) -> Tensor:
    """Natural logarithms of scales > 0, float32; any shape."""
    return scales.double().log().float()


def logs_to_scales(logs: Tensor) -> Tensor:
    """Scales, float32; any shape. A log outside about [-103, 88] gives 0 or infinity."""
    return logs.double().exp().float()


def unit_quats(quats: Tensor) -> Tensor:
    """``[N, 4]`` float32 quaternions of unit length; those that already are stay as they are.

    Normalising again what is normalised to float32 precision would change last bits for ever.
    A zero quaternion gives NaN.
    """
    wide = quats.double()
    lengths = wide.norm(dim=1, keepdim=True)
    return torch.where((lengths - 1).abs() <= 1e-6, wide, wide / lengths).float()
