"""The 32-byte ``.splat``: quantisation bounds, its layout, and what gsplat writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d_cli.errors import ArchiveError
from fit3d_cli.formats import read_gaussians, write_gaussians
from fit3d_cli.geometry.gaussians import SH_C0, Gaussians

Apart = Callable[[Tensor, Tensor], float]


def test_round_trip_within_quantisation(
    tmp_path: Path, make: Callable[..., Gaussians], quats_apart: Apart
) -> None:
    path, again = tmp_path / "a.splat", tmp_path / "b.splat"
    before = make()
    write_gaussians(path, before)
    assert path.stat().st_size == 32 * len(before)
    after = read_gaussians(path)
    assert torch.equal(after.means, before.means) and torch.equal(after.scales, before.scales)
    assert (after.opacities - before.opacities).abs().max() <= 0.5 / 255 + 1e-6
    shown = (before.sh[:, 0] * SH_C0 + 0.5).clamp(0, 1)
    assert (after.sh[:, 0] * SH_C0 + 0.5 - shown).abs().max() <= 0.5 / 255 + 1e-6
    # Half a step of 1/128, a whole one for a component of 1, and what normalising adds.
    assert quats_apart(after.quats, before.quats) <= 1.5 / 128
    assert after.sh_degree == 0
    write_gaussians(again, after)
    kept = np.frombuffer(again.read_bytes(), np.uint8).reshape(-1, 32)
    first = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 32)
    assert (kept[:, :28] == first[:, :28]).all()


def test_the_layout_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.splat"
    row = np.array([1, -2, 3, 0.5, 0.25, 0.125], "<f4").tobytes()
    path.write_bytes(row + bytes([255, 0, 51, 102]) + bytes([128, 0, 128, 128]))
    (one,) = (read_gaussians(path),)
    assert one.means.tolist() == [[1, -2, 3]] and one.scales.tolist() == [[0.5, 0.25, 0.125]]
    torch.testing.assert_close(one.sh[0, 0] * SH_C0 + 0.5, torch.tensor([1, 0, 0.2]))
    assert one.opacities.item() == pytest.approx(0.4)
    assert one.quats.tolist() == [[0, -1, 0, 0]]


def test_what_gsplat_exports_is_read(
    tmp_path: Path, make: Callable[..., Gaussians], quats_apart: Apart
) -> None:
    exporter = pytest.importorskip("gsplat.exporter")
    path, expected = tmp_path / "gsplat.splat", make()
    exporter.export_splats(
        means=expected.means, scales=expected.scales.log(), quats=expected.quats,
        opacities=expected.opacities.logit(), sh0=expected.sh[:, :1], shN=expected.sh[:, 1:],
        format="splat", save_to=str(path),
    )  # fmt: skip
    read = read_gaussians(path)
    order = torch.cdist(expected.means, read.means).argmin(1)  # gsplat sorts by Morton order
    found = read.select(order)
    assert torch.equal(found.means, expected.means)
    torch.testing.assert_close(found.scales, expected.scales)
    assert (found.opacities - expected.opacities).abs().max() <= 1 / 255 + 1e-6  # it truncates
    assert quats_apart(found.quats, expected.quats) <= 2.5 / 128
    shown = (expected.sh[:, 0] * SH_C0 + 0.5).clamp(0, 1)
    assert (found.sh[:, 0] * SH_C0 + 0.5 - shown).abs().max() <= 1 / 255 + 1e-6


def test_bad_lengths_and_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.splat"
    path.write_bytes(bytes(33))
    with pytest.raises(ArchiveError, match="no multiple of the 32"):
        read_gaussians(path)
    path.write_bytes(b"")
    with pytest.raises(ArchiveError, match="empty"):
        read_gaussians(path)
    good = np.array([0, 0, 0, 1, 1, 1], "<f4").tobytes() + bytes([1, 2, 3, 4, 255, 128, 128, 128])
    path.write_bytes(good + bytes(24) + bytes([0, 0, 0, 0, 128, 128, 128, 128]) + good)
    with pytest.raises(ArchiveError, match=r"1 of 3 Gaussians .* first 1"):
        read_gaussians(path)
    assert len(read_gaussians(path, drop_invalid=True)) == 2
