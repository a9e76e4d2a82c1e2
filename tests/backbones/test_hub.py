"""A backbone's weights from a hub, as ``load_backbone`` asks for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from fit3d_cli.backbones import fetching, hub
from fit3d_cli.backbones.facts import model_facts
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.pins import Pin, pins_path, read_pin, write_pin
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.errors import WeightsError
from fit3d_cli.tensorfile import write_tensors
from tests.reliability._hub import COMMIT, Hub, serving

NAME = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    model = import_timm().create_model("vit_tiny_patch16_224", pretrained=False)
    state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    write_tensors(tmp_path / "w.safetensors", state, {"format": "pt"})
    return (tmp_path / "w.safetensors").read_bytes()


@pytest.fixture
def server(weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub(weights)) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(fetching, "PAUSE", 0.01)
        monkeypatch.setenv("FIT3D_PINS", str(tmp_path / "pins.json"))
        monkeypatch.setenv("no_proxy", "*")
        yield running


def test_downloaded_once_pinned_and_found_again(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model_facts(NAME).where == "download"
    first = load_backbone(NAME)
    assert first.source == "hub" and server.sent == len(server.data)
    facts = model_facts(NAME)
    assert facts.where == "cache" and facts.bytes == len(server.data)
    (name,) = json.loads(pins_path().read_text())
    assert name.endswith("/model.safetensors") and COMMIT in pins_path().read_text()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = load_backbone(NAME)
    assert server.sent == len(server.data) and again.weights_sha256 == first.weights_sha256


def test_another_file_than_was_pinned_is_refused(server: Hub) -> None:
    facts = model_facts(NAME)
    write_pin(facts.repository, "model.safetensors", Pin(COMMIT, "0" * 64, len(server.data)))
    with pytest.raises(WeightsError, match="is not what it was") as refused:
        load_backbone(NAME)
    assert "pins.json" in refused.value.hint and server.sent == 0


def test_pins_that_cannot_be_written_are_only_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FIT3D_PINS", str(tmp_path / "file" / "pins.json"))
    with pytest.raises(WeightsError):  # a path through a file cannot be read either
        read_pin("a/b", "c")
    monkeypatch.delenv("FIT3D_PINS")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert pins_path() == tmp_path / "config" / "fit3d" / "pins.json"
    (tmp_path / "config").mkdir(mode=0o500)
    if (tmp_path / "config").stat().st_uid:  # root writes anywhere
        write_pin("a/b", "c", Pin("a" * 40, "b" * 64, 1))
        assert "not pinned" in caplog.text


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"a/b/c": 3}', '{"a/b/c": {"revision": "x", "sha256": "y", "size": 1}}',
     '{"a/b/c": {"revision": "../../..", "sha256": "' + "0" * 64 + '", "size": 1}}'],
)  # fmt: skip
def test_damaged_pins_are_no_pins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("FIT3D_PINS", str(tmp_path / "pins.json"))
    assert read_pin("a/b", "c") is None
    pins_path().write_text(text)
    with pytest.raises(WeightsError, match="cannot be used") as refused:
        read_pin("a/b", "c")
    assert refused.value.where == str(pins_path()) and refused.value.exit_code == 2


def test_a_token_goes_to_the_hub_only(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    load_backbone(NAME)
    assert server.tokens["timm"] == "Bearer hf_secret" and server.tokens["cdn"] == ""


def test_addresses_that_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FIT3D_PINS", str(tmp_path / "pins.json"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_answers", lambda: True)
    secret = tmp_path / "secret"
    secret.write_text("x")
    monkeypatch.setattr(constants, "ENDPOINT", f"file://{tmp_path}")
    with pytest.raises(WeightsError, match="no web address"):
        hub.hub_file("a/b", "c", "name")
