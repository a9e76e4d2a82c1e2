"""Good files of every kind that fit3d reads, how each is read, and how each is spoilt."""

from __future__ import annotations

import importlib.util
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.conftest import ROOT

_PAYLOADS = (
    b"__import__('os').system('touch /tmp/fit3d-was-here')", b"cos\nsystem\n(S'id'\ntR.",
    b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.", b"!!python/object/apply:os.system",
    b"$(id)", b"; id", b"file:///etc/passwd", b"http://127.0.0.1:9/x", b"../../../../etc/passwd",
    b"NaN", b"1e999", b"-1", b"99999999999999999999", b"\x00", b"\xff\xff\xff\xff", b"[[[[[[[[",
)  # fmt: skip


@dataclass(frozen=True)
class Stranger:
    """A file that comes from anywhere.

    Attributes:
        kind: What it is.
        path: Where it lies; spoilt copies are put in its place.
        read: Reads it, by the way that the product does.
    """

    kind: str
    path: Path
    read: Callable[[], object]


def strangers(folder: Path) -> list[Stranger]:
    """Archives, checkpoints, tokens, splats, models, profiles, reports, lists, captures."""
    from fit3d_cli.archive import read_archive
    from fit3d_cli.backbones.cache import TokenCache, Tokens
    from fit3d_cli.config import resolve
    from fit3d_cli.datasets.plain_pickle import read_plain_pickle
    from fit3d_cli.formats import read_gaussians, write_gaussians
    from fit3d_cli.report import Report
    from fit3d_cli.tensorfile import read_sealed, write_sealed
    from tests.reliability._seeds import archives, scene

    made: list[Stranger] = []

    def add(kind: str, path: Path, read: Callable[[], object]) -> None:
        made.append(Stranger(kind, path, read))

    for index, raw in enumerate(archives(folder)):
        path = folder / f"{index}.f3d"
        path.write_bytes(raw)
        add("archive", path, lambda path=path: read_archive(path))
    sealed = folder / "step-00000001.safetensors"
    write_sealed(sealed, {"history": torch.zeros(3, 2), "p.0": torch.ones(4)}, {"plan": "x"})
    add("checkpoint", sealed, lambda: read_sealed(sealed))
    cache, key = TokenCache(folder / "tokens"), "ab" * 32
    cache.write(key, Tokens(torch.zeros(2, 3, 4).half(), torch.zeros(4).half()))
    add("tokens", cache.path(key), lambda: cache.read(key))
    for suffix in (".ply", ".spz", ".splat"):
        path = folder / f"scene{suffix}"
        write_gaussians(path, scene(9).gaussians)
        add("splats", path, lambda path=path: read_gaussians(path))
    profile = folder / "mine.toml"
    profile.write_text('[lift]\ndim = 16\n[lift.backbone]\nname = "room-tiny"\n')
    add("profile", profile, lambda: resolve("lift", profile=str(profile)))
    report = folder / "report.json"
    report.write_text(json.dumps(Report("seg", "x", (), 3, notes=("n",)).to_dict()))
    add("report", report, lambda: Report.from_json(report.read_text("utf-8"), where="r"))
    pickled = folder / "tapvid.pkl"
    pickled.write_bytes(plain_pickle())
    add("pickled list", pickled, lambda: read_plain_pickle(pickled))
    return made + _models(folder) + _captures(folder)


def plain_pickle() -> bytes:
    """What a data set of numpy arrays looks like, protocol 4."""
    import pickle

    import numpy as np

    return pickle.dumps({"dog": {"video": np.zeros((2, 3, 4, 3), np.uint8), "n": [1, 2.5]}}, 4)


