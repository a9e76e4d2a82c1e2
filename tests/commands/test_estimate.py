"""``--dry-run`` says what it would take; the figures grow with what they should grow with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fit3d_cli import app
from fit3d_cli.backbones.facts import ModelFacts, model_facts
from fit3d_cli.commands._cost import REFERENCE_RATE, LiftJob, Machine
from fit3d_cli.commands._estimate import Estimate
from fit3d_cli.images import save_png
from fit3d_cli.lifting.making import recorded
from fit3d_cli.settings import LiftBackboneSettings, LiftSettings

MODEL = ModelFacts("m", 22_000_000, 384, 12, 14, "apache-2.0", "download", Path("c"), 88_000_000)
SLOW = Machine(REFERENCE_RATE, 1, False)


@pytest.fixture
def same_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two estimates are compared: the machine must not change in between."""
    monkeypatch.setattr(Machine, "of", lambda device: SLOW)


def capture(root: Path, views: int) -> Path:
    frames = []
    for index in range(views):
        name = f"images/{index:02}.png"
        save_png(root / name, np.full((48, 64, 3), 9 * index, np.uint8))
        pose = torch.eye(4)
        pose[0, 3] = 0.1 * index
        frames.append({"file_path": name, "transform_matrix": pose.tolist()})
    lens = {"fl_x": 50.0, "fl_y": 50.0, "cx": 32.0, "cy": 24.0, "w": 64, "h": 48}
    (root / "transforms.json").write_text(json.dumps({**lens, "frames": frames}), "utf-8")
    return root


def dry(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, object]:
    assert app.run([*argv, "--dry-run", "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)["estimate"]
    return found


def test_every_figure_grows_with_its_cause() -> None:
    views = [(640, 480)] * 20
    job = LiftJob.of(views, LiftSettings(), MODEL)
    assert (job.views, job.tokens, job.fitted) == (20, 32 * 24, 320 * 240)
    plain = job.seconds(SLOW)
    assert set(plain) == {"photos", "geometry", "tokens", "features"}
    for change, stage in (
        ({"views": 40}, "tokens"), ({"steps": 2 * job.steps}, "geometry"),
        ({"gaussians": 2 * job.gaussians}, "geometry"), ({"dim": 128}, "features"),
        ({"stored": 10 * job.stored}, "photos"),
        ({"model": replace(MODEL, params=4 * MODEL.params)}, "tokens"),
    ):  # fmt: skip
        more = replace(job, **change).seconds(SLOW)
        assert more[stage] > 1.1 * plain[stage], (change, stage)
        assert all(more[k] >= plain[k] for k in plain)
    assert replace(job, gaussians=10 * job.gaussians).memory() > job.memory() + (100 << 20)
    assert replace(job, dim=128).disk() > job.disk()
    fast = Machine(2 * REFERENCE_RATE, 1, False)
    assert sum(job.seconds(fast).values()) == pytest.approx(sum(plain.values()) / 2)


def test_the_machine_is_timed_quickly_and_left_as_it_was() -> None:
    threads = torch.get_num_threads()
    machine = Machine.of("cpu")
    assert machine.rate > 1e8 and machine.threads >= 1 and not machine.cuda
    assert torch.get_num_threads() == threads


def test_need_is_shown_against_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fit3d_cli.device.available_memory", lambda: 2_000_000_000)
    told = Estimate(80.0, 3_100_000_000, 96_000_000, 88_000_000).told(Path())
    assert told["time"] == "about 1:20" and told["download"] == "about 88 MB"
    assert told["memory"] == "about 3.1 GB of 2.0 GB free: NOT ENOUGH"
    assert told["disk"].startswith("about 96 MB of ") and "NOT" not in told["disk"]


def test_the_built_in_backbone_is_a_file_and_a_hub_model_a_download(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = model_facts("room-tiny")
    assert (own.where, own.dim, own.depth, own.patch_size) == ("file", 128, 6, 8)
    assert own.bytes > 1000 and own.licence == "apache-2.0"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    hub = model_facts("dinov2-small")
    assert (hub.where, hub.licence, hub.dim) == ("download", "apache-2.0", 384)
    assert 85e6 < hub.bytes < 92e6 and "dinov2" in hub.repository
    cached = tmp_path / "model.safetensors"
    cached.write_bytes(b"x" * 77)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(cached))
    assert (model_facts("dinov2-small").where, model_facts("dinov2-small").bytes) == ("cache", 77)


@pytest.mark.usefixtures("same_machine")
def test_lift(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rooms = tmp_path / "rooms"
    capture(rooms / "a", 4)
    capture(rooms / "b", 6)
    argv = ["lift", str(rooms), "--backbone", "room-tiny", "--workspace", str(tmp_path / "w")]
    both = dry(capsys, *argv)
    assert [Path(p).name for p in both["writes"]] == ["a.f3d", "b.f3d"]  # type: ignore[attr-defined]
    assert both["finished"] == [] and both["download_bytes"] == 0
    one = dry(capsys, *argv, "--set", "lift.max_views=2")
    assert 0 < one["seconds"] < both["seconds"]  # type: ignore[operator]
    assert not (tmp_path / "w").exists()
    assert app.run([*argv, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "a.f3d and 1 more" in shown and "parameters, apache-2.0" in shown
    assert "Nothing was done" in shown


def test_finished_scenes_would_be_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = capture(tmp_path / "a", 4)
    archive = tmp_path / "w" / "scenes" / "a.f3d"
    archive.parent.mkdir(parents=True)
    archive.touch()
    settings = LiftSettings(max_views=3, backbone=LiftBackboneSettings(name="room-tiny"))
    known = {"settings": recorded(settings), "seed": 0}
    monkeypatch.setattr("fit3d_cli.archive.describe", lambda path: {"provenance": known})
    argv = ["lift", str(room), "--backbone", "room-tiny", "--workspace", str(tmp_path / "w")]
    same = dry(capsys, *argv, "--set", "lift.max_views=3")
    assert same["finished"] == ["a"] and same["writes"] == [] and same["parts"] == {}
    for change in (["--dim", "9"], ["--seed", "1"]):
        other = dry(capsys, *argv, "--set", "lift.max_views=3", *change)
        assert other["finished"] == [] and other["writes"]


def test_finetune(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "a.f3d"
    archive.touch()
    source = {"backbone": "room-tiny", "weights_sha256": "0", "patch_size": 8, "width": 128,
              "height": 96}  # fmt: skip
    told = {"source": source, "views": 10, "heldout_views": 1, "feature_dim": 64}
    monkeypatch.setattr("fit3d_cli.archive.describe", lambda path: told)
    argv = ["finetune", str(archive), "--workspace", str(tmp_path / "w")]
    once = dry(capsys, *argv)
    twice = dry(capsys, *argv, "--epochs", "2")
    assert once["notes"][0] == "5 steps of 2 views"  # type: ignore[index]
    assert twice["parts"]["finetune"] > 1.5 * once["parts"]["finetune"]  # type: ignore[index]
    assert once["writes"] == [str(tmp_path / "w" / "models" / "tuned")]
