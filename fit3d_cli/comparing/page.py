"""One self-contained HTML page: verdict, tables, pictures, and how to get them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from fit3d_cli import __version__
from fit3d_cli.comparing import sections
from fit3d_cli.comparing.cards import picture_card
from fit3d_cli.comparing.html import Markup, el, inline, json_block, render, without_paths
from fit3d_cli.comparing.pictures import FeaturePicture
from fit3d_cli.comparing.verdict import summary_rows
from fit3d_cli.report import Report
from fit3d_cli.storage import write_text

SCHEMA = 2
MAX_BYTES = 4_500_000
# The browser itself refuses anything that is not in the file.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True)
class PageFacts:
    """What a page says beside reports and pictures.

    Attributes:
        base: Name of the first model.
        tuned: Name of the second model.
        scenes: Per scene ``name``, ``gaussians``, ``psnr_heldout``, ``feature_cosine_heldout``,
            ``seconds``, as far as known.
        settings: Settings that differ from the defaults.
        commands: Shell commands that make the page again.
        remarks: What a reader must know, e.g. reports that could not be read.
        facts: Further names and values for the footer, e.g. versions.
    """

    base: str = "base"
    tuned: str = "tuned"
    scenes: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    commands: Sequence[str] = ()
    remarks: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def write_report(
    path: Path,
    reports: Sequence[Report],
    pictures: Sequence[FeaturePicture],
    facts: PageFacts,
) -> Path:
    """Write the page; the same inputs give the same bytes.

    Args:
        path: The ``.html`` file.
        reports: Probe results, in the order to show.
        pictures: Feature pictures; those beyond ``MAX_BYTES`` are left out and counted.
        facts: Everything else.

    Returns:
        ``path``.

    Raises:
        StorageError: The file cannot be written.
    """
    write_text(path, build_page(reports, pictures, facts))
    return path


def build_page(
    reports: Sequence[Report],
    pictures: Sequence[FeaturePicture],
    facts: PageFacts,
) -> str:
    """The page of ``write_report`` as text."""
    base, tuned = without_paths(facts.base), without_paths(facts.tuned)
    cards, left_out = _within_budget(pictures)
    body = [
        el(
            "header",
            el("p", "fit3d compare", class_="kind"),
            el("h1", tuned, el("span", " against ", class_="versus"), base),
            class_="page",
        ),
        el(
            "main",
            _section("Verdict", sections.verdict(reports, pictures), card=True),
            [el("p", without_paths(remark), class_="small soft") for remark in facts.remarks],
            _section("Measurements", [sections.report_card(r) for r in reports]),
            _section("Features", _feature_notes(cards, left_out)),
            _section(
                "Scenes", [sections.scenes_table(facts.scenes)] if facts.scenes else [], card=True
            ),
            _section(
                "Settings that differ from the defaults",
                [sections.settings_table(facts.settings)] if facts.settings else [],
                card=True,
            ),
            _section("Reproduce", _commands(facts.commands)),
        ),
        el(
            "footer",
            " · ".join(
                [f"fit3d {__version__}"]
                + [f"{name} {without_paths(value)}" for name, value in facts.facts.items()]
            ),
            class_="page",
        ),
        json_block("fit3d-compare", _data(reports, pictures, facts)),
        inline("script", _asset("page.js")),
    ]  # fmt: skip
    head = [
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", f"{tuned} against {base} – fit3d"),
        inline("style", _asset("page.css")),
    ]
    html = el("html", el("head", head), el("body", body), lang="en")
    return f"<!doctype html>\n{render(html)}\n"


def _section(title: str, parts: Sequence[Markup], *, card: bool = False) -> Markup | None:
    if not parts:
        return None
    return el("section", el("h2", title), el("div", parts, class_="card") if card else list(parts))


def _within_budget(
    pictures: Sequence[FeaturePicture],
) -> tuple[list[Markup], int]:
    cards: list[Markup] = []
    size = 0
    for picture in pictures:
        card = picture_card(picture)
        size += len(card.text)
        if size > MAX_BYTES:
            return cards, len(pictures) - len(cards)
        cards.append(card)
    return cards, 0


def _feature_notes(cards: Sequence[Markup], left_out: int) -> list[Markup]:
    if not cards:
        return []
    notes = [
        el(
            "p",
            "Drag a picture to change between the models. Both share their colours, and so do "
            "photos of one scene: there, equal colours are equal features.",
            class_="small soft",
        )
    ]  # fmt: skip
    if left_out:
        notes.append(
            el("p", f"{left_out} more beside this page as PNG files.", class_="small soft")
        )
    return [*notes, *cards]


def _commands(commands: Sequence[str]) -> list[Markup]:
    return [el("pre", "\n".join(without_paths(line) for line in commands))] if commands else []


def _data(
    reports: Sequence[Report], pictures: Sequence[FeaturePicture], facts: PageFacts
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "version": __version__,
        "base": facts.base,
        "tuned": facts.tuned,
        "summary": summary_rows(reports),
        "reports": [report.to_dict() for report in reports],
        "pictures": [
            {"name": p.name, "drift": asdict(p.drift) if p.drift else None} for p in pictures
        ],
        "scenes": [dict(scene) for scene in facts.scenes],
        "settings": dict(facts.settings),
        "commands": list(facts.commands),
        "remarks": list(facts.remarks),
        "facts": dict(facts.facts),
    }


def _asset(name: str) -> str:
    return (resources.files("fit3d_cli.comparing") / name).read_text("utf-8")
