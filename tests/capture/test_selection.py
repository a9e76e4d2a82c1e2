from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fit3d_cli.capture.read import (
    capture_digest,
    heldout_mask,
    read_capture,
    spread,
    view_cameras,
)
from fit3d_cli.errors import CaptureError

LAYOUTS = ["rgbd", "transforms", "cameras-json", "colmap"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_digest_is_of_the_content_alone(
    trees, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    trees.write(layout, tmp_path / "here")
    digest = capture_digest(read_capture(tmp_path / "here"))
    assert len(digest) == 64
    shutil.copytree(tmp_path / "here", tmp_path / "elsewhere" / "deeper")
    assert capture_digest(read_capture(tmp_path / "elsewhere/deeper", name="n")) == digest
    monkeypatch.chdir(tmp_path / "here")
    assert capture_digest(read_capture(Path())) == digest
    listing = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda p: iter(sorted(listing(p), reverse=True)))
    assert capture_digest(read_capture(tmp_path / "here")) == digest


def test_digest_changes_with_everything(trees, tmp_path: Path) -> None:
    trees.write("transforms", tmp_path / "t")
    capture = read_capture(tmp_path / "t")
    seen = {capture_digest(capture)}
    view = capture.views[1]
    for path in (view.image_path, view.depth_path, view.mask_path):
        assert path is not None
        whole = path.read_bytes()
        # The last byte of a PNG's checksum: the smallest change there is.
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        seen.add(capture_digest(capture))
        path.write_bytes(whole)
    nudge = torch.zeros(4, 4, dtype=torch.float64)
    nudge[0, 3] = 1e-6
    assert view.distortion is not None
    for changed in (
        replace(view, viewmat=view.viewmat + nudge),
        replace(view, K=view.K + nudge[:3, 1:]),
        replace(view, depth_scale=999.0),
        replace(view, name="other"),
        replace(view, distortion=None),
        replace(view, mask_path=None),
    ):
        views = (capture.views[0], changed, *capture.views[2:])
        seen.add(capture_digest(replace(capture, views=views)))
    seen.add(capture_digest(replace(capture, points=None)))
    seen.add(capture_digest(replace(capture, metric=False)))
    seen.add(capture_digest(replace(capture, views=capture.views[1:])))
    assert len(seen) == 13
    # Order of the views and the last bits of a pose mean nothing.
    noisy = replace(view, viewmat=view.viewmat * (1 + 1e-15))
    shuffled = (noisy, *(v for v in reversed(capture.views) if v is not view))
    assert capture_digest(replace(capture, views=shuffled)) in seen
    view.image_path.unlink()
    with pytest.raises(CaptureError, match=r"1\.view\.png"):
        capture_digest(capture)


def test_heldout_mask() -> None:
    names = [f"{i:04}" for i in range(100)]
    mask = heldout_mask(names, 0.1, 0)
    assert mask.dtype == torch.bool and mask.shape == (100,) and int(mask.sum()) == 10
    gaps = mask.nonzero()[:, 0].diff()
    assert set(gaps.tolist()) == {10}
    assert torch.equal(mask, heldout_mask(names, 0.1, 0))
    assert len({tuple(heldout_mask(names, 0.1, seed).tolist()) for seed in range(20)}) > 5
    # Follows the names, not their order.
    back = heldout_mask(names[::-1], 0.1, 0)
    assert torch.equal(back.flip(0), mask)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("total", [1, 2, 3, 4, 7, 15, 66])
@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.1, 0.3, 0.5, 1.0])
def test_heldout_counts(total: int, fraction: float, seed: int) -> None:
    mask = heldout_mask([str(i) for i in range(total)], fraction, seed)
    held = int(mask.sum())
    assert len(mask) == total and held < total
    if fraction == 0 or total < 3:
        assert held == 0
    else:
        assert held == min(max(1, round(total * fraction)), total - 1)


def test_spread(trees, tmp_path: Path) -> None:
    trees.write("rgbd", tmp_path / "r")
    capture = read_capture(tmp_path / "r")
    assert spread(capture, 0) is capture and spread(capture, 5) is capture
    assert [v.name[6:12] for v in spread(capture, 2).views] == ["000005", "000015"]
    assert len({v.name for v in spread(capture, 4).views}) == 4
    with pytest.raises(CaptureError, match="at least 2"):
        spread(capture, 1)


def test_json_lens_reaches_the_digest(trees, tmp_path: Path) -> None:
    trees.write("cameras-json", tmp_path / "c")
    before = capture_digest(read_capture(tmp_path / "c"))
    source = tmp_path / "c/cameras.json"
    data = json.loads(source.read_text())
    data["frames"][0]["near"] = 0.5  # not a field that is read
    source.write_text(json.dumps(data))
    assert capture_digest(read_capture(tmp_path / "c")) == before
    data["frames"][0]["cy"] = 16.0
    source.write_text(json.dumps(data))
    assert capture_digest(read_capture(tmp_path / "c")) != before


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "reader", "count"),
    [("fox", "transforms", 50), ("ethiopian_head", "cameras-json", 66), ("apc_shelf", "rgbd", 15)],
)
def test_real_captures_read(realdata: Path, name: str, reader: str, count: int) -> None:
    capture = read_capture(realdata / name)
    assert (capture.reader, len(capture.views), dict(capture.dropped)) == (reader, count, {})
    rotations = view_cameras(capture).viewmats[:, :3, :3]
    error = rotations @ rotations.transpose(1, 2) - torch.eye(3, dtype=torch.float64)
    assert float(error.abs().max()) < 1e-8
