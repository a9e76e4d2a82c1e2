"""The parts of the comparison page, each from values to HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fit3d_cli.comparing.forest import forest, reach
from fit3d_cli.comparing.html import Markup, Node, el, without_paths
from fit3d_cli.comparing.metrics import metric, number, ordered, shown_first, signed
from fit3d_cli.comparing.pictures import FeaturePicture
from fit3d_cli.comparing.verdict import (
    Comparison,
    all_names,
    basis,
    best_models,
    clear_winner,
    comparisons,
    headline,
    reference_row,
    sentence,
    tally,
    task_title,
)
from fit3d_cli.report import Report

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
        parts.append(el("p", tally(reports, model), class_="lead"))
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
        parts.append(
            el(
                "p",
                "A difference counts when its paired 95 % bootstrap interval does not cover zero; "
                "otherwise it is within noise. Intervals cover the choice of what was measured on "
                "(images, pairs of views, ...), not the randomness of training.",
                class_="small soft",
            )
        )
    drifts = [picture.drift for picture in pictures if picture.drift]
    if drifts:
        cosine = sum(d.cosine for d in drifts) / len(drifts)
        ratio = sum(d.norm_ratio for d in drifts) / len(drifts)
        parts.append(
            el(
                "p",
                f"How far tuning moved the features on {len(drifts)} pictures below: mean cosine "
                f"similarity {number(cosine)} to the base's, {number(ratio)} times their length.",
                class_="small soft",
            )
        )
    return parts


def _others(reports: Sequence[Report]) -> list[str]:
    names: list[str] = []
    for report in reports:
        base = reference_row(report)
        names += [row.model for row in report.rows if row is not base and row.model not in names]
    return names


def _verdict_table(reports: Sequence[Report]) -> Markup:
    models: list[str] = []
    for report in reports:
        models += [row.model for row in report.rows if row.model not in models]
    rows = []
    for report in reports:
        judged = headline(report)
        if judged is None:
            continue
        cells: list[Node] = [
            el("td", task_title(report)),
            el("td", f"{judged.label} {judged.arrow}", class_="words"),
            _figure_cells(report, judged.name, models),
        ]
        clear = clear_winner(report, judged.name)
        cells.append(el("td", clear or "not decided", class_="words" if clear else "words soft"))
        rows.append(el("tr", cells))
    head = el(
        "tr", el("th", "Task"), el("th", "Judged by", class_="words"),
        [el("th", model) for model in models], el("th", "Best", class_="words"),
    )  # fmt: skip
    return _table(head, rows)


def _figure_cells(report: Report, name: str, models: Sequence[str]) -> list[Markup]:
    """Of one metric, a cell per model: value, interval, difference to the reference."""
    best = best_models(report, name)
    rows = {row.model: row for row in report.rows}
    found = {c.model: c for c in comparisons(report) if c.metric.name == name}
    cells = []
    for model in models:
        figure = rows[model].figures.get(name) if model in rows else None
        against = found.get(model)
        cells.append(
            el(
                "td",
                number(figure.value) if figure else "–",
                el("span", f"{number(figure.low)} to {number(figure.high)}", class_="ends")
                if figure and figure.has_interval else None,
                el("span", f"{signed(against.difference)} {against.outcome}",
                   class_=f"delta {against.outcome.replace(' ', '-')}") if against else None,
                class_="best" if model in best else None,
            )
        )  # fmt: skip
    return cells


def _table(head: Markup, rows: Sequence[Markup]) -> Markup:
    return el("div", el("table", el("thead", head), el("tbody", rows)), class_="scroll")


def report_card(report: Report) -> Markup:
    """One probe: figures of every model, the claims they support, notes and settings."""
    names = ordered(report.task, all_names(report))
    first = shown_first(report.task, names) or names[:4]
    every = comparisons(report)
    judged = [c for c in every if c.metric.name == (first[0] if first else "")]
    half = reach(judged)
    claims = [el("li", _badge(c), el("p", sentence(c)), forest(c, half)) for c in judged]
    return el(
        "section",
        el("h3", task_title(report)),
        el("p", f"{report.count} {report.over}", class_="small soft"),
        _figures_table(report, first),
        el("ul", claims, class_="claims") if claims else None,
        _drift(report),
        [el("p", f"Note: {without_paths(note)}", class_="small soft") for note in report.notes],
        el("details", el("summary", "All figures"), _figures_table(report, names))
        if len(names) > len(first) else None,
        _all_differences(every) if len(every) > len(judged) else None,
        _settings_details(report.settings),
        class_="card",
    )  # fmt: skip


def _figures_table(report: Report, names: Sequence[str]) -> Markup:
    """A row per metric, a column per model."""
    models = [row.model for row in report.rows]
    head = el(
        "tr", el("th", "Metric"), el("th", "n"),
        [el("th", model) for model in models],
    )  # fmt: skip
    rows = []
    for name in names:
        judged = metric(name)
        counts = {row.figures[name].n for row in report.rows if name in row.figures}
        rows.append(
            el(
                "tr",
                el("td", f"{judged.label} {judged.arrow}".strip()),
                el("td", " / ".join(map(str, sorted(counts)))),
                _figure_cells(report, name, models),
            )
        )
    return _table(head, rows)


def _drift(report: Report) -> Markup | None:
    if not report.drift:
        return None
    words = {"cosine": "cosine to the base", "norm_ratio": "length ratio to the base"}
    told = [
        f"{words.get(name, name)} {number(figure.value)}"
        + (f" ({number(figure.low)} to {number(figure.high)})" if figure.has_interval else "")
        for name, figure in report.drift.items()
    ]
    pictures = next(iter(report.drift.values())).n
    text = f"Drift of the tuned tokens: {', '.join(told)}, over {pictures} pictures."
    return el("p", text, class_="small")


def _badge(comparison: Comparison) -> Markup:
    return el("span", comparison.outcome, class_=f"badge {comparison.outcome.replace(' ', '-')}")


def _all_differences(every: Sequence[Comparison]) -> Markup:
    head = el(
        "tr", el("th", "Metric"), el("th", "Model", class_="words"), el("th", "Difference"),
        el("th", "Basis", class_="words"), el("th", "Verdict", class_="words"),
    )  # fmt: skip
    rows = [
        el(
            "tr",
            el("td", f"{c.metric.label} {c.metric.arrow}".strip()),
            el("td", c.model, class_="words"),
            el("td", signed(c.difference)),
            el("td", basis(c), class_="words"),
            el("td", _badge(c), class_="words"),
        )
        for c in every
    ]
    return el("details", el("summary", "All differences"), _table(head, rows))


def _settings_details(settings: Mapping[str, Any]) -> Markup | None:
    if not settings:
        return None
    return el("details", el("summary", "Settings of this probe"), settings_table(settings))


def settings_table(settings: Mapping[str, Any]) -> Markup:
    """Keys and values; absolute paths lose their directories."""
    head = el("tr", el("th", "Setting"), el("th", "Value", class_="words"))
    rows = [
        el(
            "tr",
            el("td", el("code", key)),
            el("td", el("code", without_paths(str(value))), class_="words"),
        )
        for key, value in flat_settings(settings).items()
    ]
    return _table(head, rows)


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys and the text that ``--set`` takes."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(flat_settings(value, f"{prefix}{key}."))
        elif isinstance(value, (list, tuple)):
            flat[f"{prefix}{key}"] = ",".join(map(str, value))
        else:
            flat[f"{prefix}{key}"] = str(value).lower() if isinstance(value, bool) else str(value)
    return flat


def scenes_table(scenes: Sequence[Mapping[str, Any]]) -> Markup:
    """One row per scene; columns that no scene has are left out."""
    columns = [
        (title, key)
        for title, keys in _SCENE_COLUMNS
        for key in keys
        if any(scene.get(key) is not None for scene in scenes)
    ]
    head = el("tr", el("th", "Scene"), [el("th", title) for title, _ in columns])
    rows = [
        el(
            "tr",
            el("td", str(scene.get("name", ""))),
            [el("td", _figure(scene.get(key))) for _, key in columns],
        )
        for scene in scenes
    ]
    return _table(head, rows)


def _figure(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "–" if value is None else str(value)
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else number(value)
