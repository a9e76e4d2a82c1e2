"""The shell of every page: head, title, sections, footer, data; nothing from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from fit3d_cli import __version__
from fit3d_cli.pages.html import (
    Markup,
    Node,
    el,
    inline,
    json_block,
    name,
    render,
    source_hash,
    without_paths,
)

# Of a page with its pictures; what does not fit is left out and counted.
MAX_BYTES = 4_500_000
# The browser itself refuses anything that is not in the file.
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {script};"
    " base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Page:
    """What a page holds.

    Attributes:
        kind: The verb that made it, e.g. ``fit3d compare``.
        title: Plain text, for the window.
        heading: The same with markup.
        body: Sections, None left out.
        identity: Id of the data block.
        data: For programs.
        under: A line below the heading.
        footer: Names and values, e.g. versions, machine, seed.
        digits: Of floats in the data; None keeps them all.
    """

    kind: str
    title: str
    heading: Node
    body: Sequence[Markup | None]
    identity: str
    data: Any
    under: Node = None
    footer: Mapping[str, str] = field(default_factory=dict)
    digits: int | None = 7


def build(page: Page) -> str:
    """The text of a page; equal pages give equal bytes."""
    footer = [f"fit3d {__version__}", *(f"{k} {v}" for k, v in page.footer.items())]
    script = _asset("page.js")
    body = [
        el(
            "header",
            el("p", page.kind, class_="kind"),
            el("h1", page.heading),
            el("p", page.under, class_="under") if page.under else None,
            class_="page",
        ),
        el("main", page.body),
        el(
            "footer",
            [el("span", without_paths(words)) for words in footer],
            class_="page",
        ),
        json_block(page.identity, page.data, digits=page.digits),
        inline("script", script),
    ]
    policy = _POLICY.format(script=source_hash(script))
    head = [
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", f"{without_paths(page.title)} – fit3d"),
        inline("style", _asset("page.css")),
    ]
    html = el("html", el("head", head), el("body", body), lang="en")
    return f"<!doctype html>\n{render(html)}\n"


def section(title: str, parts: Sequence[Node], *, card: bool = False) -> Markup | None:
    """A titled part of a page; None when it is empty."""
    shown = [part for part in parts if part is not None]
    if not shown:
        return None
    return el("section", el("h2", title), el("div", shown, class_="card") if card else shown)


def commands(lines: Sequence[str]) -> Markup | None:
    """Shell commands as a block that can be copied."""
    if not lines:
        return None
    return el("pre", el("code", "\n".join(without_paths(line) for line in lines)))


def remarks(texts: Sequence[str], *, caution: bool = False) -> Markup | None:
    """Sentences that a reader must know; cautions stand out."""
    if not texts:
        return None
    style = "remarks caution" if caution else "remarks"
    return el("ul", [el("li", name(text)) for text in texts], class_=style)


def _asset(file: str) -> str:
    return (resources.files("fit3d_cli.pages") / file).read_text("utf-8")
