from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import probe_paths
from fit3d_cli.images import save_png
from fit3d_cli.probing.exact.protocol import SEG_PROTOCOLS


def test_both_paths_are_measured_on_the_same_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = replace(SEG_PROTOCOLS["fixed"], short=32, long=64, crop=32, stride=24)
    monkeypatch.setitem(SEG_PROTOCOLS, "fixed", small)
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 3)):
        for number in range(count):
            classes = rng.integers(0, 3, (2, 3)).repeat(16, 0).repeat(16, 1)
            picture = (classes[:, :, None] * 80 + np.zeros(3)).astype(np.uint8)
            save_png(tmp_path / "data" / split / "images" / f"{number}.png", picture)
            save_png(tmp_path / "data" / split / "labels" / f"{number}.png",
                     classes.astype(np.uint8))  # fmt: skip
    out = tmp_path / "out.json"
    words = ["x", "seg", "camvid", "--steps", "2", "--fast-steps", "9", "--width", "48"]
    words += ["--threads", "1", "--device", "cpu"]
    words += ["--data", str(tmp_path / "data"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    assert probe_paths.main() == 0
    result = json.loads(out.read_text())
    assert set(result["presets"]) == {"fast", "fixed"}
    figures = {p: one["figures"]["base"]["image_miou"] for p, one in result["presets"].items()}
    gain = result["differences"]["base: fixed - fast"]["image_miou"]
    assert gain["n"] == 3
    expected = figures["fixed"]["value"] - figures["fast"]["value"]
    assert gain["value"] == pytest.approx(expected)
    assert result["presets"]["fixed"]["notes"][1] == "preset fixed"
    shown = capsys.readouterr().out
    assert "fixed" in shown and f"{figures['fixed']['value']:.4f}" in shown
