"""The lowest layer: shapes, registry, devices and seeds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fit3d_cli.device import resolve_device, seeded, thread_count
from fit3d_cli.errors import DeviceError, Fit3dError, StorageError, UnknownNameError
from fit3d_cli.registry import Registry
from fit3d_cli.shapes import check_dims


def test_dims_bind_across_arguments() -> None:
    sizes = check_dims(
        means=(torch.zeros(7, 3), "N 3"), sh=(np.zeros((7, 4, 3)), "N K 3"),
        any=(torch.zeros(2), "*"),
    )  # fmt: skip
    assert sizes == {"N": 7, "K": 4}
    assert check_dims(scalar=(torch.zeros(()), "")) == {}


@pytest.mark.parametrize(
    ("first", "second"), [((7, 3), (6,)), ((7, 2), (7,)), ((7,), (7,)), ((7, 3, 1), (7,))]
)
def test_wrong_dims_name_the_argument(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"(means|opacities) has shape \(.*\), expected \[") as e:
        check_dims(means=(torch.zeros(first), "N 3"), opacities=(torch.zeros(second), "N"))
    culprit = "opacities" if len(first) == 2 and first[1] == 3 else "means"
    assert str(e.value).startswith(culprit)


def test_one_tensor_may_repeat_a_dim() -> None:
    check_dims(gram=(torch.zeros(4, 4), "C C"))
    with pytest.raises(ValueError, match="C=4"):
        check_dims(gram=(torch.zeros(4, 5), "C C"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with one file per entry, as backbones and readers are laid out."""
    root = tmp_path / "menagerie_of_a_test"
    root.mkdir()
    (root / "__init__.py").write_text("")
    (root / "base.py").write_text(
        "from fit3d_cli.registry import Registry\n"
        "ANIMALS = Registry('animal', 'menagerie_of_a_test')\n"
    )
    for name in ("zebra", "ant"):
        (root / f"{name}.py").write_text(
            f"from menagerie_of_a_test.base import ANIMALS\nANIMALS.add('{name}', len('{name}'))\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield root.name
    for loaded in [name for name in sys.modules if name.startswith(root.name)]:
        del sys.modules[loaded]


def test_registry_finds_the_files_of_its_package(package: str) -> None:
    base = __import__(f"{package}.base").base
    assert f"{package}.ant" not in sys.modules, "entries are loaded on first use"
    animals: Registry[int] = base.ANIMALS
    assert animals.names() == ["ant", "zebra"]
    assert list(animals.items()) == [("ant", 3), ("zebra", 5)]
    assert "zebra" in animals and "zebu" not in animals
    assert animals.get("ant") == 3


def test_registry_refuses_twins_and_suggests(package: str) -> None:
    animals: Registry[int] = __import__(f"{package}.base").base.ANIMALS
    with pytest.raises(UnknownNameError, match=r"--pet: unknown animal 'zebro' .*zebra\?"):
        animals.get("zebro", where="--pet")
    with pytest.raises(UnknownNameError, match="choose one of ant, zebra"):
        animals.get("quokka")
    with pytest.raises(ValueError, match="twice"):
        animals.add("ant", 4)


def test_auto_device_and_absent_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(DeviceError) as error:
        resolve_device("cuda")
    assert error.value.exit_code == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")


def test_seeded_repeats_and_leaves_no_trace() -> None:
    before = torch.get_rng_state()

    def draw(seed: int) -> tuple[float, float]:
        with seeded(seed) as generator:
            return float(torch.rand(())), float(torch.rand((), generator=generator))

    first = draw(1)
    assert draw(1) == first
    assert draw(2) != first
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(RuntimeError), seeded(3):
        torch.rand(())
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before), "not restored after an exception"


def test_threads_follow_torch() -> None:
    assert thread_count() == 1  # the tests run torch with one thread


def test_an_error_is_one_line_with_where_and_hint() -> None:
    error = Fit3dError("is wrong", where=Path("a") / "b\nc", hint="mend it")
    assert str(error) == "a/b\\nc: is wrong - mend it"
    assert str(Fit3dError("is wrong")) == "is wrong"
    assert Fit3dError("x").exit_code == 2
    assert StorageError("x").exit_code == 3
