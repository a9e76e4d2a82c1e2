"""Reading other people's checkpoints without running what is in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fit3d_cli.backbones.weights import read_weights
from fit3d_cli.errors import WeightsError

_SCRIPT = Path(__file__).with_name("unpickle.py")
_REFUSED = 3  # as in unpickle.py
_SECONDS = 600
# Where training scripts keep the weights, in the order in which they are preferred.
_WRAPPINGS = ("teacher_ema", "teacher", "model", "state_dict", "student", "backbone", "module",
              "encoder", "dinov2", "net")  # fmt: skip
_LORA = re.compile(r"w_[ab]_\d{3}")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.pth``, ``.pt``, ``.ckpt``, ``.bin`` or ``.safetensors`` file.

    Pickles are opened by another process, with ``torch.load(weights_only=True)``: see
    ``unpickle.py``.

    Returns:
        Names, keys of nested dictionaries joined with ``/``, to tensors.

    Raises:
        WeightsError: Missing, damaged, or holding what is no tensor and no plain container.
    """
    if not path.is_file():
        raise WeightsError("no such file", where=path, hint="check the path")
    if path.suffix.lower() == ".safetensors":
        return read_weights(path)
    with tempfile.TemporaryDirectory(prefix="fit3d-") as scratch:
        target = Path(scratch) / "tensors.safetensors"
        keep = ("PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "LANG")
        try:
            done = subprocess.run(
                [sys.executable, "-I", str(_SCRIPT), str(path.resolve()), str(target)],
                env={key: os.environ[key] for key in keep if key in os.environ},
                stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise WeightsError(
                f"not read after {_SECONDS} s", where=path, hint="copy it to a faster disk"
            ) from error
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        if done.returncode == _REFUSED:
            raise WeightsError(
                f"refused: it holds more than tensors ({reason})",
                where=path,
                hint="save its state dict alone where you trust it:"
                " safetensors.torch.save_file(state_dict, 'weights.safetensors')",
            )
        if done.returncode:
            raise WeightsError(
                f"not a readable torch checkpoint ({reason})",
                where=path,
                hint="get the file again; it may be cut short",
            )
        return read_weights(target)


def is_low_rank(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are updates in the layout of 3DCorrEnhance, not weights."""
    return any(_LORA.fullmatch(key) for key in tensors)


def unwrapped(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict inside: wrapping dictionaries, and prefixes of the names, are taken off.

    Of several (``model``, ``teacher``, ...) the one is taken that comes first in the order of
    preference: averaged weights before the last ones.

    Returns:
        The state dict, and the names of the tensors that lie outside it.
    """
    names = {key: key for key in tensors}  # inner to outer
    for _ in range(8):
        inner = next(
            (
                {key[len(word) + 1 :]: outer for key, outer in names.items() if _under(key, word)}
                for word in _WRAPPINGS
                if any(_under(key, word) for key in names)
            ),
            None,
        )
        if inner is None:
            break
        names = inner
    taken = set(names.values())
    return {k: tensors[v] for k, v in names.items()}, [k for k in tensors if k not in taken]


def _under(key: str, word: str) -> bool:
    # transformers' own names begin with "encoder.layer" and are no wrapping.
    return key.startswith((f"{word}/", f"{word}.")) and not key.startswith("encoder.layer.")
