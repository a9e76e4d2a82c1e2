"""Adapters in model directories: read back exactly, or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fit3d_cli.backbones.adapters import SwinAdapter
from fit3d_cli.backbones.export import read_provenance, stored_digest, write_model_directory
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.parts import make_trainable, merge
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.backbones.weights import read_weights
from fit3d_cli.errors import WeightsError
from fit3d_cli.tensorfile import write_tensors

NAME = "vit_small_patch14_dinov2.lvd142m"
Family = Callable[..., Backbone]
Pictures = Callable[[Backbone], Tensor]


@pytest.fixture
def adapted(family: Family) -> Backbone:
    backbone = family(NAME)
    drawn = torch.Generator().manual_seed(0)
    parameters = make_trainable(backbone, part="adapter", generator=drawn)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.normal_(0, 0.1, generator=drawn)
    merge(backbone)
    return backbone


def test_timm_gives_the_backbone_below_the_adapter(
    family: Family, pictures: Pictures, adapted: Backbone, tmp_path: Path
) -> None:
    base, images = family(NAME), pictures(adapted)
    assert (base.adapter_kind, adapted.adapter_kind) == ("", "conv")
    write_model_directory(tmp_path, adapted, card="", extra={})
    assert read_provenance(tmp_path)["adapter"] == {"kind": "conv", "dim": 48}
    timm = import_timm()
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0).eval()
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (adapted.mean, adapted.std))
    with torch.no_grad():
        plain = model.forward_features((images - mean) / std)[:, 1:]
        assert torch.equal(plain, base.tokens(images).flatten(1, 2))
        assert not torch.equal(adapted.tokens(images), base.tokens(images))
        # The class token is the backbone's own.
        assert torch.equal(adapted.tokens_and_cls(images)[1], base.tokens_and_cls(images)[1])


def test_identity_knows_the_adapter(family: Family, adapted: Backbone) -> None:
    base = family(NAME)
    assert adapted.weights_sha256 != base.weights_sha256
    assert adapted.identity != base.identity
    before = adapted.identity
    with torch.no_grad():
        adapted.get_parameter("adapter.conv.bias").add_(1)
    assert adapted.identity != before


def test_the_mean_token_of_models_without_prefix_is_the_adapted_one(
    family: Family, pictures: Pictures
) -> None:
    backbone = family("vit_base_patch16_siglip_224.webli")
    make_trainable(backbone, part="adapter", generator=torch.Generator())
    with torch.no_grad():
        backbone.get_parameter("adapter.conv.bias").add_(1)
        tokens, cls = backbone.tokens_and_cls(pictures(backbone))
    torch.testing.assert_close(cls, tokens.mean(dim=(1, 2)))


def test_a_plain_model_leaves_no_adapter_behind(
    family: Family, adapted: Backbone, tmp_path: Path
) -> None:
    write_model_directory(tmp_path, adapted, card="", extra={})
    assert (tmp_path / "adapter.safetensors").exists()
    write_model_directory(tmp_path, family(NAME), card="", extra={})
    assert not (tmp_path / "adapter.safetensors").exists()
    assert load_backbone(str(tmp_path)).adapter is None
    assert stored_digest(tmp_path) == family(NAME).weights_sha256


def damage(directory: Path, how: str) -> None:
    file, config = directory / "adapter.safetensors", directory / "config.json"
    tensors, described = read_weights(file), json.loads(config.read_text())
    about: Any = described["fit3d_adapter"]
    if how == "missing":
        file.unlink()
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    elif how == "other":
        write_tensors(file, {k: v + 1 for k, v in tensors.items()}, {})
    elif how == "names":
        write_tensors(file, {f"x.{k}": v for k, v in tensors.items()}, {})
    elif how == "kind":
        about["kind"] = "lora"
    elif how == "dim":
        about["dim"] = 49
    elif how == "heads":
        about.update(kind="swin", heads=7)
    elif how == "no mapping":
        described["fit3d_adapter"] = 3
    config.write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("missing", "the model's adapter is missing"),
        ("cut", "not a readable safetensors file"),
        ("other", "not the adapter of this model"),
        ("names", "not the adapter of this model"),
        ("kind", "unknown adapter 'lora'"),
        ("dim", "an adapter for 49 channels on a backbone of 48"),
        ("heads", "unknown adapter 'swin'"),
        ("no mapping", "not a timm model config"),
    ],
)
def test_damaged_adapters_are_refused(
    adapted: Backbone, tmp_path: Path, how: str, what: str
) -> None:
    write_model_directory(tmp_path, adapted, card="", extra={})
    load_backbone(str(tmp_path))
    damage(tmp_path, how)
    with pytest.raises(WeightsError, match=what) as caught:
        load_backbone(str(tmp_path))
    assert str(tmp_path) in caught.value.where and caught.value.hint


def test_an_adapter_that_diverged_is_refused(adapted: Backbone, tmp_path: Path) -> None:
    with torch.no_grad():
        adapted.get_parameter("adapter.conv.bias")[0] = float("nan")
    write_model_directory(tmp_path, adapted, card="", extra={})
    with pytest.raises(WeightsError, match="adapter is not finite"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (8, 15), (3, 20)])
def test_one_swin_block_takes_any_grid(size: tuple[int, int]) -> None:
    adapter = SwinAdapter(12, 3)
    tokens = torch.rand(2, *size, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(adapter(tokens), tokens)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1)
    changed = adapter(tokens)
    assert changed.shape == tokens.shape and not torch.equal(changed, tokens)
    # Windows of 7 x 7 do not see each other.
    other = tokens.clone()
    other[:, :7, :7] = 0
    rest = (adapter(other) - changed).abs()
    assert rest[:, 7:].sum() == rest[:, :, 7:].sum() == 0
