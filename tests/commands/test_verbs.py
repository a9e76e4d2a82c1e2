"""Each verb passes on what was typed, and prints what the stage returned."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fit3d_cli import app
from fit3d_cli.progress import Progress
from fit3d_cli.report import Figure, Report
from fit3d_cli.statistics import Measured, make_rows


class Stage:
    """A stand-in for a stage's entry point that remembers its call."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.args: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}

    def __call__(self, *args: Any, on_event: Any, **options: Any) -> Any:
        print("chatter of a library")
        on_event(Progress("room: geometry", 1, 2))
        on_event(Progress("room: geometry", 2, 2, "PSNR 20.0 dB"))
        self.args, self.options = args, options
        return self.result


def install(monkeypatch: pytest.MonkeyPatch, module: str, **names: Any) -> None:
    fake = types.ModuleType(module)
    for name, value in names.items():
        setattr(fake, name, value)
    monkeypatch.setitem(sys.modules, module, fake)


def lifted(name: str, error: str | None = None, skipped: bool = False) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        name=name, path=None if error else Path(f"out/scenes/{name}.f3d"), gaussians=12,
        psnr_heldout=21.5, feature_cosine_heldout=float("nan"), seconds=1.25, error=error,
        skipped=skipped, metrics={"feature_l1_heldout": 0.5}, exit_code=2 if error else 0,
        notes=() if error else ("7 of 9 photos got a pose",), source={"photos": 9}, attempts=1,
        log=None,
    )  # fmt: skip


