"""The exported file: what is in it, and that it carries nothing it should not."""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fit3d_cli.errors import StorageError
from fit3d_cli.scene import Scene
from fit3d_cli.viewer.look import Look
from fit3d_cli.viewer.page import shorten, write_page
from fit3d_cli.viewer.session import Session
from fit3d_cli.viewer.similarity import Codes


def read(path: Path) -> tuple[str, dict[str, object], bytes]:
    text = path.read_text("utf-8")
    facts = re.search(r'<script type="application/json" id="facts">(.*?)</script>', text, re.S)
    numbers = re.search(r'id="numbers">(.*?)</script>', text, re.S)
    assert facts and numbers
    return text, json.loads(facts[1]), gzip.decompress(base64.b64decode(numbers[1]))


def test_numbers_are_the_scene(scene: Scene, tmp_path: Path) -> None:
    session = Session(scene, Look(clusters=2), most=10**6)
    file = tmp_path / "deep" / "view.html"
    page = write_page(session, file)
    assert page.size == file.stat().st_size < 200_000
    _, facts, data = read(file)
    count = len(scene.gaussians)
    assert (facts["count"], page.drawn, page.gaussians) == (count, count, count)
    assert facts["layers"] == ["rgb", "pca", "kmeans", "depth", "similarity"]
    assert len(data) == count * (12 + 12 + 16 + 4 + 3 * 3 + 5)
    means = np.frombuffer(data, np.float32, 3 * count).reshape(-1, 3)
    assert np.array_equal(means, scene.gaussians.means.numpy())
    rgba = np.frombuffer(data, np.uint8, 4 * count, offset=40 * count).reshape(-1, 4)
    assert np.abs(rgba[0] - 255 * np.array([0.9, 0.2, 0.1, 0.95])).max() < 0.6
    kmeans = np.frombuffer(data, np.uint8, 3 * count, offset=47 * count).reshape(-1, 3)
    assert len(np.unique(kmeans, axis=0)) == 2
    write_page(Session(scene, Look(clusters=2), most=10**6), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == file.read_bytes()


def test_nothing_from_outside_and_nothing_runs(scene: Scene, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=http://evil.example>"
    names = (f"{evil}.png", *scene.names[1:])
    scene = replace(scene, name=evil, names=names, source=replace(scene.source, backbone=evil))
    write_page(Session(scene, Look(), most=10**6), tmp_path / "view.html")
    text, facts, _ = read(tmp_path / "view.html")
    assert facts["views"][0]["name"] == names[0]  # type: ignore[index]
    assert "<script>alert" not in text and "<img" not in text
    assert text.count("<script") == text.count("</script>") == 3
    harmless = text.replace("=http://evil.example", "=")
    assert not re.findall(r'(?:src|href)=(?!"data:|$|&gt;|>)', harmless)
    assert "default-src 'none'" in text
    assert str(tmp_path) not in text


def test_thinned(scene: Scene, tmp_path: Path) -> None:
    page = write_page(Session(scene, Look(), most=40), tmp_path / "view.html")
    assert (page.drawn, page.gaussians) == (40, len(scene.gaussians))
    text, facts, _ = read(tmp_path / "view.html")
    assert facts["count"] == 40
    assert f"40 of {len(scene.gaussians)}" in text


def test_a_look_is_kept(scene: Scene, tmp_path: Path) -> None:
    session = Session(scene, Look(opacity=0.1), most=10**6)
    session.click(torch.zeros(3), torch.tensor([-0.7, 0.0, 3.0]))
    write_page(session, tmp_path / "view.html")
    _, facts, data = read(tmp_path / "view.html")
    assert (facts["layer"], facts["hide_below"], facts["unlikes"]) == ("similarity", 0.1, [])
    count = len(scene.gaussians)
    codes = np.frombuffer(data, np.int8, 5 * count, offset=53 * count).reshape(-1, 5)
    likes = np.array(facts["likes"])
    scores = codes @ likes[0] / np.linalg.norm(codes, axis=1)
    exact = session.scores()
    assert exact is not None
    assert np.abs(scores - exact.numpy()).max() < 0.02


def test_short_codes_are_close() -> None:
    draw = torch.Generator().manual_seed(0)
    # Like real features: a few strong directions and a tail.
    rows = torch.randn(500, 65, generator=draw) * torch.linspace(0, 5, 65).neg().exp()
    rows = torch.nn.functional.normalize(rows, dim=1)
    short, project = shorten(Codes(rows, torch.eye(65)))
    assert short.shape == (500, 24) and short.dtype == torch.int8
    numbers = short.float()
    unit = torch.nn.functional.normalize(numbers, dim=1)
    query = torch.nn.functional.normalize(rows[:20] @ project, dim=1)
    errors = (unit @ query.T - rows @ rows[:20].T).abs()
    assert float(errors.mean()) < 0.02 and float(errors.max()) < 0.12


def test_cannot_be_written(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_page(Session(scene, Look(), most=10**6), tmp_path / "file" / "view.html")
