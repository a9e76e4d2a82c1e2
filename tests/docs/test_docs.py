"""What the documentation says is so: commands exist, settings exist, links lead somewhere, examples run."""  # noqa: E501

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer
from PIL import Image

from fit3d_cli import app
from fit3d_cli.config import resolve

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"<!-- file: (\S+) -->\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
VERB = re.compile(r"^(?:\$ )?(?:.*-m )?(?:fit3d|fit3d_cli) (.*)$")


def commands(page: Path) -> Iterator[list[str]]:
    """Words after ``fit3d`` of every command line of a page."""
    text = page.read_text("utf-8")
    lines = [line for kind, body in BLOCK.findall(text) if kind in ("sh", "console")
             for line in body.replace("\\\n", " ").splitlines()]  # fmt: skip
    lines += [line.strip() for line in text.splitlines() if line.startswith("    fit3d ")]
    for line in lines:
        found = VERB.match(line)
        if found and "..." not in line and "[" not in line:
            yield shlex.split(found[1], comments=True)


CASES = [(page, words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize(("page", "words"), CASES, ids=[f"{p.name}:{' '.join(w)[:60]}" for p, w in CASES])  # fmt: skip # noqa: E501
def test_commands_are_understood(page: Path, words: list[str]) -> None:
    group: Any = typer.main.get_command(app.build())
    context = group.make_context("fit3d", list(words))
    name, verb, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    assert name is not None and verb is not None
    if "--help" in rest or not rest:
        return
    given = verb.make_context(name, rest, parent=context).params
    sets = [*(context.params.get("sets") or ()), *(given.get("sets") or ())]
    resolve(name, profile=given.get("profile") or "", sets=tuple(sets))


def test_there_are_commands() -> None:
    assert len(CASES) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text("utf-8")):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in _anchors(file), f"{target}: no such heading"


def _anchors(page: Path) -> set[str]:
    found = set()
    for line in page.read_text("utf-8").splitlines():
        if line.startswith("#"):
            words = re.sub(r"[^\w\s-]", "", line.lstrip("#").strip().lower())
            found.add(re.sub(r"\s+", "-", words))
    return found


def _example(name: str, tmp_path: Path) -> ModuleType:
    blocks = dict(FILE.findall((DOCS / "extending.md").read_text("utf-8")))
    file = tmp_path / Path(name).name
    file.write_text(blocks[name], "utf-8")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_backbone_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fit3d_cli.backbones.base import BACKBONES
    from fit3d_cli.backbones.torchvision_shim import import_timm

    BACKBONES.names()
    monkeypatch.setattr(BACKBONES, "_entries", dict(BACKBONES._entries))
    _example("fit3d_cli/backbones/eva02.py", tmp_path)
    assert import_timm().is_model(BACKBONES.get("eva02-small").timm_id.partition(".")[0])


def test_reader_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fit3d_cli.capture.base import READERS
    from fit3d_cli.capture.read import read_capture
    from fit3d_cli.errors import CaptureError

    READERS.names()
    monkeypatch.setattr(READERS, "_entries", dict(READERS._entries))
    _example("fit3d_cli/capture/camera_list.py", tmp_path)
    folder = tmp_path / "shelf"
    folder.mkdir()
    lines = []
    for i in range(3):
        Image.new("RGB", (32, 24), (60 * i, 9, 9)).save(folder / f"{i}.png")
        lines.append(f"{i}.png 30 30 16 12  1 0 0 {i} 0 1 0 0 0 0 1 0")
    (folder / "cameras.txt").write_text("\n".join(lines))
    capture = read_capture(folder)
    assert capture.reader == "camera-list" and len(capture.views) == 3
    assert torch.equal(capture.views[2].viewmat[:3, 3], torch.tensor([2.0, 0, 0]).double())
    (folder / "cameras.txt").write_text("0.png 30 30 16\n")
    with pytest.raises(CaptureError, match="3 numbers, expected 16"):
        read_capture(folder)


def test_dataset_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fit3d_cli.datasets.base import DATASETS
    from fit3d_cli.errors import DatasetError

    DATASETS.names()
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    module = _example("fit3d_cli/datasets/kitchenware.py", tmp_path)
    root = tmp_path / "kitchenware"
    with pytest.raises(DatasetError):
        module._load(root)
    for split in ("train", "val"):
        for kind, mode in (("images", "RGB"), ("labels", "L")):
            folder = root / split / kind
            folder.mkdir(parents=True)
            Image.new(mode, (8, 8), 1 if mode == "L" else (1, 2, 3)).save(folder / "a.png")
    loaded = DATASETS.get("kitchenware").loaders["seg"](root)
    assert [len(loaded.train), len(loaded.val)] == [1, 1]
    assert int(loaded.labels(loaded.val[0]).max()) == 1


def test_site_builds(tmp_path: Path) -> None:
    """Strict: a page that is in no menu, or a link that leads nowhere, fails."""
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "true", "DISABLE_MKDOCS_2_WARNING": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "site" / "index.html").is_file()


def _tour() -> list[list[str]]:
    """The commands of the tour that only need the demo's results."""
    return [words for words in commands(DOCS / "tour.md") if "fit3d-demo" in " ".join(words)]


@pytest.mark.slow
def test_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, after a demo at toy size; the viewer, which waits for its user, left out."""
    from fit3d_cli.commands import demo

    monkeypatch.chdir(tmp_path)
    smaller = {"LIFT_VIEWS": 6, "PROBE_ROOMS": {"train": 2, "test": 2}, "PROBE_VIEWS": 2}
    for name, value in smaller.items():
        monkeypatch.setattr(demo, name, value)
    toy = ("lift.geometry.width=96", "lift.backbone.width=96", "lift.geometry.iterations=15",
           "lift.geometry.init_gaussians=400", "render.width=48", "render.frames=2",
           "finetune.epochs=1", "probe.steps=10", "probe.backbone.width=96",
           "compare.backbone.width=96", "compare.images=1")  # fmt: skip
    sets = [word for setting in toy for word in ("--set", setting)]
    assert app.run(["demo", "--rooms", "1", "--quiet", *sets]) == 0
    lines = [line for line in _tour() if line[0] != "viz" or len(line) > 4]
    assert len(lines) >= 6
    for line in lines:
        assert app.run([*line, "--quiet"]) == 0, line
    for made in ("room-0.html", "sheet.png", "room-0.spz", "fit3d-demo/compare/index.html",
                 "fit3d-demo/models/tuned/hubconf.py"):  # fmt: skip
        assert (tmp_path / made).is_file(), made
