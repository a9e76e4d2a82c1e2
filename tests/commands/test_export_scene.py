"""``fit3d export`` of scenes, of pictures and of other programs' Gaussians, from end to end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from fit3d_cli import app
from fit3d_cli.archive import read_archive
from fit3d_cli.backbones.export import write_model_directory
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.capture.read import read_capture
from fit3d_cli.device import seeded
from fit3d_cli.formats import describe_gaussians, read_gaussians
from fit3d_cli.geometry.gaussians import SH_C0
from fit3d_cli.images import read_image, resize_image
from fit3d_cli.rooms import write_room
from fit3d_cli.tensorfile import read_tensors
from fit3d_cli.viewer.seen import seen_features

ARGUMENTS = {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 8, "img_size": 48}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with ``midget/`` (a model), ``room/`` (a capture) and its lifted scene."""
    home = tmp_path_factory.mktemp("world")
    with seeded(0):
        model = import_timm().create_model(
            "vit_tiny_patch16_224", pretrained=False, num_classes=0, dynamic_img_size=True,
            **ARGUMENTS,
        )  # fmt: skip
    backbone = Backbone("midget", "vit_tiny_patch16_224", model, model_args=ARGUMENTS).eval()
    write_model_directory(home / "midget", backbone, card="A random model.", extra={})
    write_room(home / "room", 0, views=6, width=64, height=48)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert lift("room") == 0
        yield home


@pytest.fixture(autouse=True)
def _inside(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)


def lift(scan: str, *more: str, workspace: str = "w") -> int:
    settings = {
        "lift.backbone.width": 64, "lift.geometry.width": 48, "lift.geometry.iterations": 30,
        "lift.geometry.init_gaussians": 300, "lift.heldout": 0.2, "lift.features.dim": 6,
    }  # fmt: skip
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return app.run(["lift", scan, "--backbone", "midget", "--workspace", workspace, "--device",
                    "cpu", "--quiet", *sets, *more])  # fmt: skip


SCENE = "w/scenes/room.f3d"


def export(*argv: object, code: int = 0) -> None:
    assert app.run(["export", *map(str, argv), "--workspace", "w", "--device", "cpu", "-q"]) == code


