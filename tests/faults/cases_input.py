"""Settings, weights, workspaces and arguments that are wrong, for every verb."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from fit3d_cli import app
from tests.faults.case import Case

SCENE = "out/scenes/room-0.f3d"
LIFT = "lift rooms/room-0"
TINY = f"{LIFT} --backbone tiny"
ROOMS = "--set probe.data=data"


def rooms(root: Path) -> Path:
    """The rooms as a dataset."""
    for split, room in (("train", "room-0"), ("test", "room-1")):
        shutil.copytree(root / "rooms" / room, root / "data" / split / room)
    return root / "data/test/room-1"


def spoil(name: str, size: int) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        path = rooms(root) / name
        path.write_bytes(path.read_bytes()[:size])

    return damage


def moved(root: Path) -> None:
    (root / "rooms").rename(root / "elsewhere")


def changed_photo(root: Path) -> None:
    shutil.copy(root / "rooms/room-1/frame-000001.color.png",
                root / "rooms/room-0/frame-000001.color.png")  # fmt: skip


def another_model(root: Path) -> None:
    """Lift the second room with other weights."""
    shutil.copytree(root / "tiny", root / "second")
    shutil.copy(root / "weights/other.safetensors", root / "second/model.safetensors")
    argv = ["lift", "rooms/room-1", "--backbone", "second", "--workspace", "out", "-q"]
    if app.run([*argv, "--profile", "small.toml"]):
        raise RuntimeError("the world could not be damaged")


def unfinished(root: Path) -> None:
    (root / "out/models/tuned/config.json").unlink()


def file_at(path: str) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        shutil.rmtree(root / path, ignore_errors=True)
        (root / path).write_text("a file")

    return damage


def config(text: str) -> Callable[[Path], object]:
    return lambda root: (root / "tiny/config.json").write_text(text)


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(text)


CASES: dict[str, Case] = {
    # settings, for all verbs alike
    "setting unknown": Case(f"{LIFT} --set lift.dimm=3", "--set lift.dimm", "lift.features.dim"),
    "setting ill-typed": Case(f"{LIFT} --set lift.dim=many", "--set lift.features.dim", "whole"),
    "setting out of range": Case(f"{LIFT} --set lift.heldout=0.9", "lift.heldout", "<= 0.5"),
    "setting a flag as number": Case(f"{LIFT} --set lift.densify=7", "densify", "true or false"),
    "setting without value": Case(f"{LIFT} --set lift.dim", "--set lift.dim", "key=value"),
    "setting of another verb": Case("finetune --set lift.dim=3", "lift.features.dim", "not used"),
    "more channels than there are": Case(f"{TINY} --dim 100", "--dim 100", "at most 32"),
    "setting infinite": Case("finetune --set finetune.lr=inf", "finetune.lr", "a number > 0"),
    "flag ill-typed": Case(f"{LIFT} --dim many", "--dim", "integer"),
    "profile unknown": Case(f"{LIFT} --profile quik", "quik", "did you mean quick"),
    "profile not TOML": Case(f"{LIFT} --profile bad.toml", "bad.toml", "TOML",
                             damage=write("bad.toml", "lift = [")),
    "profile unknown key": Case(f"{LIFT} --profile bad.toml", "bad.toml", "lift.dimm",
                                damage=write("bad.toml", "[lift]\ndimm = 3")),
    "profile ill-typed": Case(f"{LIFT} --profile bad.toml", "bad.toml", "whole",
                              damage=write("bad.toml", "[lift.features]\ndim = 'x'")),
    "profile binary": Case(f"{LIFT} --profile bad.toml", "bad.toml",
                           damage=lambda r: (r / "bad.toml").write_bytes(b"\xff\xfe\x00")),
    "profile a folder": Case(f"{LIFT} --profile rooms", "rooms"),
    "profile missing file": Case(f"{LIFT} --profile gone/a.toml", "gone/a.toml"),
    # backbones and weights
    "backbone unknown": Case(f"{LIFT} --backbone dinov2-smal", "dinov2-smal", "dinov2-small"),
    "backbone no ViT": Case(f"{LIFT} --backbone resnet18", "resnet18", "plain vision"),
    "backbone folder missing": Case(f"{LIFT} --backbone gone/model", "gone/model", "no such"),
    "backbone unfinished": Case(TINY, "tiny", "config.json",
                                damage=lambda r: (r / "tiny/config.json").unlink()),
    "backbone config broken": Case(TINY, "tiny/config.json", "config", damage=config("{")),
    "backbone config a list": Case(TINY, "tiny/config.json", "config", damage=config("[]")),
    "backbone architecture unknown": Case(
        TINY, "tiny/config.json", "vit_huge",
        damage=config('{"architecture": "vit_huge", "pretrained_cfg": {}}')),
    "backbone arguments unknown": Case(
        TINY, "tiny", damage=config(
            '{"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {}, '
            '"model_args": {"colour": "red"}}')),
    "backbone arguments absurd": Case(
        TINY, "tiny", damage=config(
            '{"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {}, '
            '"model_args": {"embed_dim": "wide"}}')),
    "weights missing": Case(f"{TINY} --weights gone.safetensors", "gone.safetensors", "no such"),
    "weights a folder": Case(f"{TINY} --weights rooms", "rooms"),
    "weights cut": Case(f"{TINY} --weights weights/cut.safetensors", "cut", "truncated"),
    "weights text": Case(f"{TINY} --weights weights/text.safetensors", "text.safetensors", "not a"),
    "weights empty": Case(f"{TINY} --weights weights/empty.safetensors", "empty.safetensors"),
    "weights pickled": Case(f"{TINY} --weights weights/model.pth", "model.pth", "safetensors"),
    "weights misshapen": Case(f"{TINY} --weights weights/shape.safetensors", "shape", "(31,)"),
    "weights NaN": Case(f"{TINY} --weights weights/nan.safetensors", "nan", "norm.weight"),
    "weights lacking": Case(f"{TINY} --weights weights/lacking.safetensors", "lacking", "cls_tok"),
    "weights prefixed": Case(f"{TINY} --weights weights/names.safetensors", "names", "'module.'"),
    # environment
    "workspace a file": Case(f"{TINY} --workspace small.toml", "small.toml", code=3),
    "workspace below a file": Case(f"{TINY} --workspace small.toml/a", "small.toml", code=3),
    "scenes a file": Case(f"{TINY} --workspace out", "out/scenes", code=3,
                          damage=file_at("out/scenes")),
    "no device files": Case(f"{TINY} --workspace /proc/fit3d", "/proc/fit3d", code=3),
    "models a file": Case("finetune", "out/models", code=3, damage=file_at("out/models")),
    "cache a file": Case("finetune --name fresh", "out/cache", "is a file", code=3,
                         damage=file_at("out/cache")),
    "reports a file": Case(f"probe seg rooms {ROOMS}", "out/reports", code=3,
                           damage=lambda r: (rooms(r), file_at("out/reports")(r))),
    "compare a file": Case("compare", "out/compare", code=3, damage=file_at("out/compare")),
    "renders a file": Case(f"render {SCENE}", "out/renders", code=3,
                           damage=file_at("out/renders")),
    "render out a file": Case(f"render {SCENE} --out small.toml", "small.toml", code=3),
    "viz out below a file": Case(f"viz {SCENE} --out small.toml/a.png", "small.toml", code=3),
    "viz photo below a file": Case(
        "viz rooms/room-0/frame-000000.color.png --backbone tiny --out small.toml/a.png",
        "small.toml", code=3),
    "export below a file": Case(f"export {SCENE} --out small.toml/a.ply", "small.toml/a.ply",
                                "part of the path is a file", code=3),
    "demo in a file": Case("demo --workspace small.toml", "small.toml", code=3),
    # finetune
    "finetune nothing": Case("finetune --workspace gone", "gone/scenes", "fit3d lift"),
    "finetune photos changed": Case("finetune --name fresh", "room-0", "not the photos",
                                    damage=changed_photo),
    "finetune photo lost": Case(
        "finetune --name fresh", "frame-000003.color", "missing",
        damage=lambda r: (r / "rooms/room-0/frame-000003.color.png").unlink()),
    "finetune capture moved": Case("finetune --name fresh", "rooms/room-0", "--captures DIR",
                                   damage=moved),
    "finetune capture unknown": Case(
        "finetune --name fresh", "room-0", "--captures DIR",
        damage=lambda r: (r / "out/captures.json").unlink()),
    "finetune captures wrong": Case(
        "finetune --name fresh --captures layouts", "layouts", "'room-0' is not here",
        damage=moved),
    "finetune captures missing": Case("finetune --captures gone", "gone", "no such"),
    "finetune mixed scenes": Case("finetune --name fresh", "room-1.f3d", "other weights",
                                  damage=another_model),
    "finetune other weights": Case(
        "finetune --name fresh --backbone tiny --weights weights/other.safetensors",
        "weights/other.safetensors", "not the weights"),
    "finetune model gone": Case("finetune --name fresh", "tiny", "gone",
                                damage=lambda r: (r / "tiny").rename(r / "hidden")),
    "finetune diverges": Case("finetune --name fresh --lr 1e30", "finetune.lr", "diverged",
                              kept="out/cache"),
    "finetune decays too much": Case("finetune --name fresh --set finetune.weight_decay=1e30",
                                     "finetune.lr", "weight_decay", kept="out/cache"),
    "finetune name a path": Case("finetune --name ../../evil", "--name", "name of the model"),
    "finetune name empty": Case("finetune --name=", "--name", "name of the model"),
    "memory of captures damaged": Case("finetune --name fresh", "captures.json", "delete it",
                                       damage=write("out/captures.json", "{")),
    # probe
    "probe task unknown": Case(f"probe sge rooms {ROOMS}", "TASK", "did you mean", damage=rooms),
    "probe dataset unknown": Case("probe seg camvit", "camvit", "did you mean camvid"),
    "probe dataset absent": Case("probe seg camvid", "out/datasets/camvid", "get it from"),
    "probe data missing": Case("probe seg camvid --data gone", "gone", "no such"),
    "probe data of other layout": Case("probe seg ade20k --data rooms", "rooms", "get it from"),
    "probe labels of a capture": Case("probe seg rooms/room-0", "rooms/room-0", "no labels"),
    "probe depth of no depth": Case("probe depth layouts/transforms", "transforms", "0 views"),
    "probe depth of few": Case("probe depth rooms/room-0", "room-0", "5 views"),
    "probe depth of labels": Case("probe depth camvid", "camvid", "no labels for depth"),
    "probe photo cut": Case(f"probe seg rooms {ROOMS}", "frame-000001.color.png",
                            damage=spoil("frame-000001.color.png", 900),
                            kept="out/cache"),
    "probe label cut": Case(f"probe seg rooms {ROOMS}", "frame-000001.label.png",
                            damage=spoil("frame-000001.label.png", 50),
                            kept="out/cache"),
    "probe depth cut": Case(f"probe depth rooms {ROOMS}", "frame-000001.depth.png",
                            damage=spoil("frame-000001.depth.png", 50),
                            kept="out/cache"),
    "probe model unknown": Case(f"probe seg rooms --models best {ROOMS}", "--models", "base"),
    "probe tuned missing": Case(f"probe seg rooms --tuned gone {ROOMS}", "gone", "no such"),
    "probe tuned unfinished": Case(
        f"probe seg rooms --tuned out/models/tuned {ROOMS}", "out/models/tuned", "config.json",
        damage=lambda r: (rooms(r), unfinished(r))),
    "probe no tuned": Case(f"probe seg rooms {ROOMS}", "out/models", "fit3d finetune",
                           damage=lambda r: (rooms(r), unfinished(r))),
    "probe depth range": Case(
        f"probe depth rooms --set probe.min_depth=20 {ROOMS}", "probe.min_depth", "range",
        damage=rooms),
    "probe diverges": Case(f"probe depth rooms --models base --set probe.lr=1e30 {ROOMS}",
                           "probe.lr", "diverged", damage=rooms, kept="out/cache"),
    # compare, viz
    "compare three": Case("compare a b c", "compare", "3 things"),
    "compare gone": Case("compare gone.png", "gone.png", "no such"),
    "compare no picture": Case("compare small.toml", "small.toml", "not a JPEG"),
    "compare no model": Case("compare", "out/models", "fit3d finetune", damage=unfinished),
    "compare model unknown": Case("compare tiny vit_tiny_patch99", "vit_tiny_patch99", "did you"),
    "compare empty folder": Case("compare void", "void", "no picture",
                                 damage=lambda r: (r / "void").mkdir()),
    "compare photo cut": Case(
        "compare rooms/room-0/frame-000001.color.png", "frame-000001.color.png", "cannot be read",
        damage=lambda r: (r / "rooms/room-0/frame-000001.color.png").write_bytes(
            (r / "rooms/room-0/frame-000001.color.png").read_bytes()[:900])),
    "compare capture moved": Case(f"compare {SCENE}", "rooms/room-0", "--captures DIR",
                                  damage=moved),
    "compare nothing to see": Case("compare", "out/scenes", "--captures", damage=moved),
    "compare workspace empty": Case("compare --workspace gone", "gone"),
    "viz gone": Case("viz gone.png --backbone tiny", "gone.png", "no such"),
    "viz no picture": Case("viz small.toml --backbone tiny", "small.toml", "not a JPEG"),
    "viz method": Case(f"viz {SCENE} --method tsne", "--method", "pca"),
    "viz clusters": Case(f"viz {SCENE} --clusters 1", "--clusters", "> 1"),
    "viz tuned missing": Case("viz rooms/room-0 --tuned gone", "gone", "no such"),
    "viz many in a film": Case("viz rooms/room-0 --backbone tiny --out a.mp4", "--out", "no film"),
    "viz scene with model": Case(f"viz {SCENE} --backbone tiny", "--backbone", "leave"),
    "viz captures wrong": Case(f"viz {SCENE} --captures weights", "weights"),
    # render, export, info, demo
    "render unknown kind": Case(f"render {SCENE} --what rbg", "--what", "rgb"),
    "render unknown view": Case(f"render {SCENE} --views 99", "--views", "frame-000000"),
    "render no views": Case(f"render {SCENE} --views ,", "--views"),
    "render orbit of features": Case(
        f"render {SCENE} --views orbit --what features", "--what", "pca"),
    "render width": Case(f"render {SCENE} --width 0", "--width", "> 0"),
    "export exists": Case(f"export {SCENE} --out small.toml", "small.toml", "--force"),
    "export onto a folder": Case(f"export {SCENE} --out rooms --force", "rooms", ".ply"),
    "export format": Case(f"export {SCENE} --to obj", "--to", "ply"),
    "info of a picture": Case("info rooms/room-0/frame-000000.color.png", "color.png", "not a"),
    "demo backbone": Case("demo --set lift.backbone.name=nope", "nope", "choose"),
    "demo setting": Case("demo --set lift.dimm=3", "lift.dimm", "lift.features.dim"),
    "demo profile": Case("demo --profile gone.toml", "gone.toml"),
    "demo rooms": Case("demo --rooms 0", "--rooms", "1"),
}  # fmt: skip
