"""The parts of the comparison page that no other page has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fit3d_cli.comparing.history import History
from fit3d_cli.comparing.pictures import FeaturePicture
from fit3d_cli.pages.curves import Curve, curve
from fit3d_cli.pages.html import Markup, Node, el, name
from fit3d_cli.pages.measured import RULE
from fit3d_cli.pages.metrics import number
from fit3d_cli.pages.tables import figure_cells, row, settings_table, table, words
from fit3d_cli.pages.verdict import clear_winner, headline, reference_row, tally, task_title
from fit3d_cli.report import Report
from fit3d_cli.settings import FinetuneSettings, LiftSettings

# Title and the names under which the figure may be recorded.
_SCENE_COLUMNS = (
    ("Gaussians", ("gaussians",)),
    ("PSNR held-out ↑", ("psnr_heldout", "psnr")),
    ("SSIM held-out ↑", ("ssim_heldout", "ssim")),
    ("Feature cosine held-out ↑", ("feature_cosine_heldout", "feature_cosine")),
    ("Ceiling: own PCA", ("ceiling_cosine_heldout", "ceiling_cosine")),
    ("Floor: nearest view", ("floor_cosine_heldout", "floor_cosine")),
    ("Seconds", ("seconds",)),
)


def verdict(reports: Sequence[Report], pictures: Sequence[FeaturePicture]) -> list[Markup]:
    """The answer in words, then one row per task."""
    parts: list[Markup] = []
    for model in _others(reports):
        parts.append(el("p", name(tally(reports, model)), class_="lead"))
    if not reports:
        parts.append(
            el(
                "p",
                "Nothing has been measured yet, so there is no verdict: only pictures. Run ",
                el("code", "fit3d probe seg DATASET"), " or ",
                el("code", "fit3d probe depth DATASET"),
                ", then ", el("code", "fit3d compare"), " again.",
                class_="lead",
            )
        )  # fmt: skip
    else:
        parts.append(_verdict_table(reports))
        parts.append(el("p", RULE, class_="small soft"))
    drifts = [picture.drift for picture in pictures if picture.drift]
    if drifts:
        cosine = sum(d.cosine for d in drifts) / len(drifts)
        ratio = sum(d.norm_ratio for d in drifts) / len(drifts)
        count = f"{len(drifts)} picture{'s' if len(drifts) > 1 else ''}"
        parts.append(
            el(
                "p",
                f"How far tuning moved the features on {count} below: mean cosine similarity "
                f"{number(cosine)} to the base's, {number(ratio)} times their length.",
                class_="small soft",
            )
        )
    return parts


def _others(reports: Sequence[Report]) -> list[str]:
    names: list[str] = []
    for report in reports:
        base = reference_row(report)
        names += [one.model for one in report.rows if one is not base and one.model not in names]
    return names


def _verdict_table(reports: Sequence[Report]) -> Markup:
    models: list[str] = []
    for report in reports:
        models += [one.model for one in report.rows if one.model not in models]
    rows = []
    for report in reports:
        judged = headline(report)
        if judged is None:
            continue
        cells: list[Node] = [
            words(f"{judged.label}\u00a0{judged.arrow}".strip()),
            *figure_cells(report, judged.name, models),
        ]
        clear = clear_winner(report, judged.name)
        cells.append(el("td", name(clear) if clear else "not decided",
                        class_="words" if clear else "words soft"))  # fmt: skip
        rows.append(row(name(task_title(report)), cells))
    head: list[Node] = ["Task", "Judged by", *map(name, models), "Best"]
    return table(head, rows, words=(1, len(head) - 1))


def training(history: History | None) -> list[Markup]:
    """Curves of the tuned model: objective, terms, held-out views, step size."""
    if history is None:
        return []
    curves = [Curve("Objective", history.steps, history.loss, noisy=True)]
    if len(history.terms) > 1:
        curves += [
            Curve(f"Term {term}", history.steps, values, noisy=True)
            for term, values in history.terms.items()
        ]
    start = history.heldout[0] if history.heldout else None
    level = (start[1], "base") if start and start[0] == 0 else None
    curves.append(
        Curve(
            "L1 to the targets, held-out views",
            [step for step, _ in history.heldout], [value for _, value in history.heldout],
            dots=True, level=level,
        )
    )  # fmt: skip
    if len(set(history.rate)) > 1:
        curves.append(Curve("Step size", history.steps, history.rate))
    drawn = [found for one in curves if (found := curve(one)) is not None]
    if not drawn:
        return []
    told = f"{len(history.steps)} steps"
    if len(set(history.rate)) == 1:
        told += f", step size {history.rate[0]:g} throughout"
    return [
        el("div", drawn, class_="plots"),
        el("p", f"{told}. Losses are those of each step's batch; the line is a running mean.",
           class_="small soft"),
    ]  # fmt: skip


def scenes_table(scenes: Sequence[Mapping[str, Any]]) -> Markup:
    """One row per scene; columns that no scene has are left out."""
    columns = [
        (title, key)
        for title, keys in _SCENE_COLUMNS
        for key in keys
        if any(scene.get(key) is not None for scene in scenes)
    ]
    rows = [
        row(name(str(scene.get("name", ""))), [_figure(scene.get(key)) for _, key in columns])
        for scene in scenes
    ]
    return table(["Scene", *(title for title, _ in columns)], rows)


def _figure(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "–" if value is None else str(value)
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else number(value)


def settings(
    compare: Mapping[str, Any],
    lift: Mapping[str, Mapping[str, Any]],
    finetune: Mapping[str, Mapping[str, Any]],
) -> list[Markup]:
    """What differs from the defaults in each step that led here.

    Args:
        compare: Of this page, dotted.
        lift: By scene, nested as recorded in the archive.
        finetune: By model, nested as recorded beside the weights.
    """
    parts: list[Markup] = []
    for step, told, usual in (
        ("lift", lift, LiftSettings().model_dump(mode="json")),
        ("finetune", finetune, FinetuneSettings().model_dump(mode="json")),
    ):
        for names, values in _alike(told):
            parts.append(el("h3", f"{step}: ", name(", ".join(names))))
            parts.append(
                settings_table(values, usual) if values
                else el("p", "All defaults.", class_="small soft")
            )  # fmt: skip
    if compare:
        parts += [el("h3", "compare"), settings_table(compare)]
    return parts


def _alike(
    told: Mapping[str, Mapping[str, Any]],
) -> list[tuple[list[str], Mapping[str, Any]]]:
    """Names with the same settings together, in order; empty sections are no difference."""
    groups: list[tuple[list[str], Mapping[str, Any]]] = []
    for who, values in told.items():
        given = _pruned(values)
        for names, known in groups:
            if known == given:
                names.append(who)
                break
        else:
            groups.append(([who], given))
    return groups


def _pruned(values: Mapping[str, Any]) -> dict[str, Any]:
    made = {k: _pruned(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    return {k: v for k, v in made.items() if v != {}}
