"""What the compiled module promises."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fit3d_cli import _kernels


def test_capabilities() -> None:
    assert _kernels.isa() in ("avx2", "neon", "baseline")
    _kernels.use_baseline(True)
    assert _kernels.isa() == "baseline"
    _kernels.use_baseline(False)


def test_arrays_are_not_converted() -> None:
    offsets, out = np.zeros(2, np.int64), np.zeros((1, 1), np.float32)
    ids, vals = np.zeros(0, np.int32), np.zeros(0, np.float32)
    _kernels.csr_apply(offsets, ids, vals, np.zeros((1, 1), np.float32), False, out, 1)
    with pytest.raises(TypeError):
        _kernels.csr_apply(offsets, ids, vals, np.zeros((1, 1)), False, out, 1)  # float64
    with pytest.raises(TypeError):
        _kernels.csr_apply(offsets, ids, vals, np.zeros((3, 4), np.float32)[:, ::2], False, out, 1)


def test_the_stub_is_in_step(tmp_path: Path, repository: Path) -> None:
    pytest.importorskip("nanobind")
    fresh = tmp_path / "_kernels.pyi"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "nanobind.stubgen",
            "-q",
            "-D",
            "-m",
            "fit3d_cli._kernels",
            "-o",
            fresh,
        ],
        check=True,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    committed = (repository / "fit3d_cli" / "_kernels.pyi").read_text(encoding="utf-8")
    # Compared as syntax trees: formatters may lay the committed one out differently.
    same = ast.dump(ast.parse(committed)) == ast.dump(ast.parse(fresh.read_text(encoding="utf-8")))
    assert same, "regenerate it, see kernels/README.md"


def test_a_long_depth_order_is_stable() -> None:
    rng = np.random.default_rng(0)
    count = 120_000
    depths = rng.choice(np.float32([0.5, 1.0, 1.0000001, 3e4]), count)
    depths[::3] = rng.uniform(0.01, 100.0, len(depths[::3])).astype(np.float32)
    radii = rng.integers(0, 2, (count, 1), dtype=np.int32).repeat(2, axis=1)
    order = np.full(count, -1, np.int32)
    visible = _kernels.depth_order(depths, radii, np.empty(4 * count, np.int32), order)
    ids = np.flatnonzero(radii[:, 0])
    assert visible == len(ids)
    expected = ids[np.argsort(depths[ids], kind="stable")]
    assert np.array_equal(order[:visible], expected)