@pytest.fixture
def lift(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage([lifted("a"), lifted("b", skipped=True)])
    install(monkeypatch, "fit3d_cli.lifting.lift", lift_captures=stage)
    return stage


def test_lift_passes_everything_on(
    lift: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["lift", str(tmp_path), "--dim", "8", "--backbone", "mae-base", "--weights", "w.st"]
    assert app.run([*argv, "--workspace", "w", "--device", "cpu", "--seed", "3"]) == 0
    (paths, settings) = lift.args
    assert paths == [tmp_path]
    assert settings.features.dim == 8
    assert (settings.backbone.name, settings.backbone.weights) == ("mae-base", "w.st")
    assert lift.options == {"workspace": Path("w"), "device": "cpu", "seed": 3}
    shown = capsys.readouterr()
    assert "chatter" not in shown.out
    assert "21.5" in shown.out
    assert "kept" in shown.out
    assert "[3/7] room: geometry  2/2" in shown.err and "  PSNR 20.0 dB" in shown.err
    assert "next: fit3d viz out/scenes/a.f3d --workspace w" in shown.err


def test_lift_json_is_pure(lift: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["lift", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [scene["name"] for scene in shown["scenes"]] == ["a", "b"]
    assert shown["scenes"][0] == {
        "name": "a", "path": "out/scenes/a.f3d", "gaussians": 12, "psnr_heldout": 21.5,
        "feature_cosine_heldout": None, "seconds": 1.25, "skipped": False, "error": None,
        "metrics": {"feature_l1_heldout": 0.5},
        "notes": ["7 of 9 photos got a pose"], "source": {"photos": 9}, "attempts": 1, "log": None,
    }  # fmt: skip


def test_quiet_is_quiet(lift: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["lift", str(tmp_path), "--quiet"]) == 0
    assert capsys.readouterr().err == "chatter of a library\n"


@pytest.mark.parametrize(("results", "code"), [
    ([lifted("a"), lifted("b", "b: broken - mend it")], 1),
    ([lifted("b", "b: broken - mend it")], 2),
])  # fmt: skip
def test_lift_with_failures(
    lift: Stage, results: list[Any], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lift.result = results
    assert app.run(["lift", str(tmp_path), "--json"]) == code
    shown = capsys.readouterr()
    assert "fit3d: error: b: broken - mend it\n" in shown.err
    assert json.loads(shown.out)["scenes"][-1]["error"] == "b: broken - mend it"


def test_render(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage([Path("w/renders/room/a.rgb.png")])
    install(monkeypatch, "fit3d_cli.rendering", render_scene=stage)

    def read(path: Path) -> types.SimpleNamespace:
        return types.SimpleNamespace(to=lambda device: f"scene {path.stem} on {device}")

    install(monkeypatch, "fit3d_cli.archive", read_archive=read)
    scene = tmp_path / "room.f3d"
    scene.touch()
    argv = ["render", str(scene), "--what", "rgb,pca", "--views", "all", "--width", "99"]
    argv += ["--device", "cpu"]
    assert app.run([*argv, "--workspace", "w", "--set", "render.fps=9", "--json"]) == 0
    assert stage.args == ("scene room on cpu",)
    assert stage.options == {
        "what": ("rgb", "pca"), "views": "all", "width": 99, "fps": 9,
        "frames": 60, "video": "mp4", "out": Path("w/renders/room"),
    }  # fmt: skip
    assert json.loads(capsys.readouterr().out)["files"] == ["w/renders/room/a.rgb.png"]


def test_finetune_takes_the_workspace_scenes(
    monkeypatch: pytest.MonkeyPatch, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = types.SimpleNamespace(
        path=workspace / "models" / "tuned", steps=4, loss_first=0.5, loss_last=0.25, seconds=2.0,
        heldout_before=0.75, heldout_after=0.375, skipped=False,
    )  # fmt: skip
    stage = Stage(result)
    install(monkeypatch, "fit3d_cli.finetuning.finetune", finetune=stage)
    (workspace / "scenes").mkdir(parents=True)
    for name in ("b", "a"):
        (workspace / "scenes" / f"{name}.f3d").touch()
    argv = ["finetune", "--workspace", str(workspace), "--epochs", "2", "--lr", "1e-3", "--json"]
    assert app.run(argv) == 0
    assert [path.stem for path in stage.args[0]] == ["a", "b"]
    assert (stage.args[1].epochs, stage.args[1].lr) == (2, 1e-3)
    assert stage.options["captures"] == []
    shown = json.loads(capsys.readouterr().out)
    assert (shown["steps"], shown["loss_first"], shown["loss_last"]) == (4, 0.5, 0.25)
    assert (shown["heldout_before"], shown["heldout_after"]) == (0.75, 0.375)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Stage:
    base = [0.5 + 0.01 * (i % 7) for i in range(30)]
    values = {"base": base, "tuned": [v + 0.1 + 0.01 * (i % 3) for i, v in enumerate(base)],
              "sum": [v + 0.01 * (-1) ** i for i, v in enumerate(base)]}  # fmt: skip
    rows = make_rows({
        model: Measured({"miou": miou, "macc": miou, "delta1": miou, "zorks": miou})
        for model, miou in values.items()
    })  # fmt: skip
    drift = {"cosine": Figure(0.9, 24, 0.88, 0.93), "norm_ratio": Figure(1.1, 24)}
    report = Report("seg", "camvid", rows, 30, notes=("few images " * 12,), drift=drift)
    written = Path("w/reports/seg-camvid.json")
    stage = Stage(
        types.SimpleNamespace(report=report, path=written, page=written.with_suffix(".html"))
    )
    install(monkeypatch, "fit3d_cli.probing.run", run_probe=stage)
    return stage


def test_probe(probe: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["probe", "seg", "camvid", "--data", str(tmp_path), "--models", "base,tuned"]
    assert app.run([*argv, "--tuned", str(tmp_path)]) == 0
    assert probe.args[:2] == ("seg", "camvid")
    settings = probe.args[2]
    assert (settings.data, settings.models) == (str(tmp_path), ("base", "tuned"))
    shown = capsys.readouterr().out
    lines = [line.rstrip() for line in shown.splitlines()]
    assert max(map(len, lines)) <= 100
    assert lines[0] == "Segmentation on camvid, 30 images"
    base = probe.result.report.rows[0].figures["miou"]
    assert f"{base.value:.3f}  {base.low:.3f}–{base.high:.3f}" in lines[2] and "mIoU ↑" in lines[2]
    assert "30  tuned" in lines[3] and "+0.1" in lines[3] and lines[3].endswith("better")
    assert "sum" in lines[4] and lines[4].endswith("within noise") and " to +0.0" in lines[4]
    assert "zorks" not in shown and "2 more figures: -v, or the report" in shown
    assert "drift of tuned from base: cosine 0.900 (0.880–0.930), length ratio 1.100" in shown
    assert "note: few images" in shown and "report: w/reports/seg-camvid.json" in shown


def test_a_tuned_model_of_the_workspace_may_be_named(
    probe: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["probe", "seg", "camvid", "--workspace", str(tmp_path), "--tuned", "mine"]
    assert app.run(argv) == 2 and "name a model directory" in capsys.readouterr().err
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert app.run(argv) == 0
    assert probe.args[2].tuned == "mine"


def test_probe_shows_everything_when_asked(
    probe: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["probe", "seg", "camvid", "-v"]) == 0
    shown = capsys.readouterr().out
    assert "zorks" in shown and "δ < 1.25 ↑" in shown and "more figures" not in shown
    assert "undecided" in shown, "a metric without a direction is not judged"


def test_probe_of_one_model_has_no_differences(
    probe: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    report = probe.result.report
    probe.result.report = replace(report, rows=report.rows[1:2], drift={})
    assert app.run(["probe", "seg", "camvid"]) == 0
    shown = capsys.readouterr().out
    assert "verdict" not in shown and "drift" not in shown and "30  tuned" in shown


def test_probe_json_is_the_report(probe: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["probe", "seg", "camvid", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        **probe.result.report.to_dict(),
        "path": "w/reports/seg-camvid.json",
        "page": "w/reports/seg-camvid.html",
    }


def test_info(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {
        "name": "room", "source": {"dim": 384}, "views": ["a", "b"],
        "tensors": {"g.means": {"dtype": "F32", "shape": [5, 3], "bytes": 60}},
    }  # fmt: skip
    verified: list[Path] = []
    install(
        monkeypatch, "fit3d_cli.archive",
        describe=lambda path: dict(facts),
        verify_archive=verified.append,
    )  # fmt: skip
    scene = tmp_path / "room.f3d"
    scene.touch()
    assert app.run(["info", str(scene)]) == 0
    assert not verified
    shown = capsys.readouterr().out
    assert "source.dim" in shown
    assert "a, b" in shown
    assert "[5, 3]" in shown
    assert app.run(["info", str(scene), "--verify", "--json"]) == 0
    assert verified == [scene]
    assert json.loads(capsys.readouterr().out) == {**facts, "verified": True}


def test_doctor_says_what_it_found(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = app.run(["doctor", "--workspace", str(workspace), "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert code == (0 if shown["ready"] else 3)
    states = {check["name"]: check["state"] for check in shown["checks"]}
    assert states["python"] == states["torch"] == states["workspace"] == "ok"
    assert not workspace.exists()


def test_doctor_names_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert app.run(["doctor", "--workspace", str(blocked)]) == 3
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "workspace " in line and line.startswith("✘")]
    assert " - " in line
