"""The trainable parts, on a member of every family of backbones."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from fit3d_cli.backbones.export import stored_digest, write_model_directory
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.parts import Part, make_trainable, merge
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.errors import SettingsError

Family = Callable[..., Backbone]
Pictures = Callable[[Backbone], Tensor]

FAMILIES = (
    "vit_small_patch14_dinov2.lvd142m",  # LayerScale
    "vit_small_patch14_reg4_dinov2.lvd142m",  # registers
    "vit_base_patch16_clip_384.laion2b_ft_in12k_in1k",  # norm before the blocks, other mean and std
    "vit_base_patch16_224.mae",
    "deit3_small_patch16_224.fb_in1k",  # LayerScale, no position for the class token
    "vit_small_patch16_dinov3.lvd1689m",  # rotary positions
    "vit_base_patch16_siglip_224.webli",  # a pooling head that patch tokens do not see
)
PARTS: tuple[Part, ...] = ("full", "lora", "adapter", "swin")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def prepare(backbone: Backbone, part: Part, **changes: Any) -> dict[str, nn.Parameter]:
    options: dict[str, Any] = {"rank": 2, "blocks": 1, **changes}
    return make_trainable(backbone, part=part, generator=generator(), **options)


def step(
    backbone: Backbone, parameters: dict[str, nn.Parameter], images: Tensor, n: int = 1
) -> None:
    optimiser = torch.optim.Adam(parameters.values(), 1e-2)
    goal = torch.rand(backbone.dim, generator=generator())
    for _ in range(n):
        optimiser.zero_grad()
        (backbone.tokens(images) - goal).abs().mean().backward()
        optimiser.step()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_train_merge_write_load(
    family: Family, pictures: Pictures, name: str, part: Part, tmp_path: Path
) -> None:
    backbone = family(name)
    images = pictures(backbone)
    base = {key: value.clone() for key, value in backbone.state().items()}
    with torch.no_grad():
        expected = backbone.tokens(images)
    parameters = prepare(backbone, part)
    with torch.no_grad():
        assert torch.equal(backbone.tokens(images), expected)  # step 0 is the base, bit for bit

    before = {key: value.clone() for key, value in parameters.items()}
    step(backbone, parameters, images)
    with torch.no_grad():
        trained = backbone.tokens(images)
    assert (trained - expected).abs().max() > 1e-4
    moved = {key for key, value in parameters.items() if not torch.equal(value, before[key])}
    # Zero last layers hide the layers before them from the first step.
    assert moved == {key for key in parameters if _first_to_move(key, part)}

    merge(backbone)
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    with torch.no_grad():
        merged = backbone.tokens(images)
    torch.testing.assert_close(merged, trained, rtol=0, atol=1e-5)
    state = backbone.state()
    changed = {key for key, value in state.items() if not torch.equal(value, base.get(key, value))}
    if part == "full":
        assert {f"model.{key}" for key in changed} == parameters.keys()
        assert not any("attn_pool" in key for key in changed)
    elif part == "lora":
        assert changed == {"blocks.1.attn.qkv.weight"}
    else:
        assert not changed
        assert {key for key in state if key not in base} >= parameters.keys()
    assert set(base) <= set(state)

    directory = tmp_path / "tuned"
    write_model_directory(directory, backbone, card="", extra={})
    loaded = load_backbone(str(directory))
    with torch.no_grad():
        assert torch.equal(loaded.tokens(images), merged)
    assert loaded.mean == backbone.mean and loaded.adapter_kind == backbone.adapter_kind
    assert (loaded.identity, loaded.weights_sha256) == (backbone.identity, backbone.weights_sha256)
    assert stored_digest(directory) == backbone.weights_sha256


def _first_to_move(name: str, part: Part) -> bool:
    if part == "lora":
        return ".b." in name
    if part == "swin":
        return "attn.proj." in name or "mlp.fc2." in name
    return True


@pytest.mark.parametrize("name", FAMILIES)
def test_the_whole_backbone_is_trained_but_for_what_tokens_do_not_see(
    family: Family, name: str
) -> None:
    backbone = family(name)
    names = set(prepare(backbone, "full"))
    everything = {key for key, _ in backbone.named_parameters()}
    assert everything - names == {key for key in everything if "attn_pool" in key}
    assert {key for key, p in backbone.named_parameters() if p.requires_grad} == names


def test_low_rank_touches_queries_and_values_only(family: Family, pictures: Pictures) -> None:
    backbone = family(FAMILIES[0])
    before = backbone.model.get_parameter("blocks.1.attn.qkv.weight").detach().clone()
    parameters = prepare(backbone, "lora")
    assert list(parameters) == [
        f"model.blocks.1.attn.qkv.update.{matrix}.{span}" for matrix in "ab" for span in (0, 1)
    ]
    step(backbone, parameters, pictures(backbone), 3)
    merge(backbone)
    rows = (backbone.model.get_parameter("blocks.1.attn.qkv.weight") - before).abs().amax(1)
    queries, keys, values = rows.chunk(3)
    assert bool((queries > 0).all() and (values > 0).all())
    assert torch.equal(keys, torch.zeros_like(keys))


@pytest.mark.parametrize("keep", [True, False])
def test_rows_keep_their_length(family: Family, pictures: Pictures, keep: bool) -> None:
    backbone = family(FAMILIES[0])
    with torch.no_grad():
        backbone.model.get_parameter("blocks.0.attn.qkv.weight")[5] = 0  # a row without a length
    before = {k: v.double().norm(dim=1) for k, v in _matrices(backbone).items()}
    parameters = prepare(backbone, "lora", blocks=0, layers="all", keep_norm=keep)
    assert len(parameters) == 2 * 2 * 4  # A and B in two blocks of four layers
    step(backbone, parameters, pictures(backbone), 3)
    assert all(bool(torch.isfinite(p).all()) for p in parameters.values())
    merge(backbone)
    after = {k: v.double().norm(dim=1) for k, v in _matrices(backbone).items()}
    change = max(float((after[k] - before[k]).abs().max()) for k in before)
    assert change < 1e-6 if keep else change > 1e-2


@pytest.mark.parametrize("name", FAMILIES)
def test_every_linear_layer_of_the_last_blocks(
    family: Family, pictures: Pictures, name: str
) -> None:
    backbone = family(name)
    last = cast(Any, backbone.model).blocks[1]
    linear = {key for key, module in last.named_modules() if isinstance(module, nn.Linear)}
    assert len(linear) >= 4
    with torch.no_grad():
        expected = backbone.tokens(pictures(backbone))
        names = prepare(backbone, "lora", layers="all")
        assert torch.equal(backbone.tokens(pictures(backbone)), expected)
    assert {key.split(".update.")[0] for key in names} == {f"model.blocks.1.{k}" for k in linear}
    step(backbone, names, pictures(backbone))
    merge(backbone)
    assert {key for key, m in last.named_modules() if isinstance(m, nn.Linear)} == linear
    assert not any("update" in key for key in backbone.state())


@pytest.mark.realdata
def test_real_weights_start_as_the_base_and_merge(realdata: Path) -> None:
    file = realdata / "weights" / "vit_tiny_patch16_224_in1k.fp16.safetensors"
    images = torch.rand(1, 3, 64, 96, generator=generator())
    base = load_backbone("vit_tiny_patch16_224", weights=str(file))
    with torch.no_grad():
        expected = base.tokens(images)
    for part in PARTS:
        backbone = copy.deepcopy(base)
        parameters = prepare(backbone, part, rank=8, blocks=0)
        with torch.no_grad():
            assert torch.equal(backbone.tokens(images), expected)
        step(backbone, parameters, images)
        with torch.no_grad():
            trained = backbone.tokens(images)
            merge(backbone)
            torch.testing.assert_close(backbone.tokens(images), trained, rtol=0, atol=1e-5)
        assert not torch.equal(trained, expected)


def _matrices(backbone: Backbone) -> dict[str, Tensor]:
    return {
        key: value
        for key, value in backbone.model.state_dict().items()
        if key.startswith("blocks.") and value.ndim == 2
    }


def test_separate_query_and_value_layers_are_found() -> None:
    from fit3d_cli.backbones.lora import add_low_rank

    import_timm()
    attention = importlib.import_module("timm.models.eva").EvaAttention(
        12, num_heads=2, qkv_fused=False, scale_norm=False
    )
    block = nn.Module()
    block.attn = attention
    model = nn.Module()
    model.blocks = nn.ModuleList([block])
    add_low_rank(model, rank=1, blocks=0, layers="qv", keep_norm=True, generator=generator())
    layers = {
        name.split(".update")[0] for name, _ in model.named_parameters() if ".update." in name
    }
    assert layers == {"blocks.0.attn.q_proj", "blocks.0.attn.v_proj"}


def test_autocast_does_not_round_the_update(family: Family) -> None:
    backbone = family(FAMILIES[0])
    parameters = prepare(backbone, "lora")
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.normal_(generator=generator())
    layer = backbone.model.get_submodule("blocks.1.attn.qkv")
    with torch.autocast("cpu", torch.bfloat16):
        inside = layer.weight
    assert inside.dtype == torch.float32
    assert torch.equal(inside, layer.weight)


def test_same_generator_same_start(family: Family) -> None:
    for part in PARTS:
        one, two = family(FAMILIES[0]), family(FAMILIES[0])
        torch.manual_seed(1)
        first = prepare(one, part)
        torch.manual_seed(2)
        second = prepare(two, part)
        assert list(first) == list(second)
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("options", "where", "what"),
    [
        ({"part": "lora", "rank": 49}, "finetune.train.rank", "49 is above 48"),
        ({"part": "lora", "blocks": 3}, "finetune.train.blocks", "3 blocks, .* has 2"),
    ],
)
def test_settings_that_exceed_the_backbone_are_refused(
    family: Family, options: dict[str, Any], where: str, what: str
) -> None:
    backbone = family(FAMILIES[0])
    with pytest.raises(SettingsError, match=what) as caught:
        make_trainable(backbone, generator=generator(), **options)
    assert caught.value.where == where and caught.value.hint
    assert backbone.thawed is None and len(dict(backbone.named_parameters())) == len(
        dict(family(FAMILIES[0]).named_parameters())
    )


def test_blocks_without_attention_are_refused() -> None:
    from fit3d_cli.backbones.lora import add_low_rank

    model = nn.Module()
    model.blocks = nn.ModuleList([nn.Identity()])
    for layers, what in (("qv", "queries and values"), ("all", "no linear layers")):
        with pytest.raises(SettingsError, match=what):
            add_low_rank(
                model, rank=1, blocks=0, layers=layers, keep_norm=True, generator=generator()
            )  # type: ignore[arg-type]


def test_training_twice_needs_a_merge_between(family: Family, tmp_path: Path) -> None:
    backbone = family(FAMILIES[0])
    prepare(backbone, "lora")
    with pytest.raises(ValueError, match="merge"):
        prepare(backbone, "lora")
    with pytest.raises(ValueError, match="merge"):
        write_model_directory(tmp_path / "new", backbone, card="", extra={})
    assert not (tmp_path / "new").exists()
    merge(backbone)
    prepare(backbone, "full")


def test_an_adapted_model_is_tuned_further(family: Family, pictures: Pictures) -> None:
    backbone = family(FAMILIES[0])
    images = pictures(backbone)
    step(backbone, prepare(backbone, "adapter"), images)
    merge(backbone)
    with torch.no_grad():
        expected = backbone.tokens(images)
    for part in ("adapter", "lora", "full"):
        again = copy.deepcopy(backbone)
        names = set(prepare(again, part))
        with torch.no_grad():
            assert torch.equal(again.tokens(images), expected)
        assert ("adapter.conv.weight" in names) == (part != "lora")
    with pytest.raises(SettingsError, match=r"another adapter already \(conv\)"):
        prepare(backbone, "swin")


def test_parameters_that_were_frozen_stay_so_afterwards(family: Family) -> None:
    backbone = family(FAMILIES[0])
    frozen = backbone.model.get_parameter("pos_embed").requires_grad_(False)
    for part in PARTS[:3]:
        prepare(backbone, part)
        merge(backbone)
        flags = {name: p.requires_grad for name, p in backbone.named_parameters()}
        assert not frozen.requires_grad and sum(not flag for flag in flags.values()) == 1


def test_a_copy_during_training_merges_on_its_own(family: Family, pictures: Pictures) -> None:
    """What a teacher is: a copy with other values of the trained parameters."""
    backbone = family(FAMILIES[0])
    images = pictures(backbone)
    parameters = prepare(backbone, "lora")
    teacher = copy.deepcopy(backbone)
    step(backbone, parameters, images)
    with torch.no_grad():
        start = family(FAMILIES[0]).tokens(images)
        merge(teacher)
        assert torch.equal(teacher.tokens(images), start)
        assert not torch.equal(backbone.tokens(images), start)
