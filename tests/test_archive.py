"""Scene archives: the same bytes for the same scene, every damage found, nothing trusted."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from torch import Tensor

from fit3d_cli import archive, tensorfile
from fit3d_cli.decoders import Decoder
from fit3d_cli.errors import ArchiveError, StorageError
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.geometry.rotations import look_at
from fit3d_cli.scene import FeatureSource, Scene
from fit3d_cli.storage import sha256_bytes

NAMES = ("a/é 雪\n.png", "b.png", "c\udce9.png")


def make_scene(count: int = 6, *, dim: int = 4, coefficients: int = 4, seed: int = 0) -> Scene:
    draw = torch.Generator().manual_seed(seed)
    opacities = torch.rand(count, generator=draw)
    opacities[:2] = torch.tensor([0.0, 1.0])[:count]
    eyes = torch.randn(3, 3, generator=draw, dtype=torch.float64) * 3
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    return Scene(
        name="room",
        gaussians=Gaussians(
            means=torch.randn(count, 3, generator=draw),
            quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=draw), dim=1),
            scales=torch.randn(count, 3, generator=draw).exp() * 0.1,
            opacities=opacities,
            sh=torch.randn(count, coefficients, 3, generator=draw),
        ),
        features=torch.randn(count, dim, generator=draw),
        decoder=Decoder(torch.randn(5, dim, 3, 3, generator=draw), torch.randn(5, generator=draw)),
        source=FeatureSource("dinov2_vits14_reg", "0" * 64, 5, 14, 518, 392),
        cameras=Cameras(
            look_at(eyes, torch.zeros(3, 3, dtype=torch.float64), up),
            torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]).double().repeat(3, 1, 1),
            torch.tensor([[640, 480]] * 3),
        ),
        names=NAMES,
        heldout=torch.tensor([False, True, False]),
        capture_digest="1" * 64,
        metric=True,
        metrics={"psnr": 27.25, "depth_rmse": math.nan},
        provenance={"fit3d": "0.1.0", "seed": 3, "settings": {"lift.dim": 4, "list": (1, 2)}},
    )


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "room.f3d"
    archive.write_archive(path, make_scene())
    return path


def test_what_was_written_comes_back(stored: Path) -> None:
    before, after = make_scene(), archive.read_archive(stored, verify="full")
    for field in ("means", "quats"):
        assert torch.equal(getattr(after.gaussians, field), getattr(before.gaussians, field))
    torch.testing.assert_close(after.gaussians.scales, before.gaussians.scales)
    torch.testing.assert_close(after.gaussians.opacities, before.gaussians.opacities)
    for mine, theirs in ((after.gaussians.sh, before.gaussians.sh),
                         (after.features, before.features)):  # fmt: skip
        assert mine.dtype == torch.float32
        assert torch.equal(mine, theirs.half().float())
    assert torch.equal(after.decoder.weight, before.decoder.weight)
    assert torch.equal(after.decoder.bias, before.decoder.bias)
    assert torch.equal(after.cameras.viewmats, before.cameras.viewmats)
    assert torch.equal(after.cameras.Ks, before.cameras.Ks)
    assert torch.equal(after.cameras.sizes, before.cameras.sizes)
    assert torch.equal(after.heldout, before.heldout)
    for name in ("name", "names", "source", "capture_digest", "metric"):
        assert getattr(after, name) == getattr(before, name)
    assert after.metrics["psnr"] == 27.25
    assert math.isnan(after.metrics["depth_rmse"])
    assert after.provenance["settings"] == {"lift.dim": 4, "list": [1, 2]}


@pytest.mark.parametrize("count", [0, 1, 2000])
def test_what_was_read_is_written_to_the_same_bytes(tmp_path: Path, count: int) -> None:
    first, second, again = tmp_path / "1.f3d", tmp_path / "2.f3d", tmp_path / "3.f3d"
    scene = make_scene(count, coefficients=16)
    if count:  # lengths off by more than float32 can help, as optimisers leave them
        gaussians = dataclasses.replace(scene.gaussians, quats=scene.gaussians.quats * 1.7)
        scene = dataclasses.replace(scene, gaussians=gaussians)
    archive.write_archive(first, scene)
    archive.write_archive(again, scene)
    archive.write_archive(second, archive.read_archive(first))
    assert first.read_bytes() == second.read_bytes() == again.read_bytes()


def test_the_header_is_as_specified(stored: Path) -> None:
    raw = stored.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    assert (8 + length) % 64 == 0
    table = json.loads(raw[8 : 8 + length])
    metadata = table.pop("__metadata__")
    assert list(table) == [
        "cam.Ks", "cam.names_offsets", "cam.viewmats", "cam.sizes", "dec.bias", "dec.weight",
        "g.log_scales", "g.logit_opacities", "g.means", "g.quats", "g.features", "g.sh",
        "cam.heldout", "cam.names_utf8",
    ]  # fmt: skip
    assert sorted(metadata) == [
        "f3d_manifest", "f3d_min_reader", "f3d_sha256", "f3d_version", "format",
    ]  # fmt: skip
    assert (metadata["format"], metadata["f3d_version"]) == ("f3d", "1.0")
    text = metadata["f3d_manifest"]
    manifest = json.loads(text)
    assert text == json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    assert metadata["f3d_sha256"] == sha256_bytes(text.encode())
    for name, entry in table.items():
        begin, end = entry["data_offsets"]
        data = raw[8 + length + begin : 8 + length + end]
        assert manifest["tensors"][name] == {
            "dtype": entry["dtype"], "shape": entry["shape"], "sha256": sha256_bytes(data),
        }  # fmt: skip


def test_any_safetensors_reader_opens_it(stored: Path) -> None:
    scene = archive.read_archive(stored)
    with safetensors.safe_open(stored, framework="pt") as file:
        assert file.metadata()["format"] == "f3d"
        assert torch.equal(file.get_tensor("g.means"), scene.gaussians.means)
        assert torch.equal(file.get_tensor("g.features").float(), scene.features)
        assert torch.equal(file.get_tensor("cam.viewmats"), scene.cameras.viewmats)


def test_no_path_of_this_machine_is_stored(tmp_path: Path) -> None:
    paths = {"capture": Path("/home/ann/scans/room"), "list": ["C:\\Users\\ann\\x.toml"]}
    scene = dataclasses.replace(make_scene(), provenance={"settings": paths})
    archive.write_archive(tmp_path / "a.f3d", scene)
    assert b"ann" not in (tmp_path / "a.f3d").read_bytes()
    settings = archive.read_manifest(tmp_path / "a.f3d").provenance["settings"]
    assert settings == {"capture": "room", "list": ["x.toml"]}


def test_parts_can_be_left_out_and_are_not_mistaken_for_data(stored: Path, tmp_path: Path) -> None:
    scene = archive.read_archive(stored, features=False, sh=False)
    assert scene.features.shape == (6, 4)
    assert scene.features.isnan().all()
    assert scene.gaussians.sh.isnan().all()
    assert torch.equal(scene.gaussians.means, make_scene().gaussians.means)
    with pytest.raises(ArchiveError, match="not finite"):
        archive.write_archive(tmp_path / "copy.f3d", scene)


def test_describe_says_what_it_holds(stored: Path) -> None:
    told = archive.describe(stored)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    expected = {
        "kind": "scene", "name": "room", "format": "f3d 1.0", "gaussians": 6, "sh_degree": 1,
        "feature_dim": 4, "views": 3, "heldout_views": 1, "metric": True, "notes": [],
        "bytes": stored.stat().st_size, "metrics": {"psnr": 27.25, "depth_rmse": None},
    }  # fmt: skip
    assert {key: told[key] for key in expected} == expected
    assert told["tensors"]["g.means"] == {"dtype": "F32", "shape": [6, 3], "bytes": 72}
    assert archive.read_manifest(stored).source == make_scene().source


def refused(path: Path, read: Callable[[Path], object]) -> bool:
    try:
        read(path)
    except ArchiveError:
        return True
    return False


def test_white_space_and_other_spellings_of_the_header_are_refused(
    tmp_path: Path, stored: Path
) -> None:
    content = stored.read_bytes()
    start = tensorfile.read_header(stored).data_start
    header = json.loads(content[8:start])
    for text in (json.dumps(header), json.dumps(header, indent=1)):
        raw = text.encode()
        raw += b" " * (-(8 + len(raw)) % 64)
        path = tmp_path / "respelt.f3d"
        path.write_bytes(struct.pack("<Q", len(raw)) + raw + content[start:])
        assert refused(path, archive.read_archive)
        with safetensors.safe_open(path, framework="pt") as file:  # valid, only not ours
            assert "g.means" in file.keys()  # noqa: SIM118


def forge(
    path: Path,
    stored: Path,
    change: Callable[[dict[str, Tensor]], object] = lambda tensors: None,
    *,
    manifest: Callable[[dict[str, Any]], object] = lambda data: None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """An archive with other content and right checksums, as a hostile writer makes it."""
    tensors, table = tensorfile.read_tensors(stored)
    change(tensors)
    data = json.loads(table["f3d_manifest"])
    data["tensors"] = {
        name: {
            "dtype": {value: key for key, value in tensorfile.DTYPES.items()}[tensor.dtype],
            "shape": list(tensor.shape),
            "sha256": sha256_bytes(tensor.contiguous().numpy().tobytes()),
        }
        for name, tensor in tensors.items()
    }
    manifest(data)
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    table |= {"f3d_manifest": text, "f3d_sha256": sha256_bytes(text.encode())}
    tensorfile.write_tensors(path, tensors, table | dict(metadata or {}))


def test_a_faithful_forgery_is_accepted(tmp_path: Path, stored: Path) -> None:
    path = tmp_path / "forged.f3d"
    forge(path, stored)
    assert path.read_bytes() == stored.read_bytes()


def setter(name: str, index: Any, value: float) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name][index] = value

    return change


def replacer(name: str, make: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] = make(tensors[name])

    return change


def names_as(*names: bytes) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        offsets = [0]
        for name in names:
            offsets.append(offsets[-1] + len(name))
        tensors["cam.names_utf8"] = torch.tensor(list(b"".join(names)), dtype=torch.uint8)
        tensors["cam.names_offsets"] = torch.tensor(offsets)

    return change


HOSTILE_TENSORS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "NaN mean": (setter("g.means", (4, 1), math.nan), "1 of 6 rows are not finite, first 4"),
    "infinite feature": (setter("g.features", (0, 0), math.inf), "g.features"),
    "NaN colour": (setter("g.sh", (5, 0, 0), math.nan), "g.sh"),
    "NaN decoder": (setter("dec.weight", (0, 0, 0, 0), math.nan), "dec.weight"),
    "zero quaternion": (setter("g.quats", 2, 0.0), "unit length, first 2"),
    "huge scale": (setter("g.log_scales", (1, 1), 1000.0), "out of range"),
    "NaN camera": (setter("cam.viewmats", (1, 0, 3), math.nan), "cam.viewmats"),
    "sheared camera": (setter("cam.viewmats", (1, 0, 0), 2.0), "not rigid"),
    "mirrored camera": (replacer("cam.viewmats", lambda v: v * torch.tensor([-1, 1, 1, 1.0])
                                 .double()[:, None]), "not rigid"),
    "projective camera": (setter("cam.viewmats", (0, 3, 0), 1.0), "not rigid"),
    "negative focal length": (setter("cam.Ks", (0, 0, 0), -500.0), "intrinsics"),
    "principal point far away": (setter("cam.Ks", (0, 0, 2), 1e6), "intrinsics"),
    "endless picture": (setter("cam.sizes", (0, 0), 2**31 - 1), "intrinsics"),
    "name too long": (names_as(b"a" * 256, b"b", b"c"), "bad view name"),
    "features of no channels": (lambda t: (replacer("g.features", lambda f: f[:, :0].clone())(t),
                                           replacer("dec.weight", lambda w: w[:, :0].clone())(t)),
                                "no channels"),
    "empty picture": (setter("cam.sizes", (0, 0), 0), "intrinsics"),
    "held-out 2": (setter("cam.heldout", 0, 2), "neither 0 nor 1"),
    "name climbs": (names_as(b"../../etc/passwd", b"b", b"c"), "bad view name"),
    "name is absolute": (names_as(b"/etc/passwd", b"b", b"c"), "bad view name"),
    "name is empty": (names_as(b"", b"b", b"c"), "bad view name"),
    "name holds NUL": (names_as(b"a\0", b"b", b"c"), "bad view name"),
    "one name twice": (names_as(b"b", b"b", b"c"), "two views"),
    "offsets fall": (setter("cam.names_offsets", 1, 9999), "overlap"),
    "offset negative": (setter("cam.names_offsets", 0, -1), "overlap"),
    "too few offsets": (replacer("cam.names_offsets", lambda t: t[:-1]), "name offsets"),
    "one opacity too many": (replacer("g.logit_opacities", lambda t: torch.cat([t, t[:1]])),
                             "g.logit_opacities has shape"),
    "five coefficients": (replacer("g.sh", lambda t: torch.cat([t, t[:, :1]], 1)), "coefficients"),
    "decoder of other width": (replacer("dec.weight", lambda t: t[:, :3].clone()), "dec.weight"),
    "decoder of other depth": (lambda t: (replacer("dec.weight", lambda w: w[:4].clone())(t),
                                          replacer("dec.bias", lambda b: b[:4].clone())(t)),
                               "4 channels"),
    "wrong dtype": (replacer("g.means", Tensor.double), "g.means is F64, expected F32"),
    "tensor missing": (lambda t: t.pop("g.means"), "no tensor g.means"),
    "tensor unknown": (lambda t: t.update({"g.velocity": torch.ones(6)}), "unknown tensor"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE_TENSORS)
def test_right_checksums_do_not_excuse_wrong_numbers(
    tmp_path: Path, stored: Path, case: str
) -> None:
    change, message = HOSTILE_TENSORS[case]
    path = tmp_path / "forged.f3d"
    forge(path, stored, change)
    with pytest.raises(ArchiveError) as caught:
        archive.read_archive(path)
    assert message in str(caught.value)
    assert caught.value.where == str(path)
    assert caught.value.hint


HOSTILE_MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no source": (lambda m: m.pop("source"), "malformed manifest"),
    "source is text": (lambda m: m.update(source="dinov2"), "malformed manifest"),
    "patch size 0": (lambda m: m["source"].update(patch_size=0), "patch_size"),
    "patch size true": (lambda m: m["source"].update(patch_size=True), "patch_size"),
    "metric is 1": (lambda m: m.update(metric=1), "metric"),
    "metrics are words": (lambda m: m.update(metrics={"psnr": "high"}), "malformed manifest"),
    "metrics are words of numbers": (lambda m: m.update(metrics={"psnr": "inf"}), "no number"),
    "metrics are true": (lambda m: m.update(metrics={"psnr": True}), "no number"),
    "metrics are a list": (lambda m: m.update(metrics=[]), "metrics"),
    "shapes are words": (lambda m: m["tensors"]["g.means"].update(shape=["6", 3]), "natural"),
    "shapes are fractions": (lambda m: m["tensors"]["g.means"].update(shape=[6.0, 3]), "natural"),
    "half a character": (lambda m: m["provenance"].update(a="\ud800"), "malformed"),
    "wide": (lambda m: m["provenance"].update(a=[0] * 9000), "more than 8192 values"),
    "shapes are lists": (lambda m: m["tensors"]["g.means"].update(shape=[[6], 3]), "malformed"),
    "a tensor unlisted": (lambda m: m["tensors"].pop("g.sh"), "tensor g.sh is not as"),
    "a tensor too many": (lambda m: m["tensors"].update({"y": m["tensors"]["g.sh"]}), "tensor y"),
    "deep": (lambda m: m["provenance"].update(a=json.loads("[" * 50 + "]" * 50)), "deep"),
    "name climbs": (lambda m: m.update(name="../room"), "bad scene name"),
    "name too long": (lambda m: m.update(name="é" * 128), "bad scene name"),
    "version differs": (lambda m: m.update(version="1.1"), "versions"),
}


@pytest.mark.parametrize("case", HOSTILE_MANIFESTS)
def test_right_checksums_do_not_excuse_a_wrong_manifest(
    tmp_path: Path, stored: Path, case: str
) -> None:
    change, message = HOSTILE_MANIFESTS[case]
    path = tmp_path / "forged.f3d"
    forge(path, stored, manifest=change)
    with pytest.raises(ArchiveError) as caught:
        archive.read_archive(path)
    assert message in str(caught.value)


def test_other_safetensors_files_and_other_versions(tmp_path: Path, stored: Path) -> None:
    path = tmp_path / "other.f3d"
    tensorfile.write_tensors(path, {"a": torch.ones(1)}, {"format": "pt"})
    with pytest.raises(ArchiveError, match="not a fit3d scene"):
        archive.read_archive(path)
    newer = {"f3d_version": "2.0", "f3d_min_reader": "3.1.0"}
    forge(path, stored, metadata=newer, manifest=lambda m: m.update(version="2.0"))
    with pytest.raises(ArchiveError, match=r"format 2\.0.*1\.x - install fit3d 3\.1\.0 or newer"):
        archive.read_archive(path)
    forge(path, stored, metadata={"f3d_version": "one"})
    with pytest.raises(ArchiveError, match="format version 'one'"):
        archive.read_archive(path)


def test_a_newer_minor_version_and_extensions_are_read(tmp_path: Path, stored: Path) -> None:
    path = tmp_path / "newer.f3d"

    def extend(manifest: dict[str, Any]) -> None:
        manifest |= {"version": "1.7", "weather": "sunny"}

    forge(
        path, stored, lambda t: t.update({"x.velocity": torch.ones(6, 3)}),
        manifest=extend, metadata={"f3d_version": "1.7"},
    )  # fmt: skip
    archive.verify_archive(path)
    assert torch.equal(archive.read_archive(path).features, archive.read_archive(stored).features)
    assert archive.describe(path)["notes"] == ["format 1.7, this fit3d knows 1.0"]
    # Extensions are verified and otherwise ignored: a scene has no place for them.
    begin = tensorfile.read_header(path).data_start
    begin += tensorfile.read_header(path).tensors["x.velocity"].begin
    content = path.read_bytes()
    path.write_bytes(content[:begin] + bytes([content[begin] ^ 1]) + content[begin + 1 :])
    assert refused(path, archive.verify_archive)
    path.write_bytes(content)
    archive.write_archive(path, archive.read_archive(path))
    assert path.read_bytes() == stored.read_bytes()


def spoil(scene: Scene, **changes: Any) -> Scene:
    return dataclasses.replace(scene, gaussians=dataclasses.replace(scene.gaussians, **changes))


UNSTORABLE: dict[str, Callable[[Scene], Scene]] = {
    "NaN mean": lambda s: spoil(s, means=s.gaussians.means * math.nan),
    "zero scale": lambda s: spoil(s, scales=s.gaussians.scales * 0),
    "negative scale": lambda s: spoil(s, scales=-s.gaussians.scales),
    "NaN opacity": lambda s: spoil(s, opacities=s.gaussians.opacities * math.nan),
    "zero quaternion": lambda s: spoil(s, quats=s.gaussians.quats * 0),
    "feature beyond float16": lambda s: dataclasses.replace(s, features=s.features * 1e6),
    "climbing name": lambda s: dataclasses.replace(s, names=("../a", "b", "c")),
    "scene named as a path": lambda s: dataclasses.replace(s, name="a/b"),
    "half a character in a name": lambda s: dataclasses.replace(s, names=("\ud800", "b", "c")),
    "half a character for a name": lambda s: dataclasses.replace(s, name="\ud800"),
    "half a character in provenance": lambda s: dataclasses.replace(s, provenance={"a": "\ud800"}),
    "deep provenance": lambda s: dataclasses.replace(
        s, provenance={"a": json.loads("[" * 20 + "]" * 20)}
    ),
    "wide provenance": lambda s: dataclasses.replace(s, provenance={"a": [0] * 9000}),
    "no tokens": lambda s: dataclasses.replace(
        s, source=dataclasses.replace(s.source, patch_size=0)
    ),
    "endless provenance": lambda s: dataclasses.replace(s, provenance={"log": "x" * 300_000}),
}


@pytest.mark.parametrize("case", UNSTORABLE)
def test_what_no_reader_accepts_is_not_written(tmp_path: Path, case: str) -> None:
    path = tmp_path / "scene.f3d"
    with pytest.raises(ArchiveError) as caught:
        archive.write_archive(path, UNSTORABLE[case](make_scene()))
    assert caught.value.where == str(path)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_a_fault_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError) as caught:
        archive.write_archive(tmp_path / "file" / "scene.f3d", make_scene())
    assert caught.value.exit_code == 3
