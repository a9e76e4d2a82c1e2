"""Our readers and writers against another program, see ``golden/README.md``."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fit3d_cli.formats import describe_gaussians, read_gaussians, write_gaussians
from fit3d_cli.geometry.gaussians import Gaussians

GOLDEN = Path(__file__).parent / "golden"
Apart = Callable[[Tensor, Tensor], float]


@pytest.mark.parametrize("name", ["tool-v3.spz", "tool-v4.spz", "tool.compressed.ply", "ours.spz"])
def test_a_file_is_read_as_its_makers_program_reads_it(name: str, quats_apart: Apart) -> None:
    ours, theirs = read_gaussians(GOLDEN / name), read_gaussians(GOLDEN / f"{name}.decoded.ply")
    assert len(ours) == 20 and ours.sh_degree == 3
    for field in ("means", "scales", "opacities", "sh"):
        torch.testing.assert_close(
            getattr(ours, field), getattr(theirs, field), atol=2e-6, rtol=2e-6, msg=field
        )
    assert quats_apart(ours.quats, theirs.quats) < 1e-6


@pytest.mark.parametrize("name", ["tool-v3.spz", "tool-v4.spz", "tool.compressed.ply"])
def test_they_are_the_gaussians_that_were_given_to_it(
    name: str, make: Callable[..., Gaussians], quats_apart: Apart
) -> None:
    truth, read = make(20, 3, seed=7), read_gaussians(GOLDEN / name)
    packed = name.endswith(".ply")
    if packed:  # it sorts by Morton order
        read = read.select(torch.cdist(truth.means, read.means).argmin(1))
    assert (read.means - truth.means).abs().max() < (0.01 if packed else 1e-3)
    assert (read.scales / truth.scales).log().abs().max() < 0.04
    assert (read.opacities - truth.opacities).abs().max() <= 1 / 255
    assert (read.sh[:, 0] - truth.sh[:, 0]).abs().max() < 0.02
    # It rounds to 8 bits of -1..1, and these to 4.
    assert (read.sh[:, 1:] - truth.sh[:, 1:]).abs().max() <= 0.5 / 8 + 0.5 / 128 + 1e-5
    assert quats_apart(read.quats, truth.quats) < 3e-3


def test_what_it_opened_is_what_is_written(tmp_path: Path, make: Callable[..., Gaussians]) -> None:
    write_gaussians(tmp_path / "a.spz", make(20, 3, seed=7))
    opened = gzip.decompress((GOLDEN / "ours.spz").read_bytes())
    assert gzip.decompress((tmp_path / "a.spz").read_bytes()) == opened
    write_gaussians(tmp_path / "a.splat", make(20, 3, seed=7))
    assert (tmp_path / "a.splat").read_bytes() == (GOLDEN / "ours.splat").read_bytes()


def test_splat_rotations_but_for_half_a_step(quats_apart: Apart) -> None:
    ours = read_gaussians(GOLDEN / "ours.splat")
    theirs = read_gaussians(GOLDEN / "ours.splat.decoded.ply")
    for field in ("means", "scales", "opacities", "sh"):
        torch.testing.assert_close(
            getattr(ours, field), getattr(theirs, field), atol=2e-6, rtol=2e-6, msg=field
        )
    # A byte b is (b - 128) / 128 to the format's author, 2 b / 255 - 1 to splat-transform.
    assert quats_apart(ours.quats, theirs.quats) < 1 / 128


def test_what_is_told_of_them() -> None:
    for name, version in (("tool-v3.spz", 3), ("tool-v4.spz", 4), ("ours.spz", 3)):
        told = describe_gaussians(GOLDEN / name)
        assert (told["version"], told["gaussians"], told["axes"]) == (version, 20, "RUB")
    assert describe_gaussians(GOLDEN / "tool.compressed.ply")["chunks"] == 1
