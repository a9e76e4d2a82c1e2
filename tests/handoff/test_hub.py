"""``hubconf.py`` as torch.hub reads it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fit3d_cli.backbones.adapters import make_adapter
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.errors import WeightsError
from fit3d_cli.handoff.hub import FIT3D_ENTRIES, entry_names, hubconf, write_hubconf
from fit3d_cli.tensorfile import write_tensors

DINOV2 = "vit_small_patch14_dinov2.lvd142m"
Stored = Callable[..., Path]


@pytest.mark.parametrize(
    "name", [DINOV2, "vit_small_patch14_reg4_dinov2.lvd142m", "vit_small_patch16_dinov3.lvd1689m"]
)
def test_torch_hub_gives_the_same_tokens(
    family: Callable[..., Backbone], stored: Stored, shown: Callable, name: str
) -> None:
    backbone = family(name)
    images, normalised = shown(backbone, 3, 5)
    model = torch.hub.load(str(stored(backbone)), "backbone", source="local")
    assert not model.training
    tokens = model.forward_features(normalised)[:, model.num_prefix_tokens :]
    assert torch.equal(tokens, backbone.tokens(images).flatten(1, 2))
    assert model.pretrained_cfg["mean"] == list(backbone.mean)


@pytest.mark.parametrize("kind", ["conv", "swin"])
def test_adapters_are_applied(
    family: Callable[..., Backbone], stored: Stored, shown: Callable, kind: str
) -> None:
    backbone = family(DINOV2)
    drawn = torch.Generator().manual_seed(2)
    backbone.adapter = make_adapter(kind, 48, 3, drawn).eval()
    with torch.no_grad():
        for parameter in backbone.adapter.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=drawn)
    images, normalised = shown(backbone, 3, 5)
    model = torch.hub.load(str(stored(backbone)), "backbone", source="local")
    with torch.no_grad():
        tokens = model.forward_features(normalised)[:, model.num_prefix_tokens :]
        assert torch.equal(tokens, backbone.tokens(images).flatten(1, 2))


def test_concat_is_base_then_tuned(
    family: Callable[..., Backbone], stored: Stored, shown: Callable, tmp_path: Path
) -> None:
    base, tuned = family(DINOV2, seed=1), family(DINOV2, seed=2)
    directory = stored(tuned, base={"name": "x", "weights_sha256": base.weights_sha256})
    for name, backbone in (("base", base), ("other", tuned)):
        write_tensors(tmp_path / f"{name}.safetensors", backbone.model.state_dict(), {})
    images, normalised = shown(base)
    model = torch.hub.load(
        str(directory), "concat", str(tmp_path / "base.safetensors"), source="local"
    )
    tokens = model.forward_features(normalised)[:, model.num_prefix_tokens :]
    expected = torch.cat([base.tokens(images), tuned.tokens(images)], dim=-1)
    assert torch.equal(tokens, expected.flatten(1, 2)) and model.num_features == 96
    with pytest.raises(RuntimeError, match="the base is not what"):
        torch.hub.load(str(directory), "concat", str(tmp_path / "other.safetensors"),
                       source="local")  # fmt: skip


def test_other_weights_are_refused(family: Callable[..., Backbone], stored: Stored) -> None:
    directory = stored(family(DINOV2))
    write_tensors(
        directory / "model.safetensors", family(DINOV2, seed=3).model.state_dict(), {"format": "pt"}
    )
    with pytest.raises(RuntimeError, match="sha256"):
        torch.hub.load(str(directory), "backbone", source="local")


def test_entries_are_called_as_fit3d_calls_them() -> None:
    assert entry_names(DINOV2, "") == ("dinov2_small_fine",)
    assert entry_names("vit_small_patch14_dinov2.fit3d", "dinov2-small") == ("dinov2_small_fine",)
    assert entry_names("vit_base_patch16_224.augreg_in21k", "") == ()
    assert entry_names("vit_base_patch16_224.fit3d", "mae-base") == ("mae_base_fine",)
    assert entry_names("vit_tiny_patch16_224", "room-tiny") == ()
    for timm_id, name in FIT3D_ENTRIES.items():
        text = hubconf(timm_id, "")
        functions = [n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)]
        assert [f for f in functions if f[0] != "_"] == ["backbone", "concat", name]
        assert f'"{timm_id}"' in text and "@" not in text.replace("@property", "")


def test_a_base_name_cannot_become_code() -> None:
    evil = '"); import os; os.system("x") #'
    text = hubconf("vit_tiny_patch16_224", evil)
    assert "os.system" not in text and "_BASE_ID = None" in text


def test_the_file_needs_nothing_of_ours() -> None:
    module = ast.parse(hubconf(DINOV2, ""))
    imported = {a.name.split(".")[0] for n in ast.walk(module) if isinstance(n, ast.Import)
                for a in n.names}  # fmt: skip
    imported |= {str(n.module).split(".")[0] for n in ast.walk(module)
                 if isinstance(n, ast.ImportFrom)}  # fmt: skip
    assert imported == {"hashlib", "json", "pathlib", "timm", "torch", "safetensors"}


def test_old_directories_get_one(family: Callable[..., Backbone], stored: Stored) -> None:
    directory = stored(family(DINOV2))
    text = (directory / "hubconf.py").read_text()
    (directory / "hubconf.py").unlink()
    assert write_hubconf(directory) == ("dinov2_small_fine", "backbone", "concat")
    assert (directory / "hubconf.py").read_text() == text
    (directory / "config.json").unlink()
    with pytest.raises(WeightsError, match="not a finished model"):
        write_hubconf(directory)
