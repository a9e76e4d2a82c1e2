"""The built-in world: seeded procedural rooms with exact depth, labels and poses."""

from fit3d_cli.rooms.layout import Room, generate_room
from fit3d_cli.rooms.paths import room_intrinsics, room_path
from fit3d_cli.rooms.pieces import CLASSES
from fit3d_cli.rooms.render import RoomFrame, render_room
from fit3d_cli.rooms.writing import write_room

__all__ = [
    "CLASSES", "Room", "RoomFrame", "generate_room", "render_room", "room_intrinsics",
    "room_path", "write_room",
]  # fmt: skip
