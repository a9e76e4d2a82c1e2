"""The installed program itself: exit codes and one line, with all that a process adds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

CASES = {
    "lift gone": (2, "gone: no such file or directory"),
    "lift rooms --set lift.dimm=3": (2, "did you mean lift.features.dim?"),
    "render cut.f3d": (2, "cut.f3d: truncated"),
    "lift rooms --backbone dinov2-small": (3, "dinov2-small: the weights are not in the cache"),
    "finetune --name fresh --device cuda": (3, "--device cuda: no CUDA device"),
}


def test_the_program(world: Path) -> None:
    program = shutil.which("fit3d", path=str(Path(sys.executable).parent))
    start = [program] if program else [sys.executable, "-m", "fit3d_cli"]
    whole = (world / "out/scenes/room-0.f3d").read_bytes()
    (world / "cut.f3d").write_bytes(whole[:1000])
    package = Path(__file__).parent.parent.parent
    environment = {
        **os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        "HF_HOME": str(world / "hub"), "PYTHONPATH": str(package),
    }  # fmt: skip
    before = sorted(world.rglob("*"))
    running = {
        line: subprocess.Popen(
            [*start, *line.split()[:1], "--workspace", "out", *line.split()[1:], "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for line in CASES
    }  # fmt: skip
    for line, (code, says) in CASES.items():
        out, err = running[line].communicate(timeout=120)
        assert running[line].returncode == code, (line, err)
        assert err.startswith("fit3d: error: ") and err.count("\n") == 1, (line, err)
        assert says in err and " - " in err, (line, err)
        assert json.loads(out)["error"]["exit_code"] == code
    assert sorted(world.rglob("*")) == before
