"""ONNX files, read back by ONNX Runtime. Exporting takes seconds: one model stands for all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fit3d_cli.backbones.adapters import ConvAdapter
from fit3d_cli.backbones.fixed import fixed_size
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.errors import EnvironmentFault, SettingsError, WeightsError
from fit3d_cli.handoff import onnx as handoff
from fit3d_cli.handoff.onnx import write_onnx

Family = Callable[..., Backbone]
DINOV2 = "vit_small_patch14_dinov2.lvd142m"


def test_onnx_runtime_gives_the_same_tokens(
    family: Family, shown: Callable, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    backbone = family(DINOV2, depth=1)
    backbone.adapter = ConvAdapter(48)
    with torch.no_grad():
        backbone.adapter.conv.weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    facts = write_onnx(tmp_path / "m.onnx", backbone, width=70, height=42)
    assert facts["max_error"] < 1e-4 and facts["grid"] == [3, 5]
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    images, normalised = shown(backbone, 3, 5)
    patches, pooled = session.run(["patch_tokens", "class_token"],
                                  {"pixel_values": normalised.numpy()})  # fmt: skip
    with torch.no_grad():
        expected = backbone.tokens_and_cls(images)
    assert patches.shape == (2, 3, 5, 48)
    for ours, theirs in zip(expected, (patches, pooled), strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-5)
    described = json.loads(session.get_modelmeta().custom_metadata_map["fit3d"])
    assert described["input"]["mean"] == list(backbone.mean)
    assert described["input"]["width"] == 70 and described["licence"] == "apache-2.0"
    data = (tmp_path / "m.onnx").read_bytes()
    for trace in (str(tmp_path), "site-packages", str(Path.cwd()), "stack_trace"):
        assert trace.encode() not in data


def test_a_fixed_size_changes_no_bit(family: Family, shown: Callable) -> None:
    for name in (
        DINOV2,
        "vit_small_patch14_reg4_dinov2.lvd142m",
        "vit_small_patch16_dinov3.lvd1689m",
        "deit3_small_patch16_224.fb_in1k",
    ):
        backbone = family(name)
        images, normalised = shown(backbone, 3, 5)
        patch = backbone.patch_size
        fixed = fixed_size(backbone, 5 * patch, 3 * patch)
        assert torch.equal(fixed.tokens(images), backbone.tokens(images))
        assert torch.equal(fixed.tokens_and_cls(normalised, normalised=True)[0],
                           backbone.tokens(images))  # fmt: skip


def test_refusals(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = family(DINOV2, depth=1)
    with pytest.raises(SettingsError, match="--height: 50 is no multiple of the patch size 14"):
        write_onnx(tmp_path / "m.onnx", backbone, width=56, height=50)

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("unsupported operator\nand much more")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(WeightsError, match=r"cannot take it \(unsupported operator\)"):
        write_onnx(tmp_path / "m.onnx", backbone)
    monkeypatch.setattr(handoff, "_MOST_BYTES", 100)
    with pytest.raises(WeightsError, match="do not fit into one ONNX file"):
        write_onnx(tmp_path / "m.onnx", backbone)

    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(handoff.importlib, "import_module", absent)
    with pytest.raises(EnvironmentFault, match=r"fit3d\[onnx\]"):
        write_onnx(tmp_path / "m.onnx", backbone)
    assert not list(tmp_path.iterdir())
