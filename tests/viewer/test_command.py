"""``fit3d viz SCENE.f3d``: what starts, what is written, what is refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fit3d_cli import app
from fit3d_cli.scene import Scene


@pytest.fixture
def argv(home: Path) -> list[str]:
    return ["viz", str(home / "scenes/walls.f3d"), "--workspace", str(home), "--device", "cpu"]


def error(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert text.startswith("fit3d: error: ") and text.count("\n") == 1
    return text


def test_export(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "view.html"
    options = ["--export", str(file), "--find=-0.7,0,3", "--unlike=0.7,0,4", "--json"]
    assert app.run([*argv, *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes"] == file.stat().st_size and told["drawn"] == told["gaussians"]
    text = file.read_text("utf-8")
    assert '"layer":"similarity"' in text and "0.875" in text
    assert (
        app.run([*argv, "--export", str(file), "--layer", "pca", "--set", "viz.view.splats=30"])
        == 0
    )
    assert "30 of 216" in capsys.readouterr().out
    assert '"layer":"pca"' in file.read_text("utf-8")


def test_serving(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: dict[str, Any] = {}

    def serve(session: Any, photos: Any, *, on_ready: Any, **options: Any) -> None:
        calls.update(options, session=session, photos=photos)
        on_ready("http://127.0.0.1:1")

    monkeypatch.setattr("fit3d_cli.viewer.serve.serve", serve)
    options = ["--port", "9000", "--layer", "kmeans", "--clusters", "3", "--hide-below", "0.25"]
    assert app.run([*argv, *options, "--tuned", "tuned", "--open"]) == 0
    out = capsys.readouterr()
    assert out.out == "http://127.0.0.1:1\n" and "Ctrl-C" in out.err
    look = calls["session"].look
    assert (look.layer, look.clusters, look.opacity) == ("kmeans", 3, 0.25)
    assert (calls["port"], calls["open_browser"]) == (9000, True)
    assert "no text tower" in calls["no_text"]
    assert calls["photos"].available


def test_sheet(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([*argv, "--sheet", "--out", str(tmp_path / "a.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == [str(tmp_path / "a.png")]
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--layer", "rainbow"], "rgb"),
        (["--find=1,2"], "--find=0.5,-1,2"),
        (["--unlike=a,b,c"], "--unlike=0.5,-1,2"),
        (["--text", "chair"], "no text tower"),
        (["--captures", "/nowhere"], "/nowhere"),
        (["--tuned", "nothing"], "model"),
        (["--hide-below", "2"], "--hide-below"),
    ],
)
def test_refused(
    argv: list[str], options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run([*argv, *options]) == 2
    assert words in error(capsys)


def test_without_viser(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    assert app.run(argv) == 3
    told = error(capsys)
    assert "pip install 'fit3d[view]'" in told and "--sheet" in told


@pytest.mark.slow
def test_ctrl_c_ends_it(scene: Scene, argv: list[str]) -> None:
    pytest.importorskip("viser")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    process = subprocess.Popen(
        [sys.executable, "-m", "fit3d_cli", *argv, "--port", "0"], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20).close()
        process.send_signal(signal.SIGINT)
        out, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert not out and "Traceback" not in told and "error" not in told
