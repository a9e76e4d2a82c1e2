from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fit3d_cli.capture.photos import Photos
from fit3d_cli.showing.page import DIMENSIONS, MAX_ERROR, reduce_tokens, write_page
from fit3d_cli.showing.sampling import Viewer

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=-1, keepdim=True)


def cosines(codes: Any, scale: Any) -> torch.Tensor:
    rows = torch.from_numpy(np.concatenate(codes).astype(np.float32) * scale)
    return rows @ rows.T


def test_few_directions_need_few_numbers() -> None:
    low_rank = unit(12, 15, 6) @ unit(6, 80, seed=1)
    maps = [m / m.norm(dim=-1, keepdim=True) for m in (low_rank, low_rank.flip(0))]
    codes, scale, error = reduce_tokens(maps)
    assert [c.shape for c in codes] == [(180, 16)] * 2 and codes[0].dtype == np.int8
    exact = torch.cat([m.reshape(-1, 80) for m in maps])
    assert float((cosines(codes, scale) - exact @ exact.T).abs().mean()) <= error + 1e-3
    assert error < 0.005


def test_many_directions_get_more_numbers_and_the_error_is_told() -> None:
    maps = [unit(16, 16, 192, seed=seed) for seed in range(3)]
    codes, scale, error = reduce_tokens(maps)
    assert len(scale) == DIMENSIONS[-1]
    exact = torch.cat([m.reshape(-1, 192) for m in maps])
    measured = float((cosines(codes, scale) - exact @ exact.T).abs().mean())
    assert measured == pytest.approx(error, rel=0.05) and error > MAX_ERROR


def test_narrow_tokens_are_kept_whole() -> None:
    codes, scale, error = reduce_tokens([unit(4, 5, 6)])
    assert codes[0].shape == (20, 6) and len(scale) == 6 and error < 0.02


@pytest.fixture
def page(photos: Photos, pair: Viewer, tmp_path: Path) -> Path:
    target = tmp_path / "page.html"
    write_page(target, photos, pair)
    return target


def test_the_page_is_self_contained_and_escapes_names(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "<i>c</i>" not in text and "&lt;i&gt;c" in text
    assert not re.search(r"https?://|@import|src=\"(?!data:)|href=", text)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy and "default-src &#x27;none&#x27;" in policy[1]
    found = re.search(r'<script type="application/json" id="tokens">(.*?)</script>', text)
    assert found
    data = json.loads(found[1])
    for model in data["models"]:
        for grid, codes in zip(model["grids"], model["codes"], strict=True):
            size = grid[0] * grid[1] * len(model["scale"])
            assert len(base64.urlsafe_b64decode(codes)) == size


def test_same_seed_same_bytes(page: Path, photos: Photos, pair: Viewer, tmp_path: Path) -> None:
    write_page(tmp_path / "again.html", photos, pair)
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_a_click_in_a_browser_colours_what_is_alike(page: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium")
    problems: list[str] = []
    requests: list[str] = []
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        tab = browser.new_page()
        tab.on("console", lambda m: m.type == "error" and problems.append(m.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(page.as_uri())
        eye = tab.locator(".eye").first
        assert eye.locator("canvas").evaluate("c => c.style.opacity") in ("", "0")
        eye.click()  # in the middle, where the disc is
        heat = """(canvas, where) => {
            const [x, y] = where.map((v, i) => Math.floor(v * [canvas.width, canvas.height][i]));
            return [...canvas.getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3)
                .reduce((a, b) => a + b);
        }"""
        for other in tab.locator(".eye canvas").all():
            assert other.evaluate(heat, [0.5, 0.5]) > 300 + other.evaluate(heat, [0.05, 0.05])
        assert "most alike" in tab.locator("figcaption output").nth(2).inner_text()
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("Escape")
        assert eye.locator("canvas").evaluate("c => c.style.opacity") == "0"
        browser.close()
    assert problems == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
