"""Checkpoints in the layouts of their publishers, generated: the published ones are not here."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.errors import EnvironmentFault, WeightsError
from fit3d_cli.handoff import foreign
from fit3d_cli.handoff.checkpoints import convert_checkpoint, guess_backbone, shapes_of
from fit3d_cli.handoff.foreign import read_checkpoint, unwrapped
from fit3d_cli.handoff.naming import to_transformers
from fit3d_cli.handoff.unpickle import DAMAGED, REFUSED, main, tensors_of
from fit3d_cli.tensorfile import write_tensors

DINOV2 = "vit_small_patch14_dinov2.lvd142m"
REGISTERS = "vit_small_patch14_reg4_dinov2.lvd142m"
Family = Callable[..., Backbone]
Stored = Callable[..., Path]


def state_of(backbone: Backbone) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in backbone.model.state_dict().items()}


def facebook(backbone: Backbone) -> dict[str, Tensor]:
    """facebookresearch/dinov2's names: mask_token, register_tokens, positions with a class row."""
    state = state_of(backbone) | {"mask_token": torch.zeros(1, backbone.dim)}
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
        row = torch.full((1, 1, backbone.dim), 0.25)
        state["pos_embed"] = torch.cat([row, state["pos_embed"]], dim=1)
        state["cls_token"] = state["cls_token"] - row
    return state


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the script's ``main`` here: starting torch anew takes seconds. One test does it."""

    def run(argv: list[str], **_: Any) -> argparse.Namespace:
        import contextlib
        import io

        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            code = main(argv[-2], argv[-1])
        return argparse.Namespace(returncode=code, stderr=said.getvalue())

    monkeypatch.setattr(foreign.subprocess, "run", run)


@pytest.mark.usefixtures("in_process")
def test_fit3d_as_published(
    family: Family, stored: Stored, shown: Callable, tmp_path: Path
) -> None:
    tuned = family(DINOV2, seed=2)
    torch.save(state_of(tuned), tmp_path / "dinov2_small_finetuned.pth")
    made = convert_checkpoint(
        tmp_path / "dinov2_small_finetuned.pth", backbone=str(stored(family(DINOV2), "arch"))
    )
    images, _ = shown(tuned)
    assert torch.equal(made.backbone.tokens(images), tuned.tokens(images))
    assert (made.layout, made.matched, made.ignored) == ("timm", len(state_of(tuned)), ())
    assert made.backbone.name == "dinov2_small_finetuned"
    assert made.describe(tmp_path / "dinov2_small_finetuned.pth")["ignored"] == 0


@pytest.mark.usefixtures("in_process")
def test_fit3d_as_its_training_writes_it(
    family: Family, stored: Stored, shown: Callable, tmp_path: Path
) -> None:
    tuned = family(DINOV2, seed=2)
    optimizer = torch.optim.AdamW(tuned.model.parameters())
    data = {"model": state_of(tuned), "optimizer": optimizer.state_dict(), "epoch": 0,
            "lr_scheduler": {"last_epoch": 1}, "args": argparse.Namespace(lr=1e-5)}  # fmt: skip
    torch.save(data, tmp_path / "checkpoint.pth")
    made = convert_checkpoint(
        tmp_path / "checkpoint.pth", backbone=str(stored(family(DINOV2), "arch"))
    )
    images, _ = shown(tuned)
    assert torch.equal(made.backbone.tokens(images), tuned.tokens(images))


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", [DINOV2, REGISTERS])
def test_snd_and_facebooks_names(
    family: Family, stored: Stored, shown: Callable, tmp_path: Path, name: str
) -> None:
    tuned = family(name, seed=2)
    torch.save(facebook(tuned), tmp_path / "dinov2_small_snd.pth")
    made = convert_checkpoint(
        tmp_path / "dinov2_small_snd.pth", backbone=str(stored(family(name), "arch"))
    )
    images, _ = shown(tuned)
    torch.testing.assert_close(made.backbone.tokens(images), tuned.tokens(images))
    assert made.layout == "facebookresearch" and made.ignored == ("mask_token",)


