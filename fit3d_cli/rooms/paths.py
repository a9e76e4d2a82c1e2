"""Cameras for a room: a smooth orbit inside it that looks across at the furniture."""

from __future__ import annotations

import math

import numpy as np

from fit3d_cli.rooms.layout import Room
from fit3d_cli.rooms.primitives import Array

# Focal length over picture width: 67 degrees across, like a phone's main camera.
FOCAL = 0.75
# Neighbouring views are at most this far apart on the orbit, so that short paths overlap.
STEP = math.radians(14)


def room_intrinsics(width: int, height: int) -> Array:
    """``[3, 3]`` float64 pinhole matrix in pixels, principal point in the middle."""
    focal = FOCAL * width
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])


def room_path(room: Room, views: int) -> Array:
    """Camera-to-world matrices of a smooth path.

    The eyes run on an ellipse about the middle of the room that keeps clear of everything
    tall (which stands at the walls) and above everything low; each camera looks across.

    Args:
        room: The room.
        views: Number of cameras, at least 1.

    Returns:
        ``[views, 4, 4]`` float64, OpenCV axes, metres.
    """
    start, direction, *phases = room.orbit
    step = min(STEP, 0.92 * math.tau / views)
    result = np.zeros((views, 4, 4))
    for index in range(views):
        angle = start + direction * step * index
        swing = 0.08 * np.sin(2 * angle + np.array(phases))
        radii = np.maximum(np.array(room.size[:2]) / 2 - 1.15, 0.6) * (1 + swing[0])
        unit = np.array([math.cos(angle), math.sin(angle)])
        height = 1.58 + 1.5 * swing[1]
        eye = np.array([*(radii * unit), height])
        across = -0.55 * unit + 2 * swing[2] * np.array([-unit[1], unit[0]])
        target = np.array([*across, 0.95 + 4.0 * swing[3]])
        result[index] = _look_at(eye, target)
    return result


def _look_at(eye: Array, target: Array) -> Array:
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose
