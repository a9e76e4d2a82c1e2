"""The page of one probe: verdict, figures, single items, how to get it again."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import torch

from fit3d_cli.errors import Fit3dError
from fit3d_cli.pages import measured
from fit3d_cli.pages.html import Markup, el, name
from fit3d_cli.pages.items import extremes, items_of, moved
from fit3d_cli.pages.page import MAX_BYTES, Page, build, commands, remarks, section
from fit3d_cli.pages.pictures import Shown
from fit3d_cli.pages.reproduce import machine, probe_command
from fit3d_cli.pages.tables import settings_table
from fit3d_cli.pages.verdict import task_title
from fit3d_cli.report import Report
from fit3d_cli.settings import ProbeSettings
from fit3d_cli.storage import write_text

Show = Callable[[int], Sequence[Shown]]


def write_page(
    path: Path, report: Report, settings: ProbeSettings, device: torch.device, show: Show | None
) -> Path:
    """Write the page of a report; the same inputs give the same bytes.

    Args:
        path: The ``.html`` file.
        report: What was measured.
        settings: With what; names the models in the command.
        device: Where the models ran.
        show: Pictures of a scored item, by its index; None shows tables only.

    Returns:
        ``path``.

    Raises:
        StorageError: The file cannot be written.
    """
    facts = {
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "on": machine(device),
        "seed": str(report.seed),
    }
    command = probe_command(report, _options(settings, report))
    write_text(path, build_page(report, command=command, facts=facts, show=show))
    return path


def build_page(
    report: Report, *, command: str, facts: Mapping[str, str], show: Show | None = None
) -> str:
    """The text of the page.

    Args:
        report: What was measured.
        command: The command line that makes the report again.
        facts: Names and values for the footer.
        show: As in ``write_page``; items whose pictures cannot be made are shown without.
    """
    examples, remark = _examples(report, show)
    items = items_of(report)
    drawn = measured.distribution(items) if items else []
    shifted = moved(items) if items else None
    models = ", ".join(row.model for row in report.rows)
    return build(
        Page(
            kind=f"fit3d probe {report.task}",
            title=task_title(report),
            heading=name(task_title(report)),
            under=name(f"{report.count} {report.over} · {models}"),
            body=[
                section(
                    "Verdict",
                    [
                        el("p", name(measured.lead(report)), class_="lead"),
                        measured.claims(report),
                        remarks(report.cautions, caution=True),
                        el("p", measured.RULE, class_="small soft") if report.rows[1:] else None,
                    ],
                    card=True,
                ),
                section("Figures", [*measured.figures(report), measured.drift(report)], card=True),
                section("Item by item", [*drawn, shifted], card=True),
                section("Worst and best", [*examples, remark], card=True),
                section("How it was measured", [measured.notes(report)[1]], card=True),
                section(
                    "Settings that differ from the defaults",
                    [settings_table(report.settings, _defaults())]
                    if report.settings else [el("p", "None.", class_="soft")],
                    card=True,
                ),
                section("Reproduce", [commands([command])]),
            ],
            identity="fit3d-report",
            data=report.to_dict(),
            footer=facts,
            digits=None,
        )
    )  # fmt: skip


def _examples(report: Report, show: Show | None) -> tuple[list[Markup], Markup | None]:
    """Worst and best items, with pictures where they can be had and fit into the page."""
    items = items_of(report)
    if items is None:
        return [], None
    plain = extremes(items)
    if show is None:
        return plain, None
    try:
        made = extremes(items, show)
    except Fit3dError as error:
        return plain, el("p", f"No pictures: {error.what}.", class_="small soft")
    if sum(len(part.text) for part in made) > MAX_BYTES:
        return plain, el("p", "The pictures would have been too large.", class_="small soft")
    return made, None


def _defaults() -> Mapping[str, Any]:
    return ProbeSettings().model_dump(mode="json")


def _options(settings: ProbeSettings, report: Report) -> dict[str, str]:
    """Options that the report does not record, since they name places; only their last part."""
    return {
        "--data": _last(settings.data),
        "--tuned": _last(settings.tuned) if any(r.model != "base" for r in report.rows) else "",
        "--weights": _last(settings.backbone.weights),
    }


def _last(place: str) -> str:
    """``…/name`` of a path, a bare name as it is."""
    path = PurePath(place)
    return place if not place or path.name == place else f"…/{path.name}"
