"""The viewer and the exported file in a real browser."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fit3d_cli.scene import Scene
from fit3d_cli.viewer.look import Look
from fit3d_cli.viewer.page import write_page
from fit3d_cli.viewer.photos import Photos
from fit3d_cli.viewer.serve import running
from fit3d_cli.viewer.session import Session
from fit3d_cli.workspace import Workspace

CHROMIUM = Path("/usr/bin/chromium")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="no /usr/bin/chromium"),
]
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip
# Written by viser's own page for every Gaussian scene, whatever it holds.
KNOWN = "THREE.BufferGeometry.computeBoundingSphere(): Computed radius is NaN"
WIDTH, HEIGHT = 900, 400
RED, BLUE = (325, 200), (515, 200)  # where the walls are, left of the panel
PATIENCE = 60.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


class Tab:
    """A page, all it asked for and all it complained of."""

    def __init__(self, browser: Any, *, offline: bool = False) -> None:
        self.page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        self.page.set_default_timeout(PATIENCE * 1000)
        self.asked: list[str] = []
        self.wrong: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("websocket", lambda socket: self.asked.append(socket.url))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._heard)
        if offline:
            self.page.context.set_offline(True)

    def _heard(self, message: Any) -> None:
        if message.type == "error" and not message.text.startswith(KNOWN):
            self.wrong.append(message.text)

    def picture(self) -> NDArray[np.int64]:
        """``[H, W, 3]`` of what lies left of the panel."""
        shot = self.page.screenshot(timeout=PATIENCE * 1000)
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(np.int64)[:, :560]

    def wait(self, good: Callable[[NDArray[np.int64]], bool], why: str) -> NDArray[np.int64]:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            picture = self.picture()
            if good(picture):
                return picture
            time.sleep(0.3)
        pytest.fail(why)

    def external(self, *own: str) -> list[str]:
        return [url for url in self.asked if not url.startswith((*own, "data:", "blob:"))]


def around(picture: NDArray[np.int64], place: tuple[int, int]) -> NDArray[np.float64]:
    x, y = place
    mean: NDArray[np.float64] = picture[y - 12 : y + 12, x - 12 : x + 12].mean((0, 1))
    return mean


def red_and_blue(picture: NDArray[np.int64]) -> bool:
    """The walls in their colours, on a dark ground."""
    red, blue = around(picture, RED), around(picture, BLUE)
    ground = picture[HEIGHT - 8 :, 20:120].mean()
    return bool(red[0] > red[2] + 60 and blue[2] > blue[0] + 60 and ground < 60)


def brighter(
    first: tuple[int, int], second: tuple[int, int]
) -> Callable[[NDArray[np.int64]], bool]:
    return lambda picture: bool(around(picture, first).sum() > around(picture, second).sum() + 60)


def test_viewer(browser: Any, scene: Scene, home: Path) -> None:
    pytest.importorskip("viser")
    session = Session(scene, Look(), most=10**6)
    photos = Photos(scene, Workspace(home))
    photos.pictures(1)  # the models are loaded before the clock runs
    archive = home / "scenes/walls.f3d"
    with running(session, photos, archive=archive, port=0, no_text="no text tower") as view:
        tab = Tab(browser)
        tab.page.goto(view.url)
        tab.wait(red_and_blue, "no splats")
        # A click lights up what is like it.
        tab.page.mouse.click(*RED)
        tab.wait(brighter(RED, BLUE), "the click on the red wall changed nothing")
        assert session.look.layer == "similarity" and len(session.look.positives) == 1
        tab.page.mouse.click(*BLUE)
        tab.wait(brighter(BLUE, RED), "the click on the blue wall changed nothing")
        tab.page.keyboard.down("Alt")
        tab.page.mouse.click(*BLUE)
        tab.page.keyboard.up("Alt")
        tab.page.keyboard.down("Shift")
        tab.page.mouse.click(*RED)
        tab.page.keyboard.up("Shift")
        tab.wait(brighter(RED, BLUE), "modifiers changed nothing")
        assert (len(session.look.positives), len(session.look.negatives)) == (2, 1)
        # The layer list.
        tab.page.get_by_label("Layer").first.click()
        tab.page.get_by_role("option", name="colour", exact=True).click()
        tab.wait(red_and_blue, "the colours did not come back")
        # A camera shows its photo and both models, and asks nothing of the scene.
        tab.page.get_by_label("Show cameras").check()
        client = next(iter(view.server.get_clients().values()))
        client.camera.position, client.camera.look_at = (-0.03, 0.0, -0.8), (-0.03, 0.0, 0.0)
        pictures = tab.page.locator("img")
        others = pictures.count()
        end = time.monotonic() + PATIENCE
        while pictures.count() < others + 3 and time.monotonic() < end:
            tab.page.mouse.click(WIDTH // 2, HEIGHT // 2)
            time.sleep(1.0)
        assert pictures.count() == others + 3
        # Clicks that came before the camera stood there were questions; one more is none.
        time.sleep(1.0)
        asked = (session.look.layer, len(session.look.positives))
        tab.page.mouse.click(WIDTH // 2, HEIGHT // 2)
        time.sleep(2.0)
        assert (session.look.layer, len(session.look.positives)) == asked
        assert not tab.wrong
        assert not tab.external(view.url, f"ws://127.0.0.1:{view.port}")
        tab.page.close()


def test_exported_file(browser: Any, scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "view.html"
    write_page(Session(scene, Look(clusters=2), most=10**6), file)
    tab = Tab(browser, offline=True)
    tab.page.goto(file.as_uri())
    first = tab.wait(red_and_blue, "no splats")
    for layer in ("pca", "kmeans", "depth"):
        tab.page.click(f"button[data-layer={layer}]")
        tab.wait(lambda p: int(np.abs(p - first).max()) > 60, layer)
    tab.page.mouse.click(*RED)
    tab.wait(brighter(RED, BLUE), "the click changed nothing")
    tab.page.keyboard.down("Alt")
    tab.page.mouse.click(*RED)
    tab.page.keyboard.up("Alt")
    tab.page.keyboard.down("Shift")
    tab.page.mouse.click(*BLUE)
    tab.page.keyboard.up("Shift")
    tab.wait(brighter(BLUE, RED), "modifiers changed nothing")
    tab.page.click("#clear")
    tab.page.click("button[data-layer=rgb]")
    tab.wait(red_and_blue, "the colours did not come back")
    tab.page.mouse.move(200, 100)
    tab.page.mouse.down()
    tab.page.mouse.move(300, 120, steps=3)
    tab.page.mouse.up()
    tab.wait(lambda p: int(np.abs(p - first).max()) > 100, "dragging turned nothing")
    assert tab.page.inner_text("#note").startswith("Click a place")  # a drag is no click
    assert not tab.wrong
    assert not tab.external(file.as_uri())
    tab.page.context.set_offline(False)
    tab.page.close()
