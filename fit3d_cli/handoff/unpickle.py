"""Tensors of a torch checkpoint, taken out by a process of its own.

The only file of fit3d that opens pickles. It is run as a script (``python -I unpickle.py SOURCE
TARGET``), imports nothing of fit3d, and uses ``torch.load(weights_only=True)``, which knows tensors
and plain containers and refuses everything else; ``argparse.Namespace``, which training scripts
store their options in, is allowed besides. What it finds goes into a safetensors file under
names that join the keys with ``/``; optimiser states and everything that is no tensor are left out.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator

import torch
from safetensors.torch import save_file

REFUSED, DAMAGED = 3, 4  # exit codes
# Lightning's and torch's words for what is no model.
_SKIPPED = {"optimizer", "optimizer_states", "lr_scheduler", "lr_schedulers", "callbacks", "loops",
            "scaler", "ema_optimizer"}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9_./:-]{1,256}")
_DEPTH = 8


def main(source: str, target: str) -> int:
    """Read ``source``, write ``target``; returns the exit code, the reason goes to stderr."""
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        data = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes torch say
        if type(error).__name__ == "UnpicklingError":
            print(_reason(str(error)), file=sys.stderr)
            return REFUSED
        print((str(error).splitlines() or [type(error).__name__])[0][:200], file=sys.stderr)
        return DAMAGED
    found = {
        name: tensor.detach().to_dense().contiguous().clone()
        for name, tensor in tensors_of(data)
        if _NAME.fullmatch(name) and ".." not in name
    }
    save_file(found, target)
    return 0


def tensors_of(data: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors in nested dictionaries."""
    if isinstance(data, torch.Tensor):
        yield "/".join(path), data
    elif isinstance(data, dict) and len(path) < _DEPTH:
        for key, value in data.items():
            if path or key not in _SKIPPED:
                yield from tensors_of(value, (*path, str(key)))


def _reason(message: str) -> str:
    """What torch refused, in a few words."""
    match = re.search(r"GLOBAL (\S+)", message) or re.search(r"Unsupported (?:class|global) (\S+)",
                                                             message)  # fmt: skip
    if match:
        return f"it wants {match[1].rstrip('.,')}"
    match = re.search(r"[Uu]nsupported operand (\S+)", message)
    return f"it holds the instruction {match[1]}" if match else "it is no plain state dict"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