@pytest.mark.parametrize("name", [DINOV2, REGISTERS, "vit_base_patch16_224.mae"])
def test_transformers_names(
    family: Family, stored: Stored, shown: Callable, tmp_path: Path, name: str
) -> None:
    tuned = family(name, seed=2)
    row = not getattr(tuned.model, "no_embed_class", False)
    named = to_transformers(state_of(tuned), class_row=row, scaled="dinov2" in name)
    if "dinov2" in name:
        named["embeddings.mask_token"] = torch.zeros(1, 48)
    else:
        named |= {"pooler.dense.weight": torch.zeros(48, 48), "pooler.dense.bias": torch.zeros(48)}
    write_tensors(tmp_path / "hf.safetensors", named, {"format": "pt"})
    made = convert_checkpoint(
        tmp_path / "hf.safetensors", backbone=str(stored(family(name), "arch"))
    )
    images, _ = shown(tuned)
    torch.testing.assert_close(made.backbone.tokens(images), tuned.tokens(images))
    assert made.layout == "transformers" and made.matched == len(state_of(tuned))


def lightning(dim: int, rank: int = 4, pairs: int = 8) -> dict[str, Any]:
    """A checkpoint as 3DCorrEnhance's ``on_save_checkpoint`` leaves it."""
    drawn = torch.Generator().manual_seed(7)
    tensors = {f"w_a_{i:03d}": torch.randn(rank, dim, generator=drawn) / 4 for i in range(pairs)}
    tensors |= {f"w_b_{i:03d}": torch.randn(dim, rank, generator=drawn) / 4 for i in range(pairs)}
    conv = {"weight": torch.randn(dim, dim, 3, 3, generator=drawn) / 20,
            "bias": torch.randn(dim, generator=drawn)}  # fmt: skip
    return {
        "epoch": 99, "global_step": 10_000, "pytorch-lightning_version": "2.1.0",
        "state_dict": {"refine_conv": conv}, "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "x"}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}], "lr_schedulers": [],
        **tensors,
    }  # fmt: skip


def reference(base: Backbone, data: dict[str, Any], normalised: Tensor) -> Tensor:
    """Its forward pass as published: updates beside qkv, then the convolution in x's place."""
    blocks = list(base.model.blocks)  # type: ignore[arg-type]
    hooks = []
    for position, block in enumerate(blocks[-4:]):
        q, v = 2 * position, 2 * position + 1

        def add(_m: Any, given: Any, out: Tensor, q: int = q, v: int = v) -> Tensor:
            x, out = given[0], out.clone()
            out[..., : base.dim] += x @ data[f"w_a_{q:03d}"].T @ data[f"w_b_{q:03d}"].T
            out[..., -base.dim :] += x @ data[f"w_a_{v:03d}"].T @ data[f"w_b_{v:03d}"].T
            return out

        hooks.append(block.attn.qkv.register_forward_hook(add))
    with torch.no_grad():
        tokens = base.model.forward_features(normalised)[:, base.prefix_tokens :]  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    grid = tokens.unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    conv = data["state_dict"]["refine_conv"]
    done = torch.nn.functional.conv2d(grid, conv["weight"], conv["bias"], padding=1)
    return done.permute(0, 2, 3, 1)


@pytest.mark.usefixtures("in_process")
def test_3dcorrenhance_is_merged(
    family: Family, stored: Stored, shown: Callable, tmp_path: Path
) -> None:
    base = family(DINOV2, depth=6)
    data = lightning(48)
    torch.save(data, tmp_path / "mine.ckpt")
    directory = stored(base, "base")
    made = convert_checkpoint(tmp_path / "mine.ckpt", backbone=str(directory))
    images, normalised = shown(base)
    with torch.no_grad():
        torch.testing.assert_close(
            made.backbone.tokens(images), reference(base, data, normalised), rtol=1e-4, atol=1e-4
        )
    assert made.layout == "3dcorrenhance" and made.matched == 18 and made.ignored == ()
    assert made.base == {"name": "base", "weights_sha256": base.weights_sha256}
    again = load_backbone(str(stored(made.backbone, "merged")))
    assert torch.equal(again.tokens(images), made.backbone.tokens(images))
    with pytest.raises(WeightsError, match="does not name"):
        convert_checkpoint(tmp_path / "mine.ckpt")
    with pytest.raises(WeightsError, match="8 updates for 2 blocks"):
        convert_checkpoint(tmp_path / "mine.ckpt", backbone=str(stored(family(DINOV2), "short")))
    del data["w_b_003"]
    torch.save(data, tmp_path / "half.ckpt")
    with pytest.raises(WeightsError, match="8 w_a and 7 w_b"):
        convert_checkpoint(tmp_path / "half.ckpt", backbone=str(directory))
    torch.save(lightning(32), tmp_path / "narrow.ckpt")
    with pytest.raises(WeightsError, match="has 48 channels"):
        convert_checkpoint(tmp_path / "narrow.ckpt", backbone=str(directory))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch evil-was-here",)


