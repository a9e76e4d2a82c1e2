"""Which first Gaussians a capture gets, and the frames they come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fit3d_cli.capture.base import Capture, SparsePoints
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.errors import ArchiveError, CaptureError, SettingsError
from fit3d_cli.formats import write_gaussians
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.lifting import start as module
from fit3d_cli.lifting.geometry import GeometryFit
from fit3d_cli.lifting.start import check_ply, first_gaussians, projected
from fit3d_cli.lifting.views import Frames
from fit3d_cli.progress import ignore
from fit3d_cli.settings import GeometrySettings

TRAIN = [0, 1, 3, 4, 6, 7]


@pytest.fixture(autouse=True)
def no_triangulation(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts the calls instead of matching photos for seconds."""
    calls: list[int] = []

    def fake(capture: Capture, train: list[int], on_event: object) -> SparsePoints:
        calls.append(len(train))
        return sparse(150, seed=9)

    monkeypatch.setattr(module, "triangulate", fake)
    monkeypatch.setattr(module, "can_triangulate", lambda: True)
    yield calls


def sparse(count: int, seed: int = 0) -> SparsePoints:
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    return SparsePoints(xyz, torch.randint(256, (count, 3), generator=generator).to(torch.uint8))


def begin(
    capture: Capture, frames: Frames, cache: Path, seed: int = 0, **changes: object
) -> Gaussians:
    settings = GeometrySettings.model_validate({"init_gaussians": 250, **changes})
    return first_gaussians(capture, frames, TRAIN, settings, seed, cache, "digest", ignore)


@pytest.fixture
def blind(frames: Frames) -> Frames:
    """The same frames without depth."""
    return dataclasses.replace(frames, depths=(None,) * len(frames))


def with_points(capture: Capture, count: int) -> Capture:
    return dataclasses.replace(capture, points=sparse(count))


def test_frames_are_the_photos_at_one_size(capture: Capture, frames: Frames) -> None:
    assert len(frames) == 8
    assert frames.size(0) == (48, 36)
    frame = load_frame(capture.views[2], 48, 36)
    # Eight bits: half a step of rounding.
    torch.testing.assert_close(frames.image(2), frame.image, rtol=0, atol=0.5 / 255 + 1e-6)
    assert frames.depths[2] is not None and frame.depth is not None
    assert torch.equal(frames.depths[2], frame.depth)
    torch.testing.assert_close(frames.cameras.Ks[2], frame.camera.Ks[0])
    assert frames.cameras.Ks[2, 0, 2] == pytest.approx(24)


def test_auto_prefers_depth_then_points_then_triangulation(
    capture: Capture, frames: Frames, blind: Frames, tmp_path: Path, no_triangulation: list[int]
) -> None:
    pointed = with_points(capture, 200)
    depth = begin(pointed, frames, tmp_path)
    assert torch.equal(depth.means, begin(capture, frames, tmp_path, init="depth").means)
    points = begin(pointed, blind, tmp_path)
    assert torch.equal(points.means, begin(pointed, frames, tmp_path, init="points").means)
    assert pointed.points is not None
    torch.testing.assert_close(points.means, pointed.points.xyz.float())
    assert no_triangulation == []
    few = with_points(capture, 30)  # says too little
    triangulated = begin(few, blind, tmp_path)
    assert no_triangulation == [6]
    torch.testing.assert_close(triangulated.means, sparse(150, seed=9).xyz.float())


def test_triangulated_points_are_kept(
    capture: Capture, blind: Frames, tmp_path: Path, no_triangulation: list[int]
) -> None:
    first = begin(capture, blind, tmp_path, init="triangulate")
    again = begin(capture, blind, tmp_path, init="triangulate")
    assert no_triangulation == [6]
    assert torch.equal(first.means, again.means) and torch.equal(first.sh, again.sh)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(b"damaged")
    assert torch.equal(begin(capture, blind, tmp_path).means, first.means)
    assert no_triangulation == [6, 6]


