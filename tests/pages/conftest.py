"""Reports of every kind, hostile ones too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from fit3d_cli.pages.pictures import Shown
from fit3d_cli.report import Figure, Report
from fit3d_cli.statistics import Measured, make_rows
from tests.pages.reading import Reader


@pytest.fixture
def read() -> type[Reader]:
    return Reader


@pytest.fixture
def show() -> Callable[[int], Sequence[Shown]]:
    def pictures(index: int) -> list[Shown]:
        pixels = np.random.default_rng(index).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        return [Shown("photo", pixels, photo=True), Shown("labels", pixels), Shown("base", pixels)]

    return pictures


@pytest.fixture(name="make_report", scope="session")
def _make_report() -> Callable[..., Report]:
    return make_report


def make_report(
    task: str = "seg", shift: float = 0.05, count: int = 40,
    models: Sequence[str] = ("base", "tuned", "concat"), items: Sequence[str] = (),
) -> Report:  # fmt: skip
    rng = np.random.default_rng(5)
    base = rng.uniform(0.2, 0.6, count)
    noise = rng.normal(0, 0.02, count)
    metric = {"seg": "image_miou", "depth": "rmse", "corr": "recall@1patch", "cls": "top1"}[task]
    samples = {
        model: base + (shift + noise - noise.mean() if number else 0) / max(1, number)
        for number, model in enumerate(models)
    }
    if task == "cls":
        samples = {model: (values > 0.4).astype(float) for model, values in samples.items()}
    rows = make_rows({
        model: Measured({metric: values.tolist(), "loss": (values / 2).tolist()})
        for model, values in samples.items()
    })  # fmt: skip
    drift = {"cosine": Figure(0.75, 24, 0.7, 0.8), "norm_ratio": Figure(1.25, 24, 1.2, 1.3)}
    return Report(
        task, "office", rows, count, "pairs" if task == "corr" else "images",
        {"steps": 7, "backbone": {"name": "vit"}}, ("A note.",), drift, 3,
        tuple(items) or tuple(f"view {i:03d}.png" for i in range(count)),
    )  # fmt: skip
