"""The page of ``compare``: verdict, figures, curves, features, scenes, and how to repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fit3d_cli import __version__
from fit3d_cli.comparing import sections
from fit3d_cli.comparing.cards import picture_card, worst_first
from fit3d_cli.comparing.history import History
from fit3d_cli.comparing.pictures import FeaturePicture
from fit3d_cli.comparing.views import ViewScore, view_cards
from fit3d_cli.pages.html import Markup, el, name, without_paths
from fit3d_cli.pages.measured import report_card
from fit3d_cli.pages.page import MAX_BYTES, Page, build, commands, remarks, section
from fit3d_cli.pages.verdict import summary_rows
from fit3d_cli.report import Report
from fit3d_cli.storage import write_text

SCHEMA = 3


@dataclass(frozen=True)
class PageFacts:
    """What a page says beside reports and pictures.

    Attributes:
        base: Name of the first model.
        tuned: Name of the second model.
        scenes: Per scene ``name``, ``gaussians``, ``psnr_heldout``, ``feature_cosine_heldout``,
            ``seconds``, as far as known.
        views: Held-out views of the scenes, rendered.
        history: Curves of the tuned model.
        settings: Settings of this command that differ from the defaults.
        lift: The same of each scene.
        finetune: The same of each tuned model.
        commands: Shell commands that make the page again.
        cautions: What questions the figures themselves.
        remarks: What else a reader must know, e.g. reports that could not be read.
        facts: Further names and values for the footer, e.g. versions.
    """

    base: str = "base"
    tuned: str = "tuned"
    scenes: Sequence[Mapping[str, Any]] = ()
    views: Sequence[ViewScore] = ()
    history: History | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    lift: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    finetune: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    commands: Sequence[str] = ()
    cautions: Sequence[str] = ()
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
        pictures: Feature pictures, shown worst first; those beyond ``MAX_BYTES`` are left out and
            counted.
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
    views = view_cards(facts.views)
    room = MAX_BYTES - sum(len(part.text) for part in views)
    cards, left_out = _within(room, worst_first(pictures))
    settings = sections.settings(facts.settings, facts.lift, facts.finetune)
    return build(
        Page(
            kind="fit3d compare",
            title=f"{without_paths(facts.tuned)} against {without_paths(facts.base)}",
            heading=[name(facts.tuned), el("span", " against ", class_="versus"), name(facts.base)],
            body=[
                section(
                    "Verdict",
                    [*sections.verdict(reports, pictures), remarks(facts.cautions, caution=True),
                     remarks(facts.remarks)],
                    card=True,
                ),
                section("Measurements", [report_card(report) for report in reports]),
                section("Training", sections.training(facts.history), card=True),
                section("Features", _feature_notes(cards, left_out)),
                section(
                    "Scenes",
                    [sections.scenes_table(facts.scenes)] if facts.scenes else [],
                    card=True,
                ),
                section("Held-out views, worst first", views, card=True),
                section("Settings that differ from the defaults", settings, card=True),
                section("Reproduce", [commands(facts.commands)]),
            ],
            identity="fit3d-compare",
            data=_data(reports, pictures, facts),
            footer=facts.facts,
        )
    )  # fmt: skip


def _within(room: int, pictures: Sequence[FeaturePicture]) -> tuple[list[Markup], int]:
    """Cards of the first pictures that fit, and how many do not."""
    cards: list[Markup] = []
    size = 0
    for picture in pictures:
        card = picture_card(picture)
        size += len(card.text)
        if size > room:
            break
        cards.append(card)
    return cards, len(pictures) - len(cards)


def _feature_notes(cards: Sequence[Markup], left_out: int) -> list[Markup]:
    if not cards:
        return []
    text = (
        "Drag a picture, or use the arrow keys, to change between the models. Both share their "
        "colours, and so do photos of one scene: there, equal colours are equal features. What "
        "moved the most comes first."
    )
    notes = [el("p", text, class_="small soft")]
    if left_out:
        notes.append(
            el("p", f"{left_out} more beside this page as PNG files.", class_="small soft")
        )
    return [*notes, *cards]


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
        "views": [view.figures() for view in facts.views],
        "history": asdict(facts.history) if facts.history else None,
        "settings": {
            "compare": dict(facts.settings),
            "lift": dict(facts.lift),
            "finetune": dict(facts.finetune),
        },
        "commands": list(facts.commands),
        "cautions": list(facts.cautions),
        "remarks": list(facts.remarks),
        "facts": dict(facts.facts),
    }
