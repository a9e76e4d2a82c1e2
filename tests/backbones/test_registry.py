import importlib

import pytest

from fit3d_cli.backbones.base import BACKBONES
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.torchvision_shim import allow_broken_torchvision, import_timm
from fit3d_cli.errors import UnknownNameError


def test_every_named_backbone_is_a_pretrained_timm_model_with_the_stated_licence() -> None:
    timm = import_timm()
    models = importlib.import_module("timm.models")
    pretrained = set(timm.list_models(pretrained=True))
    hub = [spec for _, spec in BACKBONES.items() if not spec.file]
    assert {"dinov2-small", "dinov2-base-reg", "clip-base", "mae-base", "deit3-base"} <= {
        spec.name for spec in hub
    }
    for spec in hub:
        assert spec.timm_id in pretrained
        config = models.get_pretrained_cfg(spec.timm_id)
        assert config.license == spec.licence
        assert config.hf_hub_id


def test_names_are_the_specs_own() -> None:
    assert all(name == spec.name for name, spec in BACKBONES.items())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dinov2-smal", "dinov2-small"),
        ("vit_tiny_patch16_22", "vit_tiny_patch16_224"),
        ("vit_tiny_patch16_224.nothing", "did you mean"),
        ("qqqqqqqq", "choose a preset"),
        ("no/such/model", "no such model directory"),
        ("resnet18", "not a plain vision transformer"),
        ("swin_tiny_patch4_window7_224", "not a plain vision transformer"),
        ("hiera_tiny_224", "not a plain vision transformer"),
    ],
)
def test_other_names_are_refused_with_a_remedy(name: str, expected: str) -> None:
    with pytest.raises(UnknownNameError, match=expected):
        load_backbone(name, pretrained=False)


def test_torchvision_can_be_imported_after_the_shim() -> None:
    import_timm()
    torchvision = importlib.import_module("torchvision")
    assert torchvision.__version__
    # Asking again changes nothing, whichever way the first answer went.
    assert allow_broken_torchvision() == allow_broken_torchvision()
