"""Every way to call fit3d wrongly: the exit code, one line that helps, and no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fit3d_cli import app
from tests.faults.cases import CASES
from tests.faults.cases_archives import flipped
from tests.faults.cases_input import LIFT, ROOMS, SCENE, TINY, moved, rooms
from tests.faults.ground import Ground


@pytest.mark.parametrize("name", CASES)
def test_refused(ground: Ground, name: str) -> None:
    assert not ground.refusal(CASES[name]).broken


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    "line",
    [TINY, "finetune --name fresh", f"probe seg rooms {ROOMS}", f"compare {SCENE}", "demo",
     "viz rooms/room-0/frame-000000.color.png --backbone tiny"],
)  # fmt: skip
def test_no_cuda_device(refused, world: Path, line: str) -> None:
    rooms(world)
    refused([*line.split(), "--device", "cuda"], 3, "--device cuda", "--device cpu")


@pytest.mark.parametrize(
    "line",
    [f"{LIFT} --backbone dinov2-small", f"probe seg rooms --models base {ROOMS}",
     "viz rooms/room-0/frame-000000.color.png --backbone dinov2-small"],
)  # fmt: skip
def test_offline(refused, world: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    rooms(world)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(world / "hub"))
    more = ["--backbone", "dinov2-small"] if "probe" in line else []
    refused([*line.split(), *more], 3, "dinov2-small", "--weights FILE")


@pytest.mark.parametrize("folder", ["elsewhere", "elsewhere/room-0 --captures elsewhere/room-1"])
def test_captures_mends_a_moved_capture(world: Path, folder: str) -> None:
    moved(world)
    argv = ["finetune", "--name", "fresh", "--profile", "small.toml", "--workspace", "out", "-q"]
    assert app.run(argv) == 2
    assert app.run([*argv, "--captures", *folder.split()]) == 0
    assert (world / "out/models/fresh/config.json").is_file()
    for line in (f"viz {SCENE} --sheet", f"compare {SCENE}"):
        more = ["--captures", "elsewhere", "--workspace", "out", "--profile", "small.toml", "-q"]
        assert app.run([*line.split(), *more]) == 0


def test_a_bit_of_a_tensor_is_not_looked_at_by_info(world: Path) -> None:
    """It reads no tensor but the flags, and promises no more."""
    path = world / SCENE
    path.write_bytes(flipped(path.read_bytes()))
    assert app.run(["info", SCENE, "-q"]) == 0
