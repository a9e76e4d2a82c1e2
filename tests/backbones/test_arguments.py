"""What a model directory may ask timm for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from fit3d_cli.backbones.arguments import require_plain_arguments
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.errors import WeightsError

PATH = Path("config.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("checkpoint_path", "evil.pth"), ("cache_dir", "/tmp"), ("pretrained_cfg", {"file": "x"}),
        ("block_fn", "x"), ("device", "cuda"), ("__class__", 1), ("depth", 10**9),
        ("embed_dim", 1 << 20), ("img_size", [1 << 20, 16]), ("img_size", [1, 2, 3, 4, 5]),
        ("mlp_ratio", float("nan")), ("mlp_ratio", {"a": 1}), ("global_pool", "x" * 100),
        ("depth", 10**400),
    ],
)  # fmt: skip
def test_refused(key: str, value: Any) -> None:
    with pytest.raises(WeightsError, match="model_args"):
        require_plain_arguments({key: value}, PATH)


def test_shapes_are_let_through() -> None:
    good = {"img_size": [224, 448], "patch_size": 14, "depth": 12, "mlp_ratio": 2.66,
            "reg_tokens": 4, "qkv_bias": True, "init_values": 1e-5, "global_pool": ""}  # fmt: skip
    require_plain_arguments(good, PATH)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def test_no_checkpoint_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Evil(), tmp_path / "evil.pth")
    config = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {},
              "model_args": {"checkpoint_path": "evil.pth"}}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(torch, "load", never)
    with pytest.raises(WeightsError, match="checkpoint_path"):
        load_backbone(str(tmp_path), pretrained=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "arguments", [{"embed_dim": 10, "num_heads": 3}, {"patch_size": 0}, {"global_pool": "x"}]
)
def test_a_shape_that_timm_refuses(tmp_path: Path, arguments: dict[str, Any]) -> None:
    config = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {}, "model_args": arguments}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="timm cannot build"):
        load_backbone(str(tmp_path), pretrained=False)


@pytest.mark.parametrize("text", ["[" * 100_000, " " * (2 << 20)])
def test_json_without_end(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match="not a timm model config"):
        load_backbone(str(tmp_path), pretrained=False)
