"""The parts of the comparison page, each from values to HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fit3d_cli.comparing.forest import forest, reach
from fit3d_cli.comparing.html import Markup, Node, el, without_paths
from fit3d_cli.comparing.metrics import metric, number, signed
from fit3d_cli.comparing.pictures import FeaturePicture
from fit3d_cli.comparing.verdict import (
    Comparison,
    basis,
    best_models,
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


def verdict(
    reports: Sequence[Report], pictures: Sequence[FeaturePicture], *, seed: int
) -> list[Markup]:
    """The answer in words, then one row per task."""
    parts: list[Markup] = []
    for model in _others(reports):
        parts.append(el("p", tally(reports, model, seed=seed), class_="lead"))
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
        parts.append(_verdict_table(reports, seed))
        parts.append(
            el(
                "p",
                "A difference counts when its paired 95 % bootstrap interval over the images does "
                "not cover zero; otherwise it is within noise. The interval covers the choice of "
                "test images, not the randomness of training.",
                class_="small soft",
            )
        )  # fmt: skip
    drifts = [picture.drift for picture in pictures if picture.drift]
    if drifts:
        cosine = sum(d.cosine for d in drifts) / len(drifts)
        ratio = sum(d.norm_ratio for d in drifts) / len(drifts)
        parts.append(
            el(
                "p",
                f"How far tuning moved the features on the pictures below: mean cosine similarity "
                f"{number(cosine)} to the base's, {number(ratio)} times their length.",
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


def _headline_comparisons(report: Report, seed: int) -> list[Comparison]:
    judged = headline(report)
    name = judged.name if judged else ""
    return [c for c in comparisons(report, seed=seed) if c.metric.name == name]


def _verdict_table(reports: Sequence[Report], seed: int) -> Markup:
    models: list[str] = []
    for report in reports:
        models += [row.model for row in report.rows if row.model not in models]
    rows = []
    for report in reports:
        judged = headline(report)
        if judged is None:
            continue
        best = best_models(report, judged.name)
        by_model = {c.model: c for c in _headline_comparisons(report, seed)}
        values = {row.model: row.metrics.get(judged.name) for row in report.rows}
        cells: list[Node] = [el("td", task_title(report))]
        cells.append(el("td", f"{judged.label} {judged.arrow}", class_="words"))
        for model in models:
            value, found = values.get(model), by_model.get(model)
            cells.append(
                el(
                    "td",
                    number(value) if value is not None else "–",
                    el("span", f"{signed(found.difference)} {found.outcome}",
                       class_=f"delta {found.outcome.replace(' ', '-')}") if found else None,
                    class_="best" if model in best else None,
                )
            )  # fmt: skip
        named = [model for model in models if model in best]
        cells.append(el("td", " and ".join(named) or "–", class_="words"))
        rows.append(el("tr", cells))
    head = el(
        "tr", el("th", "Task"), el("th", "Judged by", class_="words"),
        [el("th", model) for model in models], el("th", "Best", class_="words"),
    )  # fmt: skip
    return _table(head, rows)


def _table(head: Markup, rows: Sequence[Markup]) -> Markup:
    return el("div", el("table", el("thead", head), el("tbody", rows)), class_="scroll")


def report_card(report: Report, *, seed: int) -> Markup:
    """One probe: figures of every model, the claims they support, notes and settings."""
    names: list[str] = []
    for row in report.rows:
        names += [name for name in row.metrics if name not in names]
    metrics = [metric(name) for name in names]
    best = {name: best_models(report, name) for name in names}
    head = el("tr", el("th", "Model"), [el("th", f"{m.label} {m.arrow}".strip()) for m in metrics])
    rows = [
        el(
            "tr",
            el("td", row.model),
            [
                el("td", number(row.metrics[m.name]) if m.name in row.metrics else "–",
                   class_="best" if row.model in best[m.name] else None)
                for m in metrics
            ],
        )
        for row in report.rows
    ]  # fmt: skip
    every = comparisons(report, seed=seed)
    judged = _headline_comparisons(report, seed)
    half = reach(judged)
    claims = [el("li", _badge(c), el("p", sentence(c)), forest(c, half)) for c in judged]
    return el(
        "section",
        el("h3", task_title(report)),
        el("p", f"{report.count} images", class_="small soft"),
        _table(head, rows),
        el("ul", claims, class_="claims") if claims else None,
        [el("p", f"Note: {without_paths(note)}", class_="small soft") for note in report.notes],
        _all_differences(every) if len(every) > len(judged) else None,
        _settings_details(report.settings),
        class_="card",
    )  # fmt: skip


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
