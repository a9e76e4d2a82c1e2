"""The one door to timm.

timm imports torchvision. Beside a CPU build of torch, pip may install a torchvision whose compiled
operators need CUDA libraries; they are then never registered, and importing torchvision fails
because it describes ``nms`` and ``qnms`` to the compiler regardless. Declaring the two
schemas is enough: they stay without an implementation, and we call neither.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any, cast

import torch

_OPERATORS = ("nms", "qnms")
# torch forgets the schemas when the library object dies.
_kept: list[Any] = []


def allow_broken_torchvision() -> bool:
    """Declare torchvision's missing operator schemas, if they really are missing.

    Returns:
        Whether the declarations were needed (now or in an earlier call).
    """
    if _kept:
        return True
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return False
    try:
        importlib.import_module("torchvision")
        return False
    except (RuntimeError, ImportError, OSError):
        # A half-imported package would be found again and fail differently.
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    library: Any = cast(Any, torch.library.Library)("torchvision", "FRAGMENT")
    for operator in _OPERATORS:
        if hasattr(torch.ops.torchvision, operator):  # torchvision failed for another reason
            continue
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)
    return True


def import_timm() -> ModuleType:
    """The timm package; everything in this project that needs timm asks here."""
    if "timm" not in sys.modules:
        allow_broken_torchvision()
    return importlib.import_module("timm")
