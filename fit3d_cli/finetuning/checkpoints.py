"""What a killed training goes on from: the parameters that are trained, and little else.

A checkpoint that is damaged, or belongs to another training, is set aside and the one before it
serves; without any, the training starts from the beginning. That costs time and nothing else:
checkpoints are a cache, and the same steps give the same bytes. The user is told either way.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from fit3d_cli import storage
from fit3d_cli.errors import ArchiveError
from fit3d_cli.tensorfile import read_sealed, write_sealed

_log = logging.getLogger(__name__)

_KEEP = 2  # checkpoints; the older one serves if the newest was damaged
_NAMES = "step-*.safetensors"
_MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq", "n": "step"}


@dataclass
class State:
    """The state of a training between two steps.

    Attributes:
        parameters: By name, trained ones only.
        optimizer: AdamW over them.
        averages: Further copies of the parameters, by what they are for and by name.
        history: ``[T + 1]`` losses of every finished step: the objective and its terms.
        heldout: Finished steps and the error on held-out views after them, rising.
    """

    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.AdamW
    averages: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    history: list[list[float]] = field(default_factory=list)
    heldout: list[tuple[int, float]] = field(default_factory=list)


def save(directory: Path, state: State) -> None:
    """Write a checkpoint and remove all but the last two.

    Args:
        directory: Of the checkpoints; its name says which training they are of.
        state: What to keep.

    Raises:
        StorageError: The disk refused; earlier checkpoints are intact.
    """
    tensors: dict[str, Tensor] = {"history": torch.tensor(state.history, dtype=torch.float64)}
    if state.heldout:
        tensors["heldout"] = torch.tensor(state.heldout, dtype=torch.float64)
    for index, parameter in enumerate(state.parameters.values()):
        tensors[f"p.{index}"] = parameter.detach()
        moments = state.optimizer.state.get(parameter)
        if moments:  # none before its first gradient
            tensors |= {f"{letter}.{index}": moments[key] for letter, key in _MOMENTS.items()}
        for kind, average in state.averages.items():
            tensors[f"{kind}.{index}"] = list(average.values())[index]
    step = len(state.history)
    metadata = {"plan": directory.name, "tensors": str(len(tensors))}
    write_sealed(directory / f"step-{step:08d}.safetensors", tensors, metadata)
    with suppress(OSError):  # the new one is safe; what stays goes after the next
        for old in sorted(directory.glob(_NAMES))[:-_KEEP]:
            old.unlink(missing_ok=True)


def restore(directory: Path, state: State, kinds: Sequence[str], *, aside: bool = True) -> None:
    """Go on from the newest whole checkpoint; without one, the state stays as it is.

    What cannot be used is told in one line each.

    Args:
        directory: Of the checkpoints.
        state: Filled in place.
        kinds: Averages that a checkpoint may hold.
        aside: Set aside what cannot be used, so that it neither stands in the way of the next
            checkpoint of its name nor counts as one of the last two.

    Raises:
        StorageError: It could not be set aside.
    """
    faults = []
    for path in sorted(directory.glob(_NAMES), reverse=True):
        try:
            tensors, metadata = read_sealed(path)
            if metadata.get("plan") != directory.name:
                raise ArchiveError("a checkpoint of another training", where=path)
            # Moments and averages may be missing, and then are not to be looked for.
            if metadata.get("tensors") != str(len(tensors)):
                raise ArchiveError("lacks some of its tensors", where=path)
            _fill(state, tensors, kinds)
        except (ArchiveError, KeyError) as error:
            what = error.what if isinstance(error, ArchiveError) else f"lacks {error.args[0]}"
            faults.append((path, what))
            continue
        break
    if not aside:
        return
    step = len(state.history)
    then = f"the training goes on from step {step}" if step else "the training starts again"
    for path, what in faults:
        storage.set_aside(path)
        _log.warning("%s", ArchiveError(what, where=path, hint=f"set aside; {then}"))


def _fill(state: State, tensors: Mapping[str, Tensor], kinds: Sequence[str]) -> None:
    """Take the state from a checkpoint; nothing is changed if something is missing.

    Raises:
        ArchiveError: Of other parameters.
        KeyError: A tensor is missing.
    """
    history = tensors["history"].tolist()
    heldout = tensors["heldout"].tolist() if "heldout" in tensors else []
    values = [tensors[f"p.{index}"] for index in range(len(state.parameters))]
    if [v.shape for v in values] != [p.shape for p in state.parameters.values()]:
        raise ArchiveError("a checkpoint of other parameters")
    moments = [
        {key: tensors[f"{letter}.{index}"] for letter, key in _MOMENTS.items()}
        if f"m.{index}" in tensors
        else None
        for index in range(len(values))
    ]
    averages = {
        kind: [tensors[f"{kind}.{index}"] for index in range(len(values))]
        for kind in kinds
        if f"{kind}.0" in tensors
    }
    state.history = history
    state.heldout = [(int(step), value) for step, value in heldout]
    for parameter, value, moment in zip(state.parameters.values(), values, moments, strict=True):
        with torch.no_grad():
            parameter.copy_(value)
        if moment is not None:
            state.optimizer.state[parameter] = {
                # AdamW keeps its count on the CPU.
                key: tensor if key == "step" else tensor.to(parameter.device)
                for key, tensor in moment.items()
            }
    for kind, tensors_of_kind in averages.items():
        state.averages[kind] = {
            name: tensor.to(parameter.device)
            for (name, parameter), tensor in zip(
                state.parameters.items(), tensors_of_kind, strict=True
            )
        }
