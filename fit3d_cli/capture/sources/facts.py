"""``source.json``: what a made capture came from, and what is worth knowing of how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fit3d_cli.storage import write_json

FACTS = "source.json"


def write_facts(folder: Path, notes: list[str], figures: Mapping[str, float | int]) -> None:
    """Leave notes for the user and figures beside a capture that a source has made.

    Args:
        folder: The capture.
        notes: One line each; they become notes of the capture, and the same photos give the
            same ones.
        figures: Numbers by name, e.g. ``{"photos": 50, "registered": 48}``.

    Raises:
        StorageError: The file cannot be written.
    """
    write_json(folder / FACTS, {"notes": notes, "figures": dict(figures)})


def read_facts(folder: Path) -> dict[str, Any]:
    """The content of ``source.json``; empty where there is none that makes sense."""
    try:
        data = json.loads((folder / FACTS).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def source_notes(folder: Path) -> tuple[str, ...]:
    """The notes of a made capture; none for any other folder."""
    notes = read_facts(folder).get("notes")
    return tuple(map(str, notes)) if isinstance(notes, list) else ()


def source_figures(folder: Path) -> dict[str, float]:
    """The figures of a made capture; none for any other folder."""
    figures = read_facts(folder).get("figures")
    if not isinstance(figures, dict):
        return {}
    return {str(k): v for k, v in figures.items() if isinstance(v, int | float)}
