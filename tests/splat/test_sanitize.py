"""The compiled kernels over degenerate scenes under the address sanitizer, without Python.

``kernels/tests/fuzz.cpp`` says what is checked for each scene: every value and gradient against a
double-precision oracle, the lists, the adjoint, equal bits for any number of threads, on every
instruction set of this machine. ``make sanitize`` runs 10 000 scenes with more sanitizers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCENES = 300


def _has_sanitizer(folder: Path) -> bool:
    compiler = os.environ.get("CXX", "g++")
    if not (shutil.which("make") and shutil.which(compiler)):
        return False
    source, program = folder / "empty.cpp", folder / "empty"
    source.write_text("int main() { return 0; }\n", encoding="utf-8")
    command = [compiler, "-fsanitize=address", str(source), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, check=False).returncode == 0
    return built and subprocess.run([program], capture_output=True, check=False).returncode == 0


def test_degenerate_scenes(repository: Path, tmp_path: Path) -> None:
    if not _has_sanitizer(tmp_path):
        pytest.skip("needs make and a C++ compiler with the address sanitizer")
    # Kept between runs: only what changed is compiled again.
    build = repository / "build" / "sanitize"
    subprocess.run(
        ["make", "-s", "-j2", "FLAVOUR=quick", f"BUILD={build}"],
        cwd=repository / "kernels" / "tests",
        check=True,
    )
    command = [build / "quick" / "fuzz", "check", str(SCENES), "0"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert f"{SCENES} scenes from seed 0 clean" in run.stdout