def model_directory(where: Path) -> Path:
    """A random ViT as a finished model."""
    from fit3d_cli.backbones.export import write_model_directory
    from fit3d_cli.backbones.model import Backbone
    from fit3d_cli.backbones.torchvision_shim import import_timm

    shape = {"embed_dim": 16, "depth": 1, "num_heads": 2, "img_size": 32, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        model = import_timm().create_model(
            "vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True, **shape
        )
    backbone = Backbone("m", "vit_tiny_patch16_224", model, model_args=shape)
    write_model_directory(where, backbone, card="# m\n", extra={})
    return where


def _models(folder: Path) -> list[Stranger]:
    from fit3d_cli.backbones.export import read_provenance
    from fit3d_cli.backbones.load import load_backbone

    where = model_directory(folder / "model")
    return [
        Stranger("model config", where / "config.json", lambda: load_backbone(str(where))),
        Stranger("weights", where / "model.safetensors", lambda: load_backbone(str(where))),
        Stranger("provenance", where / "fit3d.json", lambda: read_provenance(where)),
    ]


def _captures(folder: Path) -> list[Stranger]:
    """The text, JSON and binary files of captures of every layout that a test can write."""
    from fit3d_cli.capture.read import read_capture
    from fit3d_cli.capture.sources.base import SOURCES, SourceOptions
    from fit3d_cli.progress import ignore

    trees = _script("capture/conftest.py").Trees()
    phones = _script("capture/phones/conftest.py").Phones(trees)
    scans = _script("capture/scans/conftest.py")
    writers: dict[str, Callable[[Path], Any]] = {
        layout: lambda root, layout=layout: trees.write(layout, root) for layout in trees.layouts
    }
    writers |= phones.writers | scans.WRITERS
    made = []
    for layout, write in writers.items():
        root = folder / "captures" / layout
        root.parent.mkdir(exist_ok=True)
        if layout in scans.WRITERS or layout in phones.writers:
            root.mkdir()
        write(root)
        files = [
            path
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.suffix.lower() not in (".png", ".jpg", ".jpeg")
        ]
        # Of many poses one speaks for all; a photo's header is read too.
        seen: dict[str, Path] = {}
        for path in files + sorted(root.rglob("*.png"))[:1] + sorted(root.rglob("*.jpg"))[:1]:
            seen.setdefault(re.sub(r"\d+", "0", path.name), path)
        made += [
            Stranger(f"capture {layout}", path, lambda root=root: read_capture(root))
            for path in seen.values()
        ]
    packed = _script("capture/phones/test_record3d_source.py")
    recording = packed.pack(folder / "walk.r3d", packed.members(phones))
    scan = scans.sens_file(folder / "scan.sens")
    numbers = iter(range(10**9))

    def unpack(name: str, path: Path) -> None:
        place = folder / "unpacked" / str(next(numbers))
        place.mkdir(parents=True)
        SOURCES.get(name).make(path, place, SourceOptions(), ignore)

    lzfse = importlib.util.find_spec("liblzfse") is not None
    for name, path in (("record3d", recording), ("sens", scan)):
        if lzfse or name != "record3d":
            made.append(Stranger(f"source {name}", path,
                                 lambda name=name, path=path: unpack(name, path)))  # fmt: skip
    return made


def _script(path: str) -> Any:
    """A module of the tests that lies in no package."""
    name = "stranger_" + re.sub(r"\W", "_", path)
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def spoilt(raw: bytes, draw: random.Random) -> bytes:
    """Other bytes: flipped, cut, doubled, with a number or an attack in the place of something."""
    data = bytearray(raw)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(data) + 1)
        length = min(draw.choice((1, 1, 2, 4, 8, 64)), len(data) - at)
        match draw.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length] * draw.choice((1, 2, 50))
            case 3:
                del data[at:]
            case 4:
                data[at : at + length] = draw.randbytes(length)
            case 5:
                data[at:at] = draw.choice(_PAYLOADS)
            case _:
                numbers = list(re.finditer(rb"-?\d+(?:\.\d+)?", data[:4096]))
                if numbers:
                    one = draw.choice(numbers)
                    data[slice(*one.span())] = draw.choice(_PAYLOADS)
    return bytes(data)
