"""What holds for every layout: auto-detected, by one reader; poses, lenses and names right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fit3d_cli.capture.base import READERS
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.capture.read import capture_digest, read_capture, view_cameras
from fit3d_cli.capture.sources.find import find_scans

LAYOUTS = (
    "polycam", "arkitscenes", "record3d", "scannetpp", "scannetpp dslr", "scannetpp iphone"
)  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_exactly_one_reader_knows_it(phones, tmp_path: Path, layout: str) -> None:
    phones.writers[layout](tmp_path / "x")
    assert [n for n, reader in READERS.items() if reader.sniff(tmp_path / "x")] == [
        layout.split()[0]
    ]
    for named in (tmp_path, tmp_path / "x"):
        (scan,) = find_scans(named)
        assert (scan.path, scan.readers) == (tmp_path / "x", (layout.split()[0],))


def test_no_reader_claims_the_trees_of_others(phones, trees, tmp_path: Path) -> None:
    for layout in trees.layouts:
        trees.write(layout, tmp_path / layout)
        claimed = [n for n, reader in READERS.items() if reader.sniff(tmp_path / layout)]
        assert len(claimed) == 1 and claimed[0] not in LAYOUTS


@pytest.mark.parametrize("reader", sorted({layout.split()[0] for layout in LAYOUTS}))
def test_sniffing_never_raises(tmp_path: Path, reader: str) -> None:
    sniff = READERS.get(reader).sniff
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file", tmp_path / "absent", tmp_path / ("n" * 300)):
        assert sniff(path) is False


@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip(phones, tmp_path: Path, layout: str) -> None:
    root = tmp_path / "a scene é"
    names = phones.writers[layout](root)
    capture = read_capture(root)
    assert capture.reader == layout.split()[0]
    assert (capture.name, capture.root, capture.metric) == ("a scene é", root, True)
    assert [view.name for view in capture.views] == names
    truth = phones.viewmats
    if layout in ("scannetpp", "scannetpp dslr"):
        world = torch.tensor(
            [[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]], dtype=torch.float64
        )
        truth = truth @ world.T
    torch.testing.assert_close(view_cameras(capture).viewmats, truth, atol=1e-9, rtol=0)
    for view in capture.views:
        assert (view.width, view.height) == (phones.width, phones.height)
        torch.testing.assert_close(view.K, phones.K, atol=1e-9, rtol=0)
        assert load_frame(view, 32, 24).image.shape == (24, 32, 3)
    # Looking does not change it, and nothing depends on where it lies.
    digest = capture_digest(capture)
    root.rename(tmp_path / "elsewhere")
    assert capture_digest(read_capture(tmp_path / "elsewhere")) == digest


@pytest.mark.parametrize("layout", ["polycam", "arkitscenes", "record3d", "scannetpp iphone"])
def test_depth_lies_on_the_photo(phones, tmp_path: Path, layout: str) -> None:
    phones.writers[layout](tmp_path / "x")
    capture = read_capture(tmp_path / "x")
    for i, view in enumerate(capture.views):
        if layout == "arkitscenes":
            assert view.depth_camera is None
        else:
            assert view.depth_camera is not None
            torch.testing.assert_close(view.depth_camera.K, phones.depth_K)
            assert torch.equal(view.depth_camera.photo_from_depth, torch.eye(4).double())
        depth = load_frame(view, phones.width, phones.height).depth
        assert depth is not None
        stored = torch.from_numpy(phones.depth_map(i).astype("float32")) / 1000
        expected = stored.repeat_interleave(2, 0).repeat_interleave(2, 1)
        torch.testing.assert_close(depth, expected, atol=1e-6, rtol=0)
