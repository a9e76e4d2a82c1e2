"""What fit3d shows of names that come from anywhere: pages, cards, tables, progress."""

from __future__ import annotations

import html.parser
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fit3d_cli.backbones.export import cell
from fit3d_cli.capture.photos import Photos
from fit3d_cli.commands import _figures, _show, _terminal, _watch
from fit3d_cli.comparing.history import History
from fit3d_cli.comparing.page import PageFacts
from fit3d_cli.comparing.page import build_page as comparison_page
from fit3d_cli.comparing.views import ViewScore
from fit3d_cli.pages.html import data_uri
from fit3d_cli.pages.pictures import Shown
from fit3d_cli.probing.page import build_page as probe_page
from fit3d_cli.progress import Progress
from fit3d_cli.report import Figure, Report
from fit3d_cli.showing import page as showing
from fit3d_cli.statistics import Measured, make_rows
from fit3d_cli.viewer.look import Look, facts
from fit3d_cli.viewer.page import write_page
from fit3d_cli.viewer.session import Session
from tests.reliability._seeds import scene

HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'><svg onload=alert(1)>",
    "]]></script><script>alert(1)//", "<!--<script>", "--><b>", "javascript:alert(1)",
    "</style><style>*{background:url(http://x)}", "</title><h1>x", "&lt;b&gt;&#60;i&#62;",
    "`${alert(1)}`{1+1}", "<iframe srcdoc='<script>1</script>'>", "\\u003cscript\\u003e",
    "</bdi></td></tr></table><form action=http://x><input>", 'x" style="x" onmouseover="y',
    "{{7*7}}{%x%}", "<a href='data:text/html,x'>", "<x\x00y>", "a\u202egnp.exe",
    "\x1b]0;x\x07\x1b[2J",
)  # fmt: skip
TERMINAL = (
    "\x1b[2J\x1b[31mred", "\x1b]0;title\x07", "\x9b31mred", "a\rfit3d: error: forged",
    "one\nfit3d: error: forged", "\x08\x08\x08", "[red]red[/red]", "[link=http://x]y[/link]",
    ":smile: [bold]", "a\u202eb", "\udce9", "\x7f\x00", "\u2028x",
)  # fmt: skip
_LINKS = {"href", "src", "action", "formaction", "data", "srcdoc", "background", "xlink:href"}


def pages(word: str, folder: Path) -> dict[str, str]:
    """Every kind of page, in which each name, title and note is ``word``."""
    values = {"base": [0.1, 0.5, 0.25, 0.75] * 3, "tuned": [0.25, 0.5, 0.5, 0.75] * 3}
    rows = make_rows({model: Measured({"miou": v, "image_miou": v, f"{word} iou": v})
                      for model, v in values.items()})  # fmt: skip
    rows = (rows[0], replace(rows[1], model=f"tuned {word}"))
    report = Report(
        "seg", word, rows, 12, f"{word}s", {word: word, "steps": 3},
        (word, f"caution: {word}", f"tuned: {word}"),
        {"cosine": Figure(0.5, 3), word: Figure(1, 2)}, 0, tuple(f"{word} {i}" for i in range(12)),
    )  # fmt: skip
    curve = [0.5, 0.25, 0.125]
    picture = np.zeros((4, 6, 3), np.uint8)
    told = PageFacts(
        base=word, tuned=word,
        scenes=[{"name": word, "gaussians": 3, "psnr_heldout": 20.0, "seconds": 1.0}],
        views=[ViewScore(word, word, 20.0, 0.5, 0.5, (Shown(word, picture),))],
        history=History([1, 2, 3], curve, {word: curve}, curve, [(0, 0.5), (3, 0.25)]),
        settings={word: word}, lift={word: {word: word}}, finetune={word: {word: word}},
        commands=[f"fit3d {word}"], cautions=[word], remarks=[word], facts={word: word},
    )  # fmt: skip
    made = scene(12, 3)
    made = replace(made, name=word, names=tuple(f"{word} {i}" for i in range(3)),
                   source=replace(made.source, backbone=word))  # fmt: skip
    target = folder / "view.html"
    write_page(Session(made, Look(), most=100), target)
    model = {"label": word, "scale": [1.0], "error": 0.0, "grids": [[1, 1]], "codes": ["AA=="]}
    pixels = data_uri(b"x", "image/jpeg")
    return {
        "probe": probe_page(report, command=f"fit3d probe {word}", facts={word: word}),
        "compare": comparison_page([report], [], told),
        "viewer": target.read_text("utf-8"),
        "viz": showing._page(Photos((Path("x"),), (word,)), [pixels], [model, model]),
    }


