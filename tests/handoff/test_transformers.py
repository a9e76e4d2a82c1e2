"""transformers' own loader gives timm's tokens."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fit3d_cli.backbones.adapters import ConvAdapter
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.errors import EnvironmentFault, SettingsError, WeightsError
from fit3d_cli.handoff import transformers as handoff
from fit3d_cli.handoff.naming import from_transformers, to_transformers
from fit3d_cli.handoff.transformers import write_transformers
from fit3d_cli.tensorfile import read_tensors

Family = Callable[..., Backbone]
DINOV2 = "vit_small_patch14_dinov2.lvd142m"
COUNTERPARTS = {
    DINOV2: "Dinov2Model",
    "vit_small_patch14_reg4_dinov2.lvd142m": "Dinov2WithRegistersModel",
    "vit_giant_patch14_dinov2.lvd142m": "Dinov2Model",
    "deit3_small_patch16_224.fb_in1k": "Dinov2Model",
    "vit_base_patch16_224.mae": "ViTModel",
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k": "ViTModel",
}


@pytest.mark.parametrize(("name", "kind"), COUNTERPARTS.items())
def test_the_counterpart_gives_the_same_tokens(
    family: Family, shown: Callable, tmp_path: Path, name: str, kind: str
) -> None:
    backbone = family(name)
    facts = write_transformers(tmp_path / "hf", backbone)
    assert facts["class"] == kind and facts["max_error"] <= 1e-5
    transformers = importlib.import_module("transformers")
    model = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    assert type(model).__name__ == kind
    images, normalised = shown(backbone)
    with torch.no_grad():
        output = model(pixel_values=normalised)
        patches, pooled = backbone.tokens_and_cls(images)
    got = output.last_hidden_state[:, backbone.prefix_tokens :]
    torch.testing.assert_close(got, patches.flatten(1, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(output.pooler_output, pooled, rtol=0, atol=1e-5)


def test_the_processor_prepares_as_the_backbone_expects(family: Family, tmp_path: Path) -> None:
    backbone = family(DINOV2)
    write_transformers(tmp_path, backbone)
    transformers = importlib.import_module("transformers")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    picture = torch.randint(0, 256, (56, 56, 3), generator=torch.Generator().manual_seed(0))
    got = processor(picture.to(torch.uint8).numpy(), return_tensors="pt")["pixel_values"]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (backbone.mean, backbone.std))
    expected = (picture.permute(2, 0, 1)[None] / 255 - mean) / std
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_another_size(family: Family, shown: Callable, tmp_path: Path) -> None:
    backbone = family("vit_base_patch16_224.mae")
    facts = write_transformers(tmp_path / "wide", backbone, width=80, height=48)
    assert facts["max_error"] <= 1e-5  # against the backbone at that very size
    config = json.loads((tmp_path / "wide" / "config.json").read_text())
    assert config["image_size"] == [48, 80]
    with pytest.raises(SettingsError, match="multiple of the patch size 16"):
        write_transformers(tmp_path / "odd", backbone, width=81, height=48)
    with pytest.raises(SettingsError, match="square"):
        write_transformers(tmp_path / "odd", family(DINOV2), width=70, height=56)
    assert not (tmp_path / "odd").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_small_patch16_dinov3.lvd1689m", "rotary positions"),
        ("vit_base_patch16_clip_384.laion2b_ft_in12k_in1k", "norm before the blocks"),
        ("vit_base_patch16_siglip_224.webli", "no class token"),
    ],
)
def test_families_without_a_counterpart(
    family: Family, tmp_path: Path, name: str, reason: str
) -> None:
    with pytest.raises(WeightsError, match=reason):
        write_transformers(tmp_path / "hf", family(name))
    assert not (tmp_path / "hf").exists()


def test_an_adapter_has_no_place(family: Family, tmp_path: Path) -> None:
    backbone = family(DINOV2)
    backbone.adapter = ConvAdapter(48)
    with pytest.raises(WeightsError, match="conv adapter"):
        write_transformers(tmp_path / "hf", backbone)


def test_names_go_both_ways(family: Family) -> None:
    for name, kind in COUNTERPARTS.items():
        state = family(name).model.state_dict()
        row = not getattr(family(name).model, "no_embed_class", False)
        gated = "giant" in name
        there = to_transformers(state, class_row=row, scaled=kind != "ViTModel", gated=gated)
        back = from_transformers({f"dinov2.{k}" if row else k: v for k, v in there.items()})
        assert back.keys() == state.keys()
        for key, value in back.items():
            start = 0 if row or key != "pos_embed" else 1
            assert torch.equal(value[:, start:] if start else value, state[key])


def test_a_wrong_conversion_is_noticed(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = handoff._tensors

    def transposed(*arguments: Any) -> dict[str, torch.Tensor]:
        named = whole(*arguments)
        key = "encoder.layer.0.attention.output.dense.weight"
        return named | {key: named[key].T.contiguous()}

    monkeypatch.setattr(handoff, "_tensors", transposed)
    with pytest.raises(WeightsError, match="tokens differ"):
        write_transformers(tmp_path / "hf", family(DINOV2))

    def short(*arguments: Any) -> dict[str, torch.Tensor]:
        named = whole(*arguments)
        del named["layernorm.bias"]
        return named

    monkeypatch.setattr(handoff, "_tensors", short)
    with pytest.raises(WeightsError, match="1 missing"):
        write_transformers(tmp_path / "hf", family(DINOV2))
    assert not (tmp_path / "hf").exists()


def test_files_are_the_same_twice_and_say_nothing_of_this_machine(
    family: Family, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        write_transformers(tmp_path / name, family(DINOV2))
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        assert str(tmp_path).encode() not in path.read_bytes()
    metadata = read_tensors(tmp_path / "a" / "model.safetensors")[1]
    assert metadata == {"format": "pt"}
    card = (tmp_path / "a" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\nlicense: apache-2.0\n")


def test_without_the_extra(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(handoff.importlib, "import_module", absent)
    with pytest.raises(EnvironmentFault, match=r"fit3d\[hf\]"):
        handoff._library()
