from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fit3d_cli import config
from fit3d_cli.config import (
    LEAVES,
    VERBS,
    flatten,
    full_key,
    profile_names,
    read_profile,
    resolve,
)
from fit3d_cli.errors import Fit3dError, SettingsError, UnknownNameError
from fit3d_cli.settings import Settings

KEY = "lift.features.dim"


@pytest.fixture
def profile(tmp_path: Path) -> str:
    path = tmp_path / "mine.toml"
    path.write_text("[lift.features]\ndim = 8\n[lift]\nheldout = 0.2\n")
    return str(path)


def test_defaults_need_nothing() -> None:
    resolved = resolve("lift")
    assert resolved.settings == Settings()
    assert resolved.differences() == {}
    assert {value.source for value in resolved.values.values()} == {"default"}
    assert set(resolved.values) == {key for key in LEAVES if key.startswith("lift.")}


def test_order_default_profile_set_flag(profile: str) -> None:
    default = resolve("lift").values[KEY].value
    steps: list[tuple[dict[str, Any], int, str]] = [
        ({}, default, "default"),
        ({"profile": profile}, 8, "profile mine"),
        ({"profile": profile, "sets": [f"{KEY}=16"]}, 16, "--set"),
        (
            {"profile": profile, "sets": [f"{KEY}=16"], "flags": {KEY: ("--dim", 32)}},
            32,
            "--dim",
        ),
    ]
    for arguments, value, source in steps:
        resolved = resolve("lift", **arguments)
        assert resolved.settings.lift.features.dim == value
        assert (resolved.values[KEY].value, resolved.values[KEY].source) == (value, source)


def test_flag_that_was_not_given_changes_nothing(profile: str) -> None:
    resolved = resolve("lift", profile=profile, flags={KEY: ("--dim", None)})
    assert resolved.values[KEY].source == "profile mine"


def test_later_set_wins_and_differences_are_plain(profile: str) -> None:
    resolved = resolve("lift", profile=profile, sets=[f"{KEY}=3", f"{KEY}=5"])
    assert resolved.differences() == {KEY: 5, "lift.heldout": 0.2}


def test_value_equal_to_its_default_is_no_difference() -> None:
    default = Settings().lift.features.dim
    resolved = resolve("lift", sets=[f"{KEY}={default}"])
    assert resolved.differences() == {}
    assert resolved.values[KEY].source == "--set"


