"""Checkpoints, token caches and weights, and how their readers are tried."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import safetensors
import torch

from fit3d_cli.backbones.cache import TokenCache, Tokens
from fit3d_cli.backbones.weights import read_weights
from fit3d_cli.errors import ArchiveError, WeightsError
from fit3d_cli.tensorfile import DTYPES, check_sealed, encode, read_sealed, write_sealed
from tests.reliability._hunt import Prey
from tests.reliability._tensormutations import Model, Mutator, random_file
from tests.reliability.base import Trial

_KEY = "ab" * 32


def sealed_preys(trial: Trial) -> dict[str, Prey]:
    """One per kind of file."""
    return {
        "checkpoints": checkpoints(trial),
        "tokens": tokens(trial),
        "weights": weights(trial),
    }


def checkpoints(trial: Trial) -> Prey:
    """What training goes on from."""
    path = trial.folder / "state.safetensors"
    draw = torch.Generator().manual_seed(0)
    state = {
        "p.blocks.0.weight": torch.randn(3, 4, generator=draw),
        "m.blocks.0.weight": torch.randn(3, 4, generator=draw).half(),
        "rng": torch.randint(0, 255, (50,), generator=draw, dtype=torch.uint8),
        "step": torch.tensor(7),
        "none": torch.zeros(0, 3),
        "flags": torch.tensor([True, False]),
    }
    write_sealed(path, state, {"plan": "abc", "note": "é 雪"})
    raw = path.read_bytes()
    write_sealed(path, {"a": torch.arange(4.0)}, {})

    def seal(model: Model) -> None:
        model.metadata["sha256"] = _digest(model)

    mutate = Mutator([raw, path.read_bytes()], seal)

    def read(case: int, file: Path) -> Any:
        return read_sealed(file) if case % 2 else check_sealed(file)

    def judge(case: int, content: bytes, value: Any) -> str:
        model = Model.parse(content)
        if model.metadata.get("sha256") != _digest(model):
            return "a digest that is not right was believed"
        return _differs(content, value[0]) if case % 2 else ""

    return _prey(trial, "checkpoint", mutate, read, judge, "state.safetensors")


def tokens(trial: Trial) -> Prey:
    """What a backbone made of a picture."""
    draw = torch.Generator().manual_seed(0)
    cache = TokenCache(trial.folder / "tokens")
    made = Tokens(
        torch.randn(2, 3, 5, generator=draw).half(), torch.randn(5, generator=draw).half()
    )
    cache.write(_KEY, made)
    raw = cache.path(_KEY).read_bytes()

    def seal(model: Model) -> None:
        data = {name: data for name, _, _, data in model.tensors}
        model.metadata["sha256"] = sha256(
            data.get("patches", b"") + data.get("cls", b"")
        ).hexdigest()

    def read(case: int, file: Path) -> Any:
        cache.path = lambda key: file  # type: ignore[method-assign]
        found = cache.read(_KEY)
        if found is None:
            raise ArchiveError("computed again", where=file, hint="nothing is to be done")
        return {"patches": found.patches, "cls": found.cls}

    def judge(case: int, content: bytes, value: Any) -> str:
        theirs = dict(safetensors.deserialize(content))
        theirs = {name: theirs[name] for name in value}
        return _differs_from(theirs, value)

    return _prey(trial, "tokens", Mutator([raw], seal), read, judge, "a.safetensors")


def weights(trial: Trial) -> Prey:
    """What others publish."""
    draw = torch.Generator().manual_seed(0)
    named = {f"blocks.{i}.attn.qkv.weight": torch.randn(2, 3, generator=draw) for i in range(20)}
    seeds = [
        b"".join(encode(named, {"format": "pt"})),
        b"".join(encode({"cls_token": torch.zeros(1, 1, 4).bfloat16()}, {})),
    ]

    def judge(case: int, content: bytes, value: Any) -> str:
        return _differs(content, value)

    def read(case: int, file: Path) -> Any:
        return read_weights(file)

    return _prey(trial, "weights", Mutator(seeds, lambda model: None), read, judge, "a.safetensors")


def _prey(trial: Trial, salt: str, mutate: Mutator, read: Any, judge: Any, name: str) -> Prey:
    def make(case: int) -> tuple[str, bytes]:
        draw = trial.draw(salt, case)
        return name, mutate(draw) if draw.random() < 0.95 else random_file(draw)

    return Prey(trial.folder, make, read, judge, (ArchiveError, WeightsError), (name,))


def _digest(model: Model) -> str:
    """The digest of a sealed file, written a second time from its description."""
    left = sorted((k, v) for k, v in model.metadata.items() if k != "sha256")
    digest = sha256(repr(left).encode("utf-8", "surrogatepass"))
    for name, dtype, shape, data in sorted(model.tensors):
        digest.update(f"{name} {DTYPES.get(dtype)} {tuple(shape)}".encode())
        digest.update(data)
    return digest.hexdigest()


def _differs(content: bytes, value: Any) -> str:
    theirs = dict(safetensors.deserialize(content))
    return _differs_from(theirs, value) if theirs.keys() == value.keys() else "other names"


def _differs_from(theirs: dict[str, Any], value: Any) -> str:
    for name, tensor in value.items():
        own = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        if own != bytes(theirs[name]["data"]) or list(tensor.shape) != theirs[name]["shape"]:
            return f"another {name}"
    return ""
