"""The whole chain at toy size: what ``fit3d demo`` prints, writes, and does when run again."""

import json
from pathlib import Path

import pytest

from fit3d_cli import app
from fit3d_cli.commands import demo

TOY = (
    "lift.geometry.width=96", "lift.backbone.width=96", "lift.geometry.iterations=15",
    "lift.geometry.init_gaussians=400", "lift.isolate=never", "render.width=48",
    "render.frames=2", "finetune.epochs=1", "probe.steps=10", "probe.backbone.width=96",
    "compare.backbone.width=96", "compare.images=1",
)  # fmt: skip


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    monkeypatch.setattr(demo, "LIFT_VIEWS", 6)
    monkeypatch.setattr(demo, "PROBE_ROOMS", {"train": 2, "test": 2})
    monkeypatch.setattr(demo, "PROBE_VIEWS", 2)
    monkeypatch.setattr(demo, "WIDTH", 96)
    monkeypatch.setattr(demo, "HEIGHT", 72)
    sets = [word for setting in TOY for word in ("--set", setting)]
    return ["demo", "--rooms", "2", "--workspace", str(tmp_path / "out"), "--quiet", *sets]


def test_demo(toy: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([*toy, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown.keys() == {"scenes", "finetune", "probe", "report", "seconds"}
    assert [scene["name"] for scene in shown["scenes"]] == ["room-0", "room-1"]
    for scene in shown["scenes"]:
        assert scene["gaussians"] > 100
        assert scene["psnr_heldout"] > 8  # a black picture of these rooms has less
        assert 0 < scene["feature_cosine_heldout"] < 1
    # 5 training views a room, two a step
    assert shown["finetune"]["steps"] == 5
    assert shown["finetune"]["heldout_after"] < shown["finetune"]["heldout_before"]
    rows = [(row["task"], row["model"]) for row in shown["probe"]]
    assert rows == [(t, m) for t in ("seg", "depth") for m in ("base", "tuned", "concat")]
    page = Path(shown["report"]).read_text("utf-8")
    assert "Segmentation on rooms" in page
    out = tmp_path / "out"
    assert sorted(p.suffix for p in (out / "renders" / "room-0").glob("orbit.*")) == [".gif"] * 3

    # Once more, for a reader: everything that was finished is kept.
    archives = {p: p.stat().st_mtime_ns for p in (out / "scenes").glob("*.f3d")}
    assert app.run(toy) == 0
    text = capsys.readouterr().out
    assert "room-1" in text and "concat" in text and "index.html" in text
    assert {p: p.stat().st_mtime_ns for p in archives} == archives