class Skeleton(html.parser.HTMLParser):
    """Elements with the names of their attributes, and what stands in scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.bones: list[tuple[str, ...]] = []
        self.wrong: list[str] = []
        self.blocks: list[str] = []
        self.style = ""
        self._in = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # A class may depend on how long a name is.
        self.bones.append((tag, *sorted(name for name, _ in attrs if name != "class")))
        known = dict(attrs)
        for name, value in known.items():
            if name.startswith("on"):
                self.wrong.append(f"{tag} {name}")
            if name in _LINKS and not (value or "").startswith("data:image/") and value != "data:,":
                self.wrong.append(f"{tag} {name}={value!r}"[:80])
        self._in = tag
        if tag == "script" and known.get("type") == "application/json":
            self._in = "data"
            self.blocks.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_comment(self, data: str) -> None:
        self.wrong.append(f"a comment: {data[:40]}")

    def handle_data(self, data: str) -> None:
        if self._in == "data":
            self.blocks[-1] += data
        elif self._in == "style":
            self.style += data


def harmless(word: str) -> str:
    """A word of the same length without what HTML knows."""
    return re.sub(r"[<>\"'&\x00-\x1f\u202e]", "x", word)


def page_faults(word: str, folder: Path) -> list[str]:
    """What a page holds beyond what it would hold with an ordinary name."""
    found = []
    usual = pages(harmless(word), folder)
    for kind, text in pages(word, folder).items():
        bones, expected = Skeleton(text), Skeleton(usual[kind])
        if bones.bones != expected.bones:
            found.append(f"{kind}: other elements for {word!r}")
        found += [f"{kind}: {what} for {word!r}" for what in bones.wrong]
        for block in bones.blocks:
            if "<" in block:
                found.append(f"{kind}: < in the data for {word!r}")
            json.loads(block)
        if "Content-Security-Policy" not in text or re.search(r"script-src[^;\"]*unsafe", text):
            found.append(f"{kind}: its policy lets scripts in")
        if bones.style != expected.style or re.search(r"url\(|@import", bones.style):
            found.append(f"{kind}: its style loads something")
    return found


class Screen(io.StringIO):
    """A terminal, as rich sees it."""

    def isatty(self) -> bool:
        return True


def terminal_faults(word: str) -> list[str]:
    """Where a name reaches a terminal as anything but itself."""
    report = Report("seg", word, (), 1, word, notes=(word,))
    told: dict[str, Callable[[io.StringIO], object]] = {
        "table": lambda out: _show.table(out, ("name", "value"), [(word, 1.5)]),
        "files": lambda out: _show.files(out, "file", [Path(word)]),
        "line": lambda out: _watch._Lines(out)(Progress(word, 1, 1, word)),
        "report": lambda out: _figures.show(_terminal.Plain(out), report, every=True),
        "writing": lambda out: _terminal.Plain(out).write(word.replace("\n", "")),
        "json": lambda out: out.write(_terminal.escaped_json(json.dumps(word, ensure_ascii=False))),
        "bar": lambda out: _bar(out, word),
    }  # fmt: skip
    found = []
    for kind, tell in told.items():
        out = Screen() if kind == "bar" else io.StringIO()
        tell(out)
        text = out.getvalue()
        if kind == "bar":  # rich moves the cursor itself
            text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text)
        bad = [c for c in text if not c.isprintable() and c not in "\n\u00a0"]
        if bad or (kind in ("json", "line", "table") and text.count("\n") > 2):
            found.append(f"{kind}: {bad[:3]!r} of {word!r}")
        shown = str(Path(word)) if kind == "files" else word
        if word.startswith(("[", ":")) and shown not in text.replace("\n", ""):
            found.append(f"{kind}: {word!r} is read as markup: {text!r}"[:160])
        if kind == "json" and json.loads(text) != word:
            found.append(f"json: {word!r} means something else")
    return found


def _bar(out: io.StringIO, word: str) -> None:
    with _watch.watch(out, quiet=False) as listen:
        listen(Progress(word, 0, 2, word))
        listen(Progress(word, 2, 2, word))


def card_faults(word: str) -> list[str]:
    """Where a name is Markdown or HTML in a model card, or in the viewer's panel."""
    shown = cell(word)
    found = [f"card: {c!r} of {word!r}" for c in "<`[]|\n\x1b\u202e" if c in shown]
    made = scene(3, 1)
    made = replace(made, name=word, source=replace(made.source, backbone=word))
    text = facts(made, 3).partition("| Gaussians")[0]
    for mark in "<`[]{}":
        if re.search(rf"(?<!\\){re.escape(mark)}", text):
            found.append(f"panel: {mark!r} of {word!r}")
    return found
