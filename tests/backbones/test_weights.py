import os
import socket
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.errors import OfflineError, WeightsError
from fit3d_cli.tensorfile import write_tensors

NAME = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """ViT-Ti's own names and shapes, random values, with its classifier."""
    model = import_timm().create_model(NAME, pretrained=False)
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def save(path: Path, tensors: dict[str, Tensor]) -> str:
    write_tensors(path, tensors, {"format": "pt"})
    return str(path)


def test_classifier_is_ignored_and_counted(state: dict[str, Tensor], tmp_path: Path) -> None:
    file = save(tmp_path / "w.safetensors", state)
    backbone = load_backbone(NAME, weights=file)
    assert (backbone.matched, backbone.ignored) == (len(state) - 2, 2)
    assert backbone.source == file
    loaded = backbone.model.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in loaded)


def test_half_precision_weights_become_float32(state: dict[str, Tensor], tmp_path: Path) -> None:
    half = {key: value.half() for key, value in state.items()}
    backbone = load_backbone(NAME, weights=save(tmp_path / "w.safetensors", half))
    loaded = backbone.model.state_dict()
    assert all(value.dtype == torch.float32 for value in loaded.values())
    assert torch.equal(loaded["norm.weight"], half["norm.weight"].float())


def test_positions_of_another_grid_are_resampled(state: dict[str, Tensor], tmp_path: Path) -> None:
    other = dict(state)
    other["pos_embed"] = torch.cat(
        [state["pos_embed"][:, :1], torch.ones(1, 10 * 10, 192) * 0.25], dim=1
    )
    backbone = load_backbone(NAME, weights=save(tmp_path / "w.safetensors", other))
    positions = backbone.model.state_dict()["pos_embed"]
    assert positions.shape == (1, 197, 192)
    assert torch.equal(positions[:, 0], state["pos_embed"][:, 0])
    torch.testing.assert_close(positions[:, 1:], torch.full((1, 196, 192), 0.25))


def broken(state: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    changed = dict(state)
    if how == "missing":
        del changed["blocks.3.norm1.weight"], changed["norm.bias"]
    elif how == "unexpected":
        changed["blocks.12.norm1.weight"] = torch.zeros(192)
    elif how == "shape":
        changed["norm.weight"] = torch.zeros(191)
    elif how == "nan":
        changed["norm.weight"] = torch.full((192,), float("nan"))
    elif how == "integers":
        changed["norm.weight"] = torch.ones(192, dtype=torch.int64)
    elif how == "grid":
        changed["pos_embed"] = torch.zeros(1, 1 + 10 * 9, 192)
    elif how == "prefix":
        changed = {f"module.{key}": value for key, value in state.items()}
    elif how == "transformers":
        changed = {"embeddings.cls_token": torch.zeros(1, 1, 192)}
    return changed


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("missing", r"148 of 150 tensors match, 2 missing \(blocks.3.norm1.weight, ...\)"),
        ("unexpected", r"150 of 150 tensors match, 1 unexpected \(blocks.12.norm1.weight\)"),
        ("shape", r"149 of 150 .* 1 of another shape \(norm.weight \(191,\) not \(192,\)\)"),
        ("nan", "norm.weight is not finite"),
        ("integers", "norm.weight is not finite floating point"),
        ("grid", "pos_embed has 91 rows"),
        ("prefix", r"0 of 150 .* strip the prefix 'module.'"),
        ("transformers", "transformers names"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    state: dict[str, Tensor], tmp_path: Path, how: str, expected: str
) -> None:
    file = save(tmp_path / "w.safetensors", broken(state, how))
    with pytest.raises(WeightsError, match=expected) as caught:
        load_backbone(NAME, weights=file)
    assert caught.value.where == file
    assert caught.value.hint


def test_damaged_absent_and_pickled_files_are_refused(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    file = Path(save(tmp_path / "w.safetensors", state))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_backbone(NAME, weights=str(file))
    with pytest.raises(WeightsError, match="no such file"):
        load_backbone(NAME, weights=str(tmp_path / "absent.safetensors"))
    pickled = tmp_path / "dinov2_small_finetuned.pth"
    pickled.write_bytes(b"\x80\x04")
    with pytest.raises(WeightsError, match="can run code") as caught:
        load_backbone(NAME, weights=str(pickled))
    assert "safetensors.torch.save_file" in caught.value.hint


@pytest.fixture
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def test_offline_mode_names_the_remedy(
    empty_hub_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineError, match="does not answer") as caught:
        load_backbone("dinov2-small")
    assert caught.value.exit_code == 3
    assert "--weights FILE" in caught.value.hint
    assert "timm/vit_small_patch14_dinov2.lvd142m/model.safetensors" in caught.value.hint


def test_unreachable_hub_is_noticed_at_once(
    empty_hub_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(OfflineError, match="does not answer"):
        load_backbone("dinov2-small")


def test_models_without_published_weights_ask_for_a_file() -> None:
    with pytest.raises(WeightsError, match="no weights for it"):
        load_backbone("vit_base_patch16_gap_224")


@pytest.mark.realdata
def test_real_vit_tiny_weights_load(realdata: Path) -> None:
    file = realdata / "weights" / "vit_tiny_patch16_224_in1k.fp16.safetensors"
    backbone = load_backbone(NAME, weights=str(file))
    assert (backbone.matched, backbone.ignored) == (150, 2)
    assert backbone.mean == (0.5, 0.5, 0.5)
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    tokens = backbone.tokens(image)
    assert tokens.shape == (1, 4, 6, 192)
    assert torch.isfinite(tokens).all()
