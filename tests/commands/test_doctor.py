"""``fit3d doctor``: what is there, what is not, and the exact thing to do."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from fit3d_cli import device
from fit3d_cli.commands import doctor


def test_every_extra_is_looked_for_under_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package in ("viser", "onnxruntime"):
            raise importlib.metadata.PackageNotFoundError(package)
        return "1.2"

    monkeypatch.setattr(importlib.metadata, "version", version)
    checks = {name: doctor._extra(name, packages, what) for name, packages, what in doctor.EXTRAS}
    assert checks["view"].state == checks["onnx"].state == "note"
    assert checks["view"].remedy == "pip install 'fit3d[view]'"
    assert checks["onnx"].found.startswith("no onnxruntime: ")
    assert checks["sfm"].state == "ok" and checks["sfm"].found == "pycolmap 1.2"


def test_the_extras_are_those_of_the_project(repository: Path) -> None:
    text = (repository / "pyproject.toml").read_text("utf-8")
    for name, packages, _ in doctor.EXTRAS:
        line = next(row for row in text.splitlines() if row.startswith(f"{name} = "))
        for package in packages:
            assert package in line.replace("_", "-")


@pytest.mark.parametrize(
    ("driver", "built", "nvcc", "names"),
    [
        ("", "", "", []),
        ("550.1", "", "", ["cuda torch", "nvcc"]),
        ("550.1", "12.4", "12.6", ["driver", "nvcc"]),
        ("", "12.4", "13.0", ["nvcc"]),
    ],
)
def test_driver_torch_and_compiler_are_held_against_each_other(
    monkeypatch: pytest.MonkeyPatch, driver: str, built: str, nvcc: str, names: list[str]
) -> None:
    import torch

    monkeypatch.setattr(doctor, "_driver", lambda: driver)
    monkeypatch.setattr(doctor, "_nvcc", lambda: nvcc)
    monkeypatch.setattr(torch.version, "cuda", built or None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    checks = list(doctor._toolchain())
    assert [check.name for check in checks] == names
    assert all(check.remedy for check in checks if check.state != "ok")
    if (built, nvcc) == ("12.4", "13.0"):
        assert checks[0].state == "note" and "12.4" in checks[0].found
    if (built, nvcc) == ("12.4", "12.6"):
        assert checks[1].state == "ok"


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    free = device.available_memory()
    assert free is None or free > 1 << 20
    monkeypatch.setattr(device, "available_memory", lambda: 1 << 30)
    assert doctor._memory().state == "note" and "quick" in doctor._memory().remedy
    monkeypatch.setattr(device, "available_memory", lambda: None)
    assert doctor._memory().state == "note"


def test_missing_weights_are_a_note_with_size_licence_and_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    check = doctor._weights()
    assert check.state == "note"
    assert "88 MB" in check.found and "apache-2.0" in check.found
    assert "--weights FILE" in check.remedy and "room-tiny" in check.remedy


def test_a_library_that_raises_is_broken_with_its_reason() -> None:
    def look() -> str:
        raise RuntimeError("no such operator\nmore")

    check = doctor._guarded("x", look, "pip install x")
    assert (check.state, check.found) == ("broken", "RuntimeError: no such operator")
