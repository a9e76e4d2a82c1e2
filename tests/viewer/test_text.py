"""Words: the projection is open_clip's, the score is LERF's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.text import TextTower, load_text_tower, require_text
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.decoders import Decoder
from fit3d_cli.errors import UnknownNameError, WeightsError
from fit3d_cli.scene import Scene
from fit3d_cli.viewer.text import CANONICAL, SceneText, find_text_tower, relevancy

import_timm()  # open_clip imports torchvision, which may need the shim
open_clip = pytest.importorskip("open_clip")
safetensors = pytest.importorskip("safetensors.torch")

WIDTH, JOINT = 128, 48


@pytest.fixture(scope="module", params=[True, False], ids=["quickgelu", "gelu"])
def clip(request: pytest.FixtureRequest) -> tuple[Any, bool]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(
            JOINT,
            {"image_size": 64, "layers": 2, "width": WIDTH, "patch_size": 16, "head_width": 64},
            {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
            quick_gelu=request.param,
        )
        for parameter in model.parameters():  # not the near-zero of its own initialiser
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval(), request.param


@pytest.fixture(scope="module")
def file(clip: tuple[Any, bool], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "open_clip_model.safetensors"
    state = {key: value.contiguous() for key, value in clip[0].state_dict().items()}
    safetensors.save_file(state, path)
    return path


def backbone_of(model: Any, quick: bool) -> Backbone:
    """The image tower as a timm backbone, by timm's own conversion."""
    timm = import_timm()
    from timm.models.vision_transformer import checkpoint_filter_fn

    name = "vit_base_patch16_clip_quickgelu_224" if quick else "vit_base_patch16_clip_224"
    vit = timm.create_model(name, embed_dim=WIDTH, depth=2, num_heads=2, img_size=64,
                            num_classes=0, dynamic_img_size=True)  # fmt: skip
    state = checkpoint_filter_fn(dict(model.state_dict()), vit)
    vit.load_state_dict({k: v for k, v in state.items() if not k.startswith("head.")}, strict=True)
    return Backbone(name, name, vit).eval()


def test_class_token_through_the_projection_is_encode_image(
    clip: tuple[Any, bool], file: Path
) -> None:
    model, quick = clip
    tower = load_text_tower(str(file), dim=WIDTH, quick_gelu=quick)
    backbone = backbone_of(model, quick)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    normed = (images - backbone._mean) / backbone._std
    with torch.no_grad():
        _, pooled = backbone.tokens_and_cls(images)
        expected = model.encode_image(normed)
    assert torch.allclose(pooled @ tower.projection, expected, atol=1e-4)
    assert float(expected.norm(dim=1).min()) > 0.1


def test_texts_are_encode_text(clip: tuple[Any, bool], file: Path) -> None:
    model, quick = clip
    tower = load_text_tower(str(file), dim=WIDTH, quick_gelu=quick)
    texts = ["a red chair", "stuff", "w " * 200]
    with torch.no_grad():
        expected = model.encode_text(open_clip.SimpleTokenizer()(texts), normalize=True)
    assert torch.allclose(tower.encode(texts), expected, atol=1e-5)


def test_relevancy_is_lerfs() -> None:
    wanted, canonical = torch.tensor([0.3, 0.1]), torch.tensor([[0.1, 0.2, 0.0, 0.25], [0.1] * 4])
    by_hand = [
        min((10 * w).exp() / ((10 * w).exp() + (10 * c).exp()) for c in row)
        for w, row in zip(wanted, canonical, strict=True)
    ]
    assert torch.allclose(relevancy(wanted, canonical), torch.stack(by_hand))
    assert float(relevancy(wanted, canonical)[1]) == pytest.approx(0.5)


class Fixed(TextTower):
    """Known embeddings instead of a text transformer."""

    def encode(self, texts: Any) -> torch.Tensor:
        draw = torch.Generator().manual_seed(len("".join(texts)))
        return torch.nn.functional.normalize(torch.randn(len(texts), JOINT, generator=draw), dim=1)


def test_scene_cosines_are_those_of_projected_tokens(scene: Scene) -> None:
    draw = torch.Generator().manual_seed(2)
    decoder = Decoder(
        torch.randn(WIDTH, 4, 3, 3, generator=draw), torch.randn(WIDTH, generator=draw)
    )
    clip_scene = replace(scene, decoder=decoder, source=replace(scene.source, dim=WIDTH))
    tower = Fixed(torch.nn.Identity(), torch.randn(WIDTH, JOINT, generator=draw))
    words = SceneText(clip_scene, scene.features, tower)
    tokens = decoder(scene.features[:, None, None].expand(-1, 3, 3, -1))[:, 1, 1]
    joint = torch.nn.functional.normalize(tokens @ tower.projection, dim=1)
    expected = relevancy(
        (joint @ tower.encode(["lamp"]).T)[:, 0], joint @ tower.encode(CANONICAL).T
    )
    assert torch.allclose(words.scores("lamp"), expected, atol=1e-4)
    assert float(expected.std()) > 1e-3


def test_who_has_a_text_tower(scene: Scene, file: Path, tmp_path: Path) -> None:
    assert require_text("clip-base-openai") == "vit_base_patch16_clip_quickgelu_224.openai"
    for name, why in (("dinov2-small", "no text tower"), ("clip-base", "fine-tuned")):
        with pytest.raises(UnknownNameError, match=why):
            require_text(name)
    with pytest.raises(UnknownNameError):
        find_text_tower(scene, str(file))
    clip_scene = replace(scene, source=replace(scene.source, backbone="clip-base-openai"))
    with pytest.raises(WeightsError, match="--text-weights FILE"):
        find_text_tower(clip_scene, "")
    with pytest.raises(WeightsError, match="no such file"):
        find_text_tower(clip_scene, str(tmp_path / "none.safetensors"))(scene.features)
    with pytest.raises(WeightsError, match="128 channels, not 24"):
        find_text_tower(clip_scene, str(file))(scene.features)
    half = {"visual.proj": torch.zeros(24, 8)}
    safetensors.save_file(half, tmp_path / "half.safetensors")
    with pytest.raises(WeightsError, match=r"token_embedding\.weight is missing"):
        find_text_tower(clip_scene, str(tmp_path / "half.safetensors"))(scene.features)