@pytest.mark.parametrize(
    ("verb", "text", "key", "value"),
    [
        ("lift", "lift.dim=32", "lift.features.dim", 32),
        ("lift", " lift.dim = 32 ", "lift.features.dim", 32),
        ("lift", "lift.geometry.densify=false", "lift.geometry.densify", False),
        ("lift", "lift.heldout=0", "lift.heldout", 0.0),
        ("lift", "lift.geometry.init=depth", "lift.geometry.init", "depth"),
        ("lift", 'lift.geometry.init="depth"', "lift.geometry.init", "depth"),
        ("lift", "lift.backbone.name=30", "lift.backbone.name", "30"),
        ("lift", "lift.backbone.weights=a b=c.safetensors", "lift.backbone.weights",
         "a b=c.safetensors"),
        ("finetune", "finetune.batch=3", "finetune.batch", 3),
        ("finetune", "finetune.lr=1e-4", "finetune.lr", 1e-4),
        ("render", "render.what=rgb, alpha", "render.what", ["rgb", "alpha"]),
        ("render", 'render.what=["pca"]', "render.what", ["pca"]),
        ("render", "render.views=orbit", "render.views", "orbit"),
        ("demo", "probe.steps=7", "probe.steps", 7),
    ],
)  # fmt: skip
def test_set_values(verb: str, text: str, key: str, value: Any) -> None:
    resolved = resolve(verb, sets=[text])
    assert resolved.to_dict()[key]["value"] == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lift.features.dimm=3", ["unknown setting", "did you mean lift.features.dim?"]),
        ("lift.dimm=3", ["did you mean lift.features.dim?"]),
        ("dim=3", ["did you mean lift.features.dim?"]),
        ("lfit.dim=3", ["did you mean lift.features.dim?"]),
        ("lift.lr=3", ["lift.geometry.lr_means or lift.geometry.lr_scale"]),
        ("nothing.alike=3", ["keys start with lift, render"]),
        ("lift.width=3", ["ambiguous", "lift.backbone.width or lift.geometry.width"]),
        ("lift.features=3", ["is a group of settings", "lift.features.dim"]),
        ("lift.dim", ["key=value"]),
        ("=3", ["key=value"]),
        ("lift.dim=-3", ["lift.features.dim cannot be -3", "a whole number > 0 and <= 4096"]),
        ("lift.dim=many", ["cannot be 'many'", "a whole number"]),
        ("lift.dim=3.5", ["cannot be 3.5"]),
        ("lift.dim=true", ["cannot be True"]),
        ("lift.dim=[1]", ["cannot be [1]"]),
        ("lift.dim={a = 1}", ["cannot be {'a': 1}"]),
        ("lift.dim=3\nlift.heldout=0", ["cannot be"]),
        ("lift.heldout=nan", ["cannot be nan", "a number >= 0 and <= 0.5"]),
        ("lift.geometry.lr_scale=inf", ["cannot be inf"]),
        ("lift.geometry.init=magic", ["one of auto, depth, points"]),
        ("lift.geometry.densify=2", ["true or false"]),
        ("finetune.lr=1", ["not used by fit3d lift"]),
    ],
)
def test_bad_set_is_one_line_with_the_key_and_the_remedy(text: str, says: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve("lift", sets=[text])
    line = str(caught.value)
    assert caught.value.where.startswith("--set ")
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert "\n" not in line
    for part in says:
        assert part in line


@pytest.mark.parametrize("value", ["", "rgb,depht", []])
def test_bad_list_flag(value: object) -> None:
    with pytest.raises(SettingsError, match="a list of rgb, depth") as caught:
        resolve("render", flags={"render.what": ("--what", value)})
    assert caught.value.where == "--what"


def test_verb_without_settings_refuses_set_and_checks_the_profile(profile: str) -> None:
    assert resolve("info", profile=profile).values == {}
    with pytest.raises(SettingsError, match="not used by fit3d info"):
        resolve("info", sets=["lift.dim=3"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[lift\n", "not TOML"),
        (b"\xff\xfe\x00", "not TOML"),
        (b"[lift.features]\ndimm = 3\n", "did you mean lift.features.dim?"),
        (b"[lift.features]\ndim = 'x'\n", "a whole number"),
        (b"[lift]\nfeatures = 3\n", "group of settings"),
        (b"[lift.features]\ndim = 2024-01-01\n", "cannot be"),
        (b"#" * (2 << 20), "too large"),
    ],
)
def test_bad_profile(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        resolve("lift", profile=str(path))
    assert says in str(caught.value)
    assert str(path) in caught.value.where


def test_missing_profile_offers_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean quick"):
        resolve("lift", profile="quik")
    with pytest.raises(Fit3dError):
        resolve("lift", profile=str(tmp_path))


def test_shipped_profiles_are_found() -> None:
    assert set(profile_names()) >= {"quick", "quality", "paper", "demo"}


@pytest.mark.parametrize("name", profile_names())
def test_shipped_profile_holds_only_differences(name: str) -> None:
    given = read_profile(name)
    assert given
    assert set(resolve("demo", profile=name).differences()) == set(given)


@pytest.mark.parametrize("name", profile_names())
def test_shipped_profile_gives_a_reason_per_line(name: str, repository: Path) -> None:
    text = (repository / "profiles" / f"{name}.toml").read_text(encoding="utf-8")
    settings = [line for line in text.splitlines() if "=" in line.split("#")[0]]
    assert len(settings) == len(flatten(config.tomllib.loads(text)))
    for line in settings:
        assert len(line.partition("#")[2].strip()) > 3, line


def test_every_setting_is_documented_and_addressable() -> None:
    assert {key.split(".")[0] for key in LEAVES} == set(VERBS)
    for key, info in LEAVES.items():
        assert info.description, key
        assert full_key(key, where="") == key
