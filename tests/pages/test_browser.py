"""Both kinds of page in a real browser: quiet, closed, usable, readable, printable."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fit3d_cli.backbones.drift import Drift
from fit3d_cli.comparing.history import History
from fit3d_cli.comparing.page import PageFacts
from fit3d_cli.comparing.page import build_page as build_comparison
from fit3d_cli.comparing.pictures import FeaturePicture, ModelView
from fit3d_cli.comparing.views import ViewScore
from fit3d_cli.pages.pictures import Shown
from fit3d_cli.probing.page import build_page as build_probe
from fit3d_cli.report import Report

CHROMIUM = Path("/usr/bin/chromium")
ARGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip
EVIL = ("</script><script>document.title='owned'</script>", '"><img src=https://example.org/x>',
        "\u202etxt.exe", "x" * 120)  # fmt: skip
MODELS = ("base", "tuned", "concat", "sum", "fused")
A4 = 680  # pixels between the margins
# Contrast of every text with what is behind it, after WCAG 2.1; opaque backgrounds only.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = text => { canvas.fillStyle = "#000"; canvas.fillStyle = text;
    canvas.clearRect(0, 0, 1, 1); canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const poor = [];
  const kinds = "p, h1, h2, h3, th, td, span, bdi, b, li, code, figcaption, summary, text";
  for (const one of document.querySelectorAll(kinds)) {
    if (![...one.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    if (one.closest(".tag, [hidden], details:not([open])") && one.tagName !== "SUMMARY") continue;
    const style = getComputedStyle(one);
    const ink = rgb(one instanceof SVGElement ? style.fill : style.color);
    let at = one, paper = null;
    while (at && !paper) {
      const found = rgb(getComputedStyle(at).backgroundColor);
      if (found[3] === 255) paper = found;
      at = at.parentElement;
    }
    const [a, b] = [light(ink), light(paper || [255, 255, 255])].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) poor.push(one.textContent.slice(0, 40) + " " + style.color);
  }
  return poor;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.is_file():
        pytest.skip("no chromium")
    with sync.sync_playwright() as play:
        running = play.chromium.launch(executable_path=str(CHROMIUM), args=ARGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def pages(
    tmp_path_factory: pytest.TempPathFactory, make_report: Callable[..., Report]
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    report = make_report("depth", models=MODELS, items=(*EVIL, *(f"v{i}" for i in range(36))))

    def show(index: int) -> list[Shown]:
        pixels = np.random.default_rng(index).integers(0, 256, (90, 120, 3), dtype=np.uint8)
        return [Shown("photo", pixels, photo=True), *(Shown(m, pixels) for m in MODELS)]

    texts = {
        "probe": build_probe(report, command="fit3d probe", facts={"seed": "0"}, show=show),
        "compare": build_comparison([report, make_report()], _pictures(), _facts(show)),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, "utf-8")
    return {name: folder / f"{name}.html" for name in texts}


def _pictures() -> list[FeaturePicture]:
    draw = torch.Generator().manual_seed(0)
    views = [ModelView(torch.rand(6, 8, 3, generator=draw), torch.rand(6, 8, 3, generator=draw))
             for _ in range(2)]  # fmt: skip
    photo = torch.rand(96, 128, 3, generator=draw)
    return [FeaturePicture(EVIL[0], photo, *views, Drift(0.9, 1.0))]


def _facts(show: Callable[[int], list[Shown]]) -> PageFacts:
    steps = list(range(1, 61))
    losses = [1 / step for step in steps]
    columns = ("gaussians", "psnr", "ssim", "feature_cosine", "ceiling_cosine", "floor_cosine")
    return PageFacts(
        base=EVIL[2], tuned=EVIL[1],
        scenes=[{"name": name, **dict.fromkeys(columns, 0.5), "seconds": 9} for name in EVIL],
        views=[ViewScore("room", EVIL[0], 15.0, 0.7, 0.8, tuple(show(0)[:3]))],
        history=History(steps, losses, {"l1": losses, "anchor": losses}, losses,
                        [(0, 2.0), (30, 1.5), (60, 1.0)]),
        settings={"compare.images": 3}, lift={"room": {"geometry": {"iterations": 7}}},
        finetune={EVIL[1]: {"lr": 1e-4}}, commands=["fit3d compare " + "x" * 200],
        cautions=["A caution."], remarks=[EVIL[0]], facts={"torch": "2"},
    )  # fmt: skip


@pytest.fixture(params=["probe", "compare"])
def which(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _open(browser: Any, path: Path, **options: Any) -> tuple[Any, list[str]]:
    page = browser.new_context(**options).new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    own = path.as_uri()
    page.on(
        "request",
        lambda request: (
            heard.append(request.url)
            if request.url != own and not request.url.startswith("data:")
            else None
        ),
    )
    page.goto(own)
    return page, heard


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_quiet_closed_and_readable(
    browser: Any, pages: dict[str, Path], which: str, scheme: str
) -> None:
    page, heard = _open(browser, pages[which], color_scheme=scheme,
                        viewport={"width": 1180, "height": 800})  # fmt: skip
    assert page.title() != "owned" and page.evaluate("document.scripts.length") == 2
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    levels = [int(v) for v in paper.removeprefix("rgb(").removesuffix(")").split(",")]
    assert (max(levels) < 64) if scheme == "dark" else (min(levels) > 192)
    assert page.evaluate(CONTRAST) == []
    unnamed = "[...document.querySelectorAll('img:not([alt]), svg:not([aria-label]),"
    assert page.evaluate(f"{unnamed} input:not([aria-label])')].length") == 0
    assert heard == []
    page.context.close()


def test_sliders_move_by_key_and_together(browser: Any, pages: dict[str, Path]) -> None:
    page, heard = _open(browser, pages["compare"], viewport={"width": 1180, "height": 800})
    cut = "[...document.querySelectorAll('.slider')].map(s => s.style.getPropertyValue('--cut'))"
    first = page.locator(".slider input").first
    first.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert page.evaluate(cut) == ["55%", "55%"]
    box = page.locator(".slider").nth(1).bounding_box()
    page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + box["height"] / 2)
    cuts = page.evaluate(cut)
    assert cuts[0] == cuts[1] and 15 <= float(cuts[0][:-1]) <= 35
    before, after = (
        page.evaluate(
            f"getComputedStyle(document.querySelectorAll('.slider .after')[{i}]).clipPath"
        )
        for i in (0, 1)
    )
    assert before == after and cuts[0] in before
    assert heard == []
    page.context.close()


def test_a_phone_scrolls_tables_not_the_page(
    browser: Any, pages: dict[str, Path], which: str
) -> None:
    page, _ = _open(browser, pages[which], viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.context.close()


def test_paper_shows_whole_tables_and_both_sides(
    browser: Any, pages: dict[str, Path], which: str
) -> None:
    page, _ = _open(browser, pages[which], viewport={"width": A4, "height": 900},
                    color_scheme="dark")  # fmt: skip
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    ends = page.evaluate(
        "[...document.querySelectorAll('table, td, th, img, svg, pre')]"
        ".map(e => [e.tagName, e.getBoundingClientRect().right, e.textContent.slice(0, 30)])"
    )
    assert [one for one in ends if one[1] > A4 + 1] == []
    assert page.evaluate(
        "[...document.querySelectorAll('td, th')].filter(e => e.scrollWidth > e.clientWidth + 1)"
        ".map(e => e.textContent.slice(0, 40))"
    ) == []  # fmt: skip
    sides = page.evaluate(
        "[...document.querySelectorAll('.slider')].map(s => [...s.querySelectorAll('img')]"
        ".map(i => { const b = i.getBoundingClientRect(); return [b.left, b.right, b.width]; }))"
    )
    assert len(sides) == (2 if which == "compare" else 0)
    for (_, first_end, width), (second_start, *_) in sides:
        assert width > 50 and second_start >= first_end - 0.5
    assert page.pdf(format="A4", print_background=True).startswith(b"%PDF")
    page.context.close()


def test_pages_ask_for_nothing_outside(pages: dict[str, Path]) -> None:
    for path, needle in itertools.product(
        pages.values(),
        ("<link", "@import", "url(", "<iframe", "fetch(", "XMLHttp", "srcset", "<a "),
    ):
        assert needle not in path.read_text("utf-8")
