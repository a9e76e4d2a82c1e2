"""The generator: determinism, coverage, and views that agree about one geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fit3d_cli.errors import SettingsError
from fit3d_cli.images import read_depth, read_image, read_labels
from fit3d_cli.rooms import (
    CLASSES,
    Room,
    RoomFrame,
    generate_room,
    render_room,
    room_intrinsics,
    room_path,
    write_room,
)
from fit3d_cli.rooms.primitives import Array

SIZE = (80, 60)


def view(room: Room, pose: Array) -> RoomFrame:
    return render_room(room, pose, room_intrinsics(*SIZE), *SIZE)


def test_the_same_seed_gives_the_same_pictures_and_another_seed_others() -> None:
    frames = [view(room, room_path(room, 8)[3]) for room in map(generate_room, (5, 5, 6))]
    for name in ("image", "depth", "labels"):
        first, again, other = (getattr(frame, name) for frame in frames)
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_room_shows_many_classes_and_is_closed(seed: int) -> None:
    room = generate_room(seed)
    seen: set[int] = set()
    longest = float(np.linalg.norm(room.size))
    for pose in room_path(room, 24)[::6]:
        frame = view(room, pose)
        values, counts = np.unique(frame.labels, return_counts=True)
        seen |= {int(v) for v, n in zip(values, counts, strict=True) if n >= 5}
        # No ray leaves the room, and nothing stands in the camera's face.
        assert frame.depth.min() > 0.2 and frame.depth.max() < longest
        assert 40 < frame.image.mean() < 215 and frame.image.std() > 15
    assert seen <= set(range(len(CLASSES)))
    assert {CLASSES[k] for k in seen} >= {"wall", "floor", "table", "chair"}
    assert len(seen) >= 7


@pytest.mark.parametrize("seed", [3, 4])
def test_depth_and_pose_carry_one_view_into_the_next(seed: int) -> None:
    room = generate_room(seed)
    poses = room_path(room, 24)[:2]
    first, second = (view(room, pose) for pose in poses)
    K = room_intrinsics(*SIZE)
    width, height = SIZE
    v, u = np.mgrid[:height, :width] + 0.5
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1)
    world = (rays * first.depth[..., None]) @ poses[0][:3, :3].T + poses[0][:3, 3]
    local = (world - poses[1][:3, 3]) @ poses[1][:3, :3]
    z = local[..., 2]
    x = local[..., 0] / z * K[0, 0] + K[0, 2]
    y = local[..., 1] / z * K[1, 1] + K[1, 2]
    inside = (z > 0) & (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    assert inside.mean() > 0.4
    x, y, z = x[inside], y[inside], z[inside]
    # Across a plane the inverse depth is linear in the picture, so interpolating it is exact.
    error = np.abs(z - 1 / bilinear(1 / second.depth, x, y))
    visible = error < 0.02  # the others are hidden in the second view or lie on an edge
    assert visible.mean() > 0.75
    assert np.median(error[visible]) < 1e-4
    same = first.labels[inside] == second.labels[y.astype(int), x.astype(int)]
    assert same[visible].mean() > 0.97
    colors = first.image[inside].astype(float), bilinear(second.image.astype(float), x, y)
    warped = np.abs(colors[0] - colors[1]).mean(-1)[visible]
    unwarped = np.abs(first.image.astype(float) - second.image).mean()
    assert np.median(warped) < 3
    assert warped.mean() < 0.5 * unwarped


def bilinear(values: Array, x: Array, y: Array) -> Array:
    """``values [H, W, ...]`` at pixel coordinates whose centres lie at +0.5."""
    column, row = np.floor(x - 0.5).astype(int), np.floor(y - 0.5).astype(int)
    extra = (None,) * (values.ndim - 2)
    fx, fy = (x - 0.5 - column)[(slice(None), *extra)], (y - 0.5 - row)[(slice(None), *extra)]
    top = values[row, column] * (1 - fx) + values[row, column + 1] * fx
    bottom = values[row + 1, column] * (1 - fx) + values[row + 1, column + 1] * fx
    result: Array = top * (1 - fy) + bottom * fy
    return result


def test_the_path_moves_smoothly_and_stays_inside() -> None:
    for seed in range(6):
        room = generate_room(seed)
        poses = room_path(room, 24)
        rotations, centers = poses[:, :3, :3], poses[:, :3, 3]
        assert np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3), atol=1e-12)
        assert np.allclose(np.linalg.det(rotations), 1)
        steps = np.linalg.norm(np.diff(centers, axis=0), axis=1)
        assert steps.min() > 0.05 and steps.max() < 0.7
        assert (np.abs(centers[:, :2]) < np.array(room.size[:2]) / 2 - 0.7).all()
        assert (rotations[:, 2, 1] < -0.7).all()  # camera y points down


def test_a_written_room_is_a_whole_capture(tmp_path: Path) -> None:
    target = tmp_path / "room"
    write_room(target, 9, views=3, width=40, height=30)
    stems = [f"frame-{k:06d}" for k in range(3)]
    parts = ("color.png", "depth.png", "label.png", "pose.txt")
    expected = {f"{s}.{p}" for s in stems for p in parts}
    expected |= {"intrinsics.txt", "classes.txt", "room.json"}
    assert {path.name for path in target.iterdir()} == expected
    assert (target / "classes.txt").read_text().split() == list(CLASSES)
    room = generate_room(9)
    pose = np.loadtxt(target / "frame-000002.pose.txt")
    assert np.array_equal(pose, room_path(room, 3)[2])
    K = np.loadtxt(target / "intrinsics.txt")
    frame = render_room(room, pose, K, 40, 30)
    assert np.array_equal(read_image(target / "frame-000002.color.png"), frame.image)
    assert np.array_equal(read_labels(target / "frame-000002.label.png"), frame.labels)
    stored = read_depth(target / "frame-000002.depth.png") / 1000
    assert np.abs(stored - frame.depth).max() <= 0.00051


def test_finished_work_is_kept_and_damaged_work_redone(tmp_path: Path) -> None:
    target = tmp_path / "room"
    write_room(target, 1, views=2, width=24, height=18)
    before = {path.name: (path.read_bytes(), path.stat().st_ino) for path in target.iterdir()}
    write_room(target, 1, views=2, width=24, height=18)
    assert all(path.stat().st_ino == before[path.name][1] for path in target.iterdir())
    (target / "frame-000001.depth.png").write_bytes(b"torn")
    write_room(target, 1, views=2, width=24, height=18)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        name: data for name, (data, _) in before.items()
    }


def test_one_view_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at least 2 views"):
        write_room(tmp_path / "room", 1, views=1, width=24, height=18)
    assert not (tmp_path / "room").exists()
