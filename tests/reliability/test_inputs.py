"""The checks of hostile input notice what they are there for."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fit3d_cli import config, images
from fit3d_cli.capture.read import read_capture
from fit3d_cli.errors import CaptureError, ImageError, SettingsError
from tests.reliability import _pictures, captures
from tests.reliability._judge import SPARE, Judge, short_of_memory
from tests.reliability._layouts import wrong_with
from tests.reliability._profiles import differs
from tests.reliability._trees import write_trees
from tests.reliability.base import Outcome


def slow() -> None:
    began = time.process_time()
    while time.process_time() - began < 0.05:
        pass


def warns() -> None:
    warnings.warn("a palette", stacklevel=1)


def wrong_kind() -> None:
    raise ZeroDivisionError("in the aspect")


def no_remedy() -> None:
    raise ImageError("broken", where="a.png")


def another_file() -> None:
    raise ImageError("broken", where="b.png", hint="mend it")


def too_long() -> None:
    raise ImageError("broken", where="a.png", hint="mend it " * 40)


def too_large() -> None:
    bytes(2 * SPARE)


PLANTED = (slow, warns, wrong_kind, no_remedy, another_file, too_long, too_large)


@pytest.mark.parametrize("planted", PLANTED)
def test_what_must_not_happen_is_noticed(planted: Callable[[], None]) -> None:
    outcome = Outcome()
    judge = Judge(outcome, (ImageError,), 0.02)
    with short_of_memory(SPARE):
        judge.call("planted", planted, names="a.png")
    assert outcome.cases == 1 and len(outcome.broken) == 1


def test_wrong_pixels_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = images.read_photo

    def clipped(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
        photo, alpha = read(path)
        return photo.clip(0, 200), alpha

    def opaque(path: Path) -> tuple[np.ndarray, None]:
        return read(path)[0], None

    keyed = next(p for p in _pictures.png_matrix() if p.name == "png-0-4-keyed.png")
    for planted, count in ((read, 0), (clipped, 1), (opaque, 1)):
        outcome = Outcome()
        monkeypatch.setattr(images, "read_photo", planted)
        captures.read_one(Judge(outcome, (ImageError,), 1.0), outcome, tmp_path / "a.png", keyed)
        # The judge also asks for the name in refusals, which is another here.
        assert sum("off by" in line or "opacity" in line for line in outcome.broken) == count


def test_a_capture_that_breaks_its_promises_is_noticed(tmp_path: Path) -> None:
    tree = next(t for t in write_trees(tmp_path) if t.name == "cameras-json")
    capture = read_capture(tree.root)
    assert not list(wrong_with(capture))
    view = capture.views[0]
    for name, value in (
        ("name", "../a.png"), ("viewmat", view.viewmat * 2), ("K", -view.K),
        ("image_path", tmp_path / "gone.png"),
    ):  # fmt: skip
        object.__setattr__(view, name, value)
    assert len(list(wrong_with(capture))) == 4


def test_a_setting_that_changes_or_gets_lost_is_noticed(tmp_path: Path) -> None:
    resolved = config.resolve("demo", sets=["lift.dim=8"])
    assert not differs(resolved, {"lift": {"features": {"dim": 8}}})
    assert len(differs(resolved, {"lift": {"features": {"dim": 9}}})) == 1
    assert len(differs(resolved, {})) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[lfit]\n", "unknown setting 'lfit'"),
        ("lift.dimm = {}", "did you mean lift.features.dim?"),
        ("[lift]\ndim = 8\nfeatures.dim = 9\n", "lift.features.dim is set twice"),
        ("'lift.dim' = 8\nlift.dim = 8\n", "twice"),
        ("lift.dim = " + "9" * 5000, "too large for a profile"),
        ("lift.dim = 0x" + "f" * 4000, "cannot be a huge number"),
        ("lift" + ".a" * 2000 + " = 1", "too large for a profile"),
        ("[lift]\n" * 20_000, "too large for a profile"),
    ],
)  # fmt: skip
def test_what_profiles_must_not_say(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(SettingsError, match=says.replace("?", r"\?")):
        config.resolve("demo", profile=str(tmp_path / "p.toml"))


def test_long_lines_keep_file_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / ("f" * 90) / "g" / "frame-000002.png"
    error = CaptureError("too many words " * 20, where=place, hint="copy it again")
    line = f"fit3d: error: {error}"
    assert len(line) == 240
    assert line.endswith("frame-000002.png: " + line.partition("frame-000002.png: ")[2])
    assert line.endswith(" - copy it again") and "..." in line
    monkeypatch.chdir(tmp_path)
    assert str(CaptureError("a", where=tmp_path / "b", hint="c")) == "b: a - c"
    assert str(CaptureError("a", where=tmp_path.parent, hint="c")) == f"{tmp_path.parent}: a - c"