def test_random_is_the_last_resort(
    capture: Capture, blind: Frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> SparsePoints:
        raise CaptureError("only 3 points")

    asked = begin(capture, blind, tmp_path, init="random")
    monkeypatch.setattr(module, "triangulate", fail)
    assert torch.equal(begin(capture, blind, tmp_path).means, asked.means)
    with pytest.raises(CaptureError, match="only 3 points"):
        begin(capture, blind, tmp_path, init="triangulate")
    monkeypatch.setattr(module, "can_triangulate", lambda: False)
    assert torch.equal(begin(capture, blind, tmp_path).means, asked.means)
    assert not torch.equal(begin(capture, blind, tmp_path, seed=1).means, asked.means)
    assert len(asked) == 250 and (asked.opacities == 0.1).all()


@pytest.mark.parametrize(("init", "what"), [("depth", "depth maps"), ("points", "sparse points")])
def test_what_is_not_there_cannot_be_asked_for(
    capture: Capture, blind: Frames, tmp_path: Path, init: str, what: str
) -> None:
    with pytest.raises(CaptureError, match=f"no {what} - .*init={init}"):
        begin(capture, blind, tmp_path, init=init)


def test_depth_without_any_measurement(capture: Capture, frames: Frames, tmp_path: Path) -> None:
    dark = dataclasses.replace(frames, depths=(torch.zeros(36, 48),) * 8)
    with pytest.raises(CaptureError, match="usable depth"):
        begin(capture, dark, tmp_path, init="depth")
    pointed = with_points(capture, 120)
    assert len(begin(pointed, dark, tmp_path)) == 120


def test_points_that_are_absurdly_far_are_left_out(
    capture: Capture, blind: Frames, tmp_path: Path
) -> None:
    points = sparse(150)
    points.xyz[7] = 1e6
    far = dataclasses.replace(capture, points=points)
    made = begin(far, blind, tmp_path)
    assert len(made) == 149
    assert made.means.abs().max() < 10


def test_starting_from_a_ply(capture: Capture, frames: Frames, tmp_path: Path) -> None:
    made = begin(capture, frames, tmp_path, init="random", sh_degree=2)
    made.sh[:, 1:] = 0.25
    path = tmp_path / "start.ply"
    write_gaussians(path, made)
    for degree, coefficients in ((0, 1), (1, 4), (3, 16)):
        read = begin(capture, frames, tmp_path, init="ply", ply=str(path), sh_degree=degree)
        assert read.sh.shape == (250, coefficients, 3)
        shared = min(coefficients, 9)
        torch.testing.assert_close(read.sh[:, :shared], made.sh[:, :shared])
        assert (read.sh[:, 9:] == 0).all()
        torch.testing.assert_close(read.means, made.means)
        torch.testing.assert_close(read.opacities, made.opacities)
    path.write_bytes(b"ply\nnonsense")
    with pytest.raises(ArchiveError):
        begin(capture, frames, tmp_path, init="ply", ply=str(path))


def test_without_training_the_file_stays_as_it_is(
    capture: Capture, frames: Frames, tmp_path: Path
) -> None:
    made = begin(capture, frames, tmp_path, init="random", sh_degree=3)
    made.sh[:, 1:] = 0.25
    made.opacities[:9] = 0.001  # what a fit would prune
    for name in ("peer.ply", "peer.spz"):
        path = tmp_path / name
        write_gaussians(path, made)
        # Neither the degree nor the number of the settings holds for it.
        kept = begin(
            capture, frames, tmp_path, init="ply", ply=str(path), iterations=0, sh_degree=1,
            init_gaussians=10,
        )  # fmt: skip
        assert kept.sh.shape == (250, 16, 3)
        assert (kept.sh - made.sh).abs().max() < 0.02
        settings = GeometrySettings(iterations=0)
        fit = GeometryFit(kept, frames, TRAIN, settings, 0)
        after = fit.run(ignore, "geometry", None)
        assert torch.equal(after.means, kept.means) and torch.equal(after.sh, kept.sh)
        torch.testing.assert_close(after.opacities, kept.opacities)


def test_a_file_in_another_frame_is_refused_with_figures(
    capture: Capture, frames: Frames, tmp_path: Path
) -> None:
    made = begin(capture, frames, tmp_path, init="random")
    path = tmp_path / "peer.ply"
    share, views = projected(made.means, frames.cameras[TRAIN])
    assert share == 1 and views == 6  # they were drawn inside the frusta
    # One in fifty is where it belongs.
    write_gaussians(path, dataclasses.replace(made, means=made.means + 1e3 * (
        torch.arange(250) % 50 > 0)[:, None]))  # fmt: skip
    with pytest.raises(ArchiveError, match=r"2\.0% of its 250 Gaussians .* 6 training views"):
        begin(capture, frames, tmp_path, init="ply", ply=str(path), iterations=0)
    write_gaussians(path, made.select(torch.zeros(250, dtype=torch.bool)))
    with pytest.raises(ArchiveError, match="holds no Gaussians"):
        begin(capture, frames, tmp_path, init="ply", ply=str(path))


def test_one_file_belongs_to_one_capture(tmp_path: Path) -> None:
    path = tmp_path / "peer.spz"
    path.touch()
    settings = GeometrySettings(init="ply", ply=str(path))
    check_ply(settings)
    with pytest.raises(SettingsError, match="for 3 captures - lift them one by one"):
        check_ply(settings, 3)
    path.unlink()
    with pytest.raises(SettingsError, match="no such file"):
        check_ply(settings)