def facts(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    capsys.readouterr()
    export(*argv, "--json")
    return dict(json.loads(capsys.readouterr().out))


def test_every_format_is_in_the_frame_of_the_capture(tmp_path: Path) -> None:
    scene = read_archive(Path(SCENE))
    capture = read_capture(Path("room"))
    for to, close in (("ply", 1e-6), ("spz", 1e-5), ("splat", 1e-6)):
        path = tmp_path / f"room.{to}"
        export(SCENE, "--out", path)
        read = read_gaussians(path)
        assert (read.means - scene.gaussians.means).abs().max() <= close
        assert (read.scales / scene.gaussians.scales).log().abs().max() <= 0.5 / 16 + 1e-4
        # The cameras that the user brought see them: nothing was turned, moved or scaled.
        first = capture.views[0]
        inside = torch.cat([read.means.double(), torch.ones(len(read), 1).double()], 1)
        local = inside @ first.viewmat.T
        pixels = local[:, :3] @ first.K.double().T
        seen = (pixels[:, 2] > 0) & (pixels[:, 0] > 0) & (pixels[:, 0] < 64 * pixels[:, 2])
        assert seen.double().mean() > 0.3


@pytest.mark.parametrize("to", ["ply", "spz", "splat"])
def test_colours_are_those_of_the_viewer(tmp_path: Path, to: str) -> None:
    from fit3d_cli.viewer.layers import Painter

    expected = Painter(read_archive(Path(SCENE))).pca
    export(SCENE, "--to", to, "--colour", "pca", "--out", tmp_path / f"a.{to}")
    read = read_gaussians(tmp_path / f"a.{to}")
    assert read.sh_degree == 0
    assert (read.sh[:, 0] * SH_C0 + 0.5 - expected).abs().max() <= 0.5 / 255 / 0.15 * SH_C0 + 1e-4


def test_classes_have_a_property_and_a_legend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.ply"
    made = facts(capsys, SCENE, "--colour", "kmeans", "--clusters", 4, "--out", path)
    legend = json.loads(Path(made["sidecar"]).read_text())
    assert made["classes"] == 4 and legend["property"] == "class_id"
    rows = np.frombuffer(path.read_bytes().split(b"end_header\n")[1], np.uint8)
    rows = rows.reshape(made["gaussians"], -1)
    counts = np.bincount(rows[:, -1])
    assert [entry["gaussians"] for entry in legend["classes"]] == counts.tolist()
    read = read_gaussians(path)
    for entry in legend["classes"]:
        mine = torch.from_numpy(rows[:, -1] == entry["id"])
        rgb = read.sh[mine][:, 0] * SH_C0 + 0.5
        assert (rgb - torch.tensor(entry["rgb"])).abs().max() < 1e-4
    assert describe_gaussians(path)["more_properties"] == ["class_id"]
    export(SCENE, "--colour", "kmeans", "--out", tmp_path / "a.spz")
    legend = json.loads((tmp_path / "a.spz.classes.json").read_text())
    assert legend["property"] is None and len(legend["classes"]) == 6


def test_a_query_lights_what_is_like_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fit3d_cli.viewer.layers import Painter

    scene = read_archive(Path(SCENE))
    view = scene.names[0]
    made = facts(capsys, SCENE, "--colour", "query", "--query", f"{view}:20,30",
                 "--out", tmp_path / "a.ply")  # fmt: skip
    point = torch.tensor(made["query"], dtype=torch.float64)
    # It lies on the ray of that pixel.
    camera = scene.cameras[0]
    local = camera.viewmats[0, :3, :3].double() @ point + camera.viewmats[0, :3, 3].double()
    pixel = (camera.Ks[0].double() @ local)[:2] / local[2]
    torch.testing.assert_close(pixel, torch.tensor([20.5, 30.5]).double(), atol=1e-3, rtol=0)
    where = ",".join(map(repr, point.tolist()))
    again = facts(capsys, SCENE, "--colour", "query", f"--query={where}",
                  "--out", tmp_path / "b.ply")  # fmt: skip
    assert again["query"] == made["query"]
    painter = Painter(scene)
    cosines = painter.codes.cosines(painter.code_at(point))
    bright = read_gaussians(tmp_path / "b.ply").sh[:, 0].sum(1)
    best, worst = cosines.argsort(descending=True)[:5], cosines.argsort()[:5]
    assert bright[best].mean() > bright[worst].mean()
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()


def test_features_of_gaussians(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = read_archive(Path(SCENE))
    export(SCENE, "--to", "npy", "--out", tmp_path / "a.npy")
    stored = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert stored.dtype == np.float16
    assert torch.equal(torch.from_numpy(stored), scene.features.half())
    means = np.load(tmp_path / "a.means.npy", allow_pickle=False)
    assert torch.equal(torch.from_numpy(means), scene.gaussians.means)
    about = json.loads((tmp_path / "a.json").read_text())
    assert about["backbone"] == "midget" and about["channels"] == "stored"
    made = facts(capsys, SCENE, "--to", "safetensors", "--decoded", "--out", tmp_path / "a.st")
    assert made["channels"] == 24
    tensors, metadata = read_tensors(tmp_path / "a.st")
    # A Gaussian that fills the picture: the decoder on a constant map.
    flat = seen_features(scene)[:3, None, None].expand(-1, 3, 3, -1)
    expected = scene.decoder(flat)[:, 1, 1]
    torch.testing.assert_close(tensors["features"][:3].float(), expected, atol=2e-3, rtol=2e-3)
    assert metadata["channels"].startswith("backbone") and metadata["backbone"] == "midget"
    export(SCENE, "--to", "safetensors", "--out", tmp_path / "b.st")
    tensors, _ = read_tensors(tmp_path / "b.st")
    assert set(tensors) == {"features", "means", "decoder.weight", "decoder.bias"}


def tokens(photo: Path, width: int) -> torch.Tensor:
    backbone = load_backbone("midget")
    pixels = read_image(photo)
    size = backbone.input_size(pixels.shape[1], pixels.shape[0], width)
    with torch.no_grad():
        return backbone.tokens(resize_image(pixels, *size).permute(2, 0, 1)[None])[0].half()


def test_tokens_of_a_folder_and_going_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "tokens"
    folder.mkdir()
    shots = sorted(Path("room").glob("*.color.*"))[:3]
    for index, shot in enumerate(shots):
        (folder / f"my photo {index}{shot.suffix}").write_bytes(shot.read_bytes())
    argv = [folder, "--backbone", "midget", "--width", 40, "--out", out]
    made = facts(capsys, *argv)
    assert (made["made"], made["kept"], made["channels"]) == (3, 0, 24)
    index = json.loads((out / "tokens.json").read_text())
    assert index["patch_size"] == 8 and index["preprocessing"]["width"] == 40
    assert index["backbone"] == "midget"
    name, entry = next(iter(index["pictures"].items()))
    assert name.startswith("my photo 0") and entry["grid"] == [4, 5]
    array = np.load(out / entry["file"], allow_pickle=False)
    assert torch.equal(torch.from_numpy(array), tokens(shots[0], 40))
    # Again: only what is missing or changed is made.
    files = [out / e["file"] for e in index["pictures"].values()]
    files[1].unlink()
    (folder / name).write_bytes(shots[1].read_bytes())
    before = files[2].stat().st_mtime_ns
    made = facts(capsys, *argv)
    assert (made["made"], made["kept"]) == (2, 1)
    assert files[2].stat().st_mtime_ns == before
    assert (np.load(files[0]) == np.load(files[1])).all()
    # Another width is another thing.
    export(*argv[:-4], "--width", 48, "--out", out, code=2)
    assert "differ in preprocessing" in capsys.readouterr().err
    assert facts(capsys, *argv[:-4], "--width", 48, "--out", out, "--force")["made"] == 3


def test_tokens_in_one_file_and_of_one_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shot = sorted(Path("room").glob("*.color.*"))[0]
    path = tmp_path / "a.safetensors"
    made = facts(capsys, "room", "--backbone", "midget", "--width", 40, "--out", path)
    assert made["tensors"] == 6
    tensors = load_file(path)  # as its own library reads it
    with safe_open(str(path), "pt") as file:
        metadata = file.metadata()
    pictures = json.loads(metadata["pictures"])
    assert len(tensors) == len(pictures) == 6
    key = pictures[shot.name]["tensor"]
    assert torch.equal(tensors[key], tokens(shot, 40))
    assert json.loads(metadata["preprocessing"])["width"] == 40
    made = facts(capsys, shot, "--backbone", "midget", "--width", 40, "--out", tmp_path / "one")
    assert made["made"] == 1


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([SCENE, "--colour", "query"], "one of --query and --text"),
        ([SCENE, "--query", "0,0,0"], "--query: is not used without --colour query"),
        ([SCENE, "--clusters", "3"], "--clusters: is not used without --colour kmeans"),
        ([SCENE, "--decoded"], "--decoded: means nothing for ply of a scene"),
        ([SCENE, "--to", "npy", "--colour", "pca"], "--colour: means nothing for npy"),
        ([SCENE, "--width", "64"], "--width: means nothing for a scene"),
        ([SCENE, "--to", "spz", "--out", "a.ply"], "a.ply: is no name for spz"),
        ([SCENE, "--colour", "query", "--query", "1,2"], "--query: '1,2' is no point"),
        ([SCENE, "--colour", "query", "--query", "nothing:1,2"], "no view called 'nothing'"),
        ([SCENE, "--colour", "query", "--query", "all:1"], "'all:1' is no pixel of a view"),
        ([SCENE, "--colour", "query", "--query", "all:900,2"], "900,2 is outside of the 64x48"),
        ([SCENE, "--colour", "query", "--text", "chair"], "text"),
        (["room", "--colour", "pca"], "--colour: means nothing for pictures"),
        (["room", "--to", "ply"], "pictures cannot become ply"),
        (["room", "--backbone", "midget", "--out", "room"], "is what is exported"),
        (["room", "--backbone", "midget", "--out", "w"], "other files than tokens"),
        (["room", "--backbone", "absent"], "unknown backbone 'absent'"),
        ([__file__], "nothing that can be exported"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    world: Path, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path for path in world.rglob("*"))
    capsys.readouterr()
    export(*argv, code=2)
    captured = capsys.readouterr()
    assert says in captured.err and len(captured.err.splitlines()) == 1 and not captured.out
    assert sorted(path for path in world.rglob("*")) == before


def test_gaussians_of_another_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Export, lift features into the file, and find the same rows again."""
    scene = read_archive(Path(SCENE))
    for to in ("ply", "spz"):
        path = tmp_path / f"peer.{to}"
        export(SCENE, "--out", path)
        assert lift("room", "--gaussians", str(path), workspace=str(tmp_path / to)) == 0
        again = read_archive(tmp_path / to / "scenes" / "room.f3d")
        read = read_gaussians(path)
        assert len(again.gaussians) == len(scene.gaussians)
        torch.testing.assert_close(again.gaussians.means, read.means)
        torch.testing.assert_close(again.gaussians.sh, read.sh, atol=2e-3, rtol=2e-3)
        cosine = "feature_cosine"
        assert again.metrics[cosine] == pytest.approx(scene.metrics[cosine], abs=0.02)
        assert again.metrics["psnr"] == pytest.approx(scene.metrics["psnr"], abs=1.0)
    export(tmp_path / "peer.ply", "--to", "splat")
    assert torch.equal(read_gaussians(tmp_path / "peer.splat").means, scene.gaussians.means)
    export(tmp_path / "peer.ply", code=2)
    assert "--to: what it becomes is not said" in capsys.readouterr().err


def test_gaussians_of_another_frame_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    from fit3d_cli.formats import write_gaussians

    gaussians = read_archive(Path(SCENE)).gaussians
    path = tmp_path / "far.ply"
    write_gaussians(path, replace(gaussians, means=gaussians.means + 1000))
    assert lift("room", "--gaussians", str(path), workspace=str(tmp_path / "x")) == 2
    shown = capsys.readouterr().err
    assert f"0.0% of its {len(gaussians)} Gaussians project into any of the" in shown
    assert "its frame is not the capture's" in shown and len(shown.splitlines()) == 1
    assert not (tmp_path / "x" / "scenes").exists()


def test_info_says_what_a_file_of_gaussians_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(SCENE, "--out", tmp_path / "a.spz")
    capsys.readouterr()
    assert app.run(["info", str(tmp_path / "a.spz"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["format"] == "Niantic .spz" and shown["version"] == 3
    assert shown["gaussians"] == len(read_archive(Path(SCENE)).gaussians)
    assert app.run(["info", str(tmp_path / "a.spz")]) == 0
    assert "median_scale" in capsys.readouterr().out
    assert app.run(["info", str(tmp_path / "a.spz"), "--verify"]) == 2
    assert "--verify: only an archive" in capsys.readouterr().err