def test_a_malicious_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"cls_token": torch.zeros(1), "x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="refused: it holds more than tensors") as caught:
        read_checkpoint(tmp_path / "evil.pth")
    assert "system" in str(caught.value)
    assert not (tmp_path / "evil-was-here").exists()


def test_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "out.safetensors")
    (tmp_path / "a.pth").write_bytes(b"PK\x03\x04 not a zip")
    assert main(str(tmp_path / "a.pth"), target) == DAMAGED
    torch.save({"x": torch.zeros(1000)}, tmp_path / "b.pth")
    whole = (tmp_path / "b.pth").read_bytes()
    (tmp_path / "b.pth").write_bytes(whole[: len(whole) // 2])
    assert main(str(tmp_path / "b.pth"), target) in (DAMAGED, REFUSED)
    assert capsys.readouterr().err.count("\n") == 2
    assert not Path(target).exists()
    with pytest.raises(WeightsError, match="no such file"):
        read_checkpoint(tmp_path / "c.pth")


@pytest.mark.usefixtures("in_process")
def test_an_old_torch_opens_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"x": torch.zeros(3)}, tmp_path / "a.pth")
    for old in ("2.9.1", "2.4.0+cpu", "1.13.1", "unknown"):
        monkeypatch.setattr(torch, "__version__", old)
        with pytest.raises(EnvironmentFault, match=r"torch: .*2\.10 is needed"):
            read_checkpoint(tmp_path / "a.pth")
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    assert read_checkpoint(tmp_path / "a.pth").keys() == {"x"}


@pytest.mark.usefixtures("in_process")
def test_what_does_not_fit_is_counted(family: Family, stored: Stored, tmp_path: Path) -> None:
    directory = str(stored(family(DINOV2), "arch"))
    state = state_of(family(DINOV2))
    some = {key: state[key] for key in ("cls_token", "pos_embed")}
    write_tensors(tmp_path / "two.safetensors", some | {"extra": torch.zeros(2)}, {})
    with pytest.raises(WeightsError, match=f"2 of {len(state)} tensors match.*1 unexpected"):
        convert_checkpoint(tmp_path / "two.safetensors", backbone=directory)
    state["blocks.0.mlp.fc1.weight"][0, 0] = torch.nan
    write_tensors(tmp_path / "nan.safetensors", state, {})
    with pytest.raises(WeightsError, match="not finite"):
        convert_checkpoint(tmp_path / "nan.safetensors", backbone=directory)
    with pytest.raises(WeightsError, match="needs none of a base"):
        convert_checkpoint(tmp_path / "nan.safetensors", backbone=directory, weights="x")


def test_the_architecture_is_told_from_the_tensors() -> None:
    def state(name: str) -> dict[str, Tensor]:
        return {k: torch.empty(v, device="meta") for k, v in shapes_of(name).items()}

    for name in ("dinov2-small", "dinov2-small-reg", "deit3-small"):
        assert guess_backbone(state(name), Path("x.pth")) == name
    odd = {key.replace("blocks", "layers"): v for key, v in state("dinov2-small").items()}
    with pytest.raises(WeightsError, match=r"matches 5 of 17\d tensors of"):
        guess_backbone(odd, Path("x.pth"))


def test_wrappings() -> None:
    one = torch.zeros(1)
    for wrapped in ("model/a.b", "state_dict/module.a.b", "teacher/backbone.a.b", "a.b"):
        assert unwrapped({wrapped: one})[0].keys() == {"a.b"}
    state, outside = unwrapped({"student/a": one, "teacher/a": one + 1, "dino_loss/center": one})
    assert float(state["a"]) == 1 and sorted(outside) == ["dino_loss/center", "student/a"]
    names = {"encoder.layer.0.norm1.weight": one}
    assert unwrapped(names) == (names, [])
    assert dict(tensors_of({"optimizer": {"x": one}, "m": {"0": {"y": one}}})).keys() == {"m/0/y"}
