"""Reading other people's checkpoints without running what is in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fit3d_cli.backbones.weights import read_weights
from fit3d_cli.errors import EnvironmentFault, WeightsError
from fit3d_cli.storage import scratch_folder

_SCRIPT = Path(__file__).with_name("unpickle.py")
_REFUSED, _TOO_OLD = 3, 5  # as in unpickle.py
_SECONDS = 120  # beside the time that a disk takes
_DISK = 20 << 20  # bytes per second of a slow one
# Where training scripts keep the weights, in the order in which they are preferred.
_WRAPPINGS = ("teacher_ema", "teacher", "model", "state_dict", "student", "backbone", "module",
              "encoder", "dinov2", "net")  # fmt: skip
_LORA = re.compile(r"w_[ab]_\d{3}")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.pth``, ``.pt``, ``.ckpt``, ``.bin`` or ``.safetensors`` file.

    Pickles are opened by another process, with ``torch.load(weights_only=True)`` and little else
    that it may do: see ``unpickle.py``. It gets none of our environment, descriptors or folders.

    Returns:
        Names, keys of nested dictionaries joined with ``/``, to tensors.

    Raises:
        WeightsError: Missing, damaged, or holding what is no tensor and no plain container.
        EnvironmentFault: torch is too old to be trusted with it.
    """
    if not path.is_file():
        raise WeightsError("no such file", where=path, hint="check the path")
    if path.suffix.lower() == ".safetensors":
        return read_weights(path)
    with scratch_folder() as scratch:
        target = scratch / "tensors.safetensors"
        # Libraries are found where ours are; proxies, tokens and homes are nobody's business.
        kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
        seconds = _SECONDS + path.stat().st_size / _DISK
        try:
            done = subprocess.run(
                [sys.executable, "-I", str(_SCRIPT), str(path.resolve()), str(target)],
                env={**kept, "HOME": str(scratch), "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1",
                     "CUDA_VISIBLE_DEVICES": ""},
                cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                errors="replace", timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise WeightsError(
                f"not read after {seconds:.0f} s", where=path, hint="copy it to a faster disk"
            ) from error
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:120]
        if done.returncode == _TOO_OLD:
            raise EnvironmentFault(
                f"checkpoints of others are not opened with this version ({reason})",
                where="torch",
                hint="pip install -U torch, or give the weights as .safetensors",
            )
        if done.returncode < 0:
            reason = f"stopped by signal {-done.returncode}: it wanted too much"
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
