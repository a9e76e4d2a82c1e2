import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fit3d_cli.backbones import export
from fit3d_cli.backbones.export import read_provenance, write_model_directory
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.errors import StorageError, WeightsError

Family = Callable[..., Backbone]


@pytest.mark.parametrize(
    "name",
    [
        "room-tiny",
        "vit_small_patch14_reg4_dinov2.lvd142m",
        "vit_small_patch16_dinov3.lvd1689m",
        "vit_base_patch16_clip_384.laion2b_ft_in12k_in1k",
        "deit3_small_patch16_224.fb_in1k",
    ],
)
def test_timm_loads_the_directory_bit_for_bit(family: Family, name: str, tmp_path: Path) -> None:
    backbone = family(name)
    directory = tmp_path / "tuned"
    write_model_directory(directory, backbone, card="# card\n", extra={"epochs": 1})
    image = torch.rand(
        1, 3, 3 * backbone.patch_size, 4 * backbone.patch_size,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    expected = backbone.tokens(image)

    timm = import_timm()
    model = timm.create_model(f"local-dir:{directory}", pretrained=True, num_classes=0).eval()
    config = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    output = model.forward_features((image - mean) / std)[:, model.num_prefix_tokens :]
    assert torch.equal(output, expected.flatten(1, 2))

    ours = load_backbone(str(directory))
    assert torch.equal(ours.tokens(image), expected)
    assert ours.name == "tuned"
    assert ours.licence == backbone.licence
    assert (ours.weights_sha256, ours.identity) == (backbone.weights_sha256, backbone.identity)


def test_a_tuned_model_may_be_tuned_and_saved_again(family: Family, tmp_path: Path) -> None:
    write_model_directory(tmp_path / "one", family("room-tiny"), card="", extra={})
    one = load_backbone(str(tmp_path / "one"))
    with torch.no_grad():
        one.model.get_parameter("norm.weight").mul_(2)
    write_model_directory(tmp_path / "two", one, card="", extra={})
    assert load_backbone(str(tmp_path / "two")).weights_sha256 == one.weights_sha256


def test_provenance_and_card(family: Family, tmp_path: Path) -> None:
    backbone = family("room-tiny")
    write_model_directory(tmp_path, backbone, card="# My model\n", extra={"seed": 7})
    data = read_provenance(tmp_path)
    assert data["seed"] == 7
    assert data["backbone"] == "room-tiny"
    assert data["weights_sha256"] == backbone.weights_sha256
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: timm\nlicense: apache-2.0\n")
    assert card.endswith("# My model\n")
    assert str(tmp_path) not in "".join(p.read_text("utf-8", "replace") for p in tmp_path.iterdir())


def test_the_same_model_gives_the_same_files(family: Family, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_model_directory(tmp_path / name, family("room-tiny"), card="", extra={})
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_half_written_directory_is_unfinished(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = family("room-tiny")
    write_model_directory(tmp_path, backbone, card="", extra={})

    def full(*_: object) -> None:
        raise StorageError("no space left on device")

    monkeypatch.setattr(export, "write_tensors", full)
    with pytest.raises(StorageError):
        write_model_directory(tmp_path, backbone, card="", extra={})
    assert not (tmp_path / "config.json").exists()
    with pytest.raises(WeightsError, match="not a finished model"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"architecture": "vit_tiny_patch16_224"}', '{"architecture": "no",'
                ' "pretrained_cfg": {}}']
)  # fmt: skip
def test_foreign_configs_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError, match="timm"):
        load_backbone(str(tmp_path))


def test_directory_weights_that_do_not_fit_are_refused(family: Family, tmp_path: Path) -> None:
    write_model_directory(tmp_path, family("room-tiny"), card="", extra={})
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"]["depth"] += 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="missing"):
        load_backbone(str(tmp_path))


def test_provenance_of_another_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no readable fit3d"):
        read_provenance(tmp_path)
    (tmp_path / "fit3d.json").write_text('{"schema": 99}')
    with pytest.raises(WeightsError, match="schema 99"):
        read_provenance(tmp_path)
