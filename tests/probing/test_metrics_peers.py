"""Our figures beside torchmetrics' and scikit-learn's, on random and on edge inputs."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fit3d_cli.backbones.torchvision_shim import allow_broken_torchvision
from fit3d_cli.probing.metrics import (
    class_counts,
    depth_metrics,
    image_segmentation,
    split_segmentation,
)

allow_broken_torchvision()  # torchmetrics imports torchvision where it is installed
classification: Any = pytest.importorskip("torchmetrics.functional.classification")
regression: Any = pytest.importorskip("torchmetrics.functional.regression")
sklearn: Any = pytest.importorskip("sklearn.metrics")

IGNORE = 255
Array = NDArray[np.int64]


def case(name: str, classes: int = 5) -> tuple[list[Array], list[Array]]:
    """Predictions and labels of three pictures."""
    rng = np.random.default_rng(sum(map(ord, name)))
    labels = [rng.integers(0, classes, (8, 9)) for _ in range(3)]
    said = [np.where(rng.random((8, 9)) < 0.6, one, rng.integers(0, classes, (8, 9)))
            for one in labels]  # fmt: skip
    if name == "holes":
        for one in labels:
            one[rng.random((8, 9)) < 0.3] = IGNORE
    if name == "absent class":  # neither there nor said
        labels, said = ([np.where(one == 3, 0, one) for one in some] for some in (labels, said))
    if name == "class only said":
        labels = [np.where(one == 3, 0, one) for one in labels]
    if name == "class only there":
        said = [np.where(one == 3, 0, one) for one in said]
    if name == "one class":
        labels = [np.full((8, 9), 2) for _ in labels]
    if name == "one class, never said":
        labels, said = [np.full((8, 9), 2) for _ in labels], [np.full((8, 9), 1) for _ in said]
    if name == "one picture ignored":
        labels[1][:] = IGNORE
    return said, labels


CASES = ("random", "holes", "absent class", "class only said", "class only there", "one class",
         "one class, never said", "one picture ignored")  # fmt: skip


def ours(said: list[Array], labels: list[Array], classes: int = 5) -> dict[str, float]:
    """Figures of the split."""
    counts = [
        class_counts(torch.from_numpy(p), torch.from_numpy(t), classes, IGNORE).double()
        for p, t in zip(said, labels, strict=True)
    ]
    pooled = split_segmentation(torch.stack(counts))
    return {name: float(one.reduce(one.sums.sum(0))) for name, one in pooled.items()}


@pytest.mark.parametrize("name", CASES)
def test_segmentation_figures_are_those_of_torchmetrics_and_scikit_learn(name: str) -> None:
    said, labels = case(name)
    found = ours(said, labels)
    p, t = (torch.from_numpy(np.stack(some)) for some in (said, labels))
    flat_p, flat_t = p[t != IGNORE].numpy(), t[t != IGNORE].numpy()
    jaccard = classification.multiclass_jaccard_index(
        p, t, num_classes=5, average="macro", ignore_index=IGNORE
    )
    assert found["miou"] == pytest.approx(float(jaccard))
    # Classes that are there or said, which are scikit-learn's default labels.
    assert found["miou"] == pytest.approx(
        sklearn.jaccard_score(flat_t, flat_p, average="macro", zero_division=0)
    )
    micro = classification.multiclass_accuracy(
        p, t, num_classes=5, average="micro", ignore_index=IGNORE
    )
    assert found["aacc"] == pytest.approx(float(micro))
    assert found["aacc"] == pytest.approx(sklearn.accuracy_score(flat_t, flat_p))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class that is only said
        assert found["macc"] == pytest.approx(sklearn.balanced_accuracy_score(flat_t, flat_p))


@pytest.mark.parametrize("name", CASES)
def test_figures_of_one_picture_average_over_the_classes_that_are_there(name: str) -> None:
    said, labels = case(name)
    for p, t in zip(said, labels, strict=True):
        counts = class_counts(torch.from_numpy(p), torch.from_numpy(t), 5, IGNORE)
        found = image_segmentation(counts)
        used = t != IGNORE
        if not used.any():
            assert math.isnan(found["image_miou"]) and math.isnan(found["image_acc"])
            continue
        there = np.unique(t[used])
        expected = sklearn.jaccard_score(t[used], p[used], labels=there, average="macro")
        assert found["image_miou"] == pytest.approx(expected)
        assert found["image_acc"] == pytest.approx(sklearn.accuracy_score(t[used], p[used]))


def test_nothing_labelled_has_no_figures() -> None:
    empty = [np.full((4, 5), IGNORE)]
    assert all(math.isnan(value) for value in ours([np.zeros((4, 5), np.int64)], empty).values())
    none = np.zeros((0, 0), np.int64)
    assert all(math.isnan(value) for value in ours([none], [none]).values())


@pytest.mark.parametrize("kind", ["random", "perfect", "one pixel", "constant", "far off"])
def test_depth_figures_are_those_of_torchmetrics_and_scikit_learn(kind: str) -> None:
    rng = np.random.default_rng(3)
    truth = rng.uniform(0.3, 9, 500)
    guess = truth * rng.lognormal(0.1, 0.3, 500)
    if kind == "perfect":
        guess = truth.copy()
    if kind == "one pixel":
        truth, guess = truth[:1], guess[:1]
    if kind == "constant":
        truth, guess = np.full(50, 2.0), np.full(50, 3.0)
    if kind == "far off":
        guess = np.full(500, 1e-3)
    found = depth_metrics(torch.from_numpy(guess), torch.from_numpy(truth))
    p, t = torch.from_numpy(guess), torch.from_numpy(truth)
    error = regression.mean_squared_error
    assert found["rmse"] == pytest.approx(float(error(p, t, squared=False)), rel=1e-6)
    assert found["rmse"] == pytest.approx(sklearn.root_mean_squared_error(truth, guess))
    relative = regression.mean_absolute_percentage_error(p, t)
    assert found["abs_rel"] == pytest.approx(float(relative), rel=1e-6)
    assert found["abs_rel"] == pytest.approx(sklearn.mean_absolute_percentage_error(truth, guess))
    logs = np.log(guess), np.log(truth)
    assert found["rmse_log"] == pytest.approx(sklearn.root_mean_squared_error(*logs))
    tens = np.log10(guess), np.log10(truth)
    assert found["log10"] == pytest.approx(sklearn.mean_absolute_error(*tens))
    assert found["sq_rel"] == pytest.approx(np.mean((guess - truth) ** 2 / truth))
    # The spread of the log error; sqrt magnifies rounding at 0.
    assert found["silog"] == pytest.approx(100 * np.std(logs[0] - logs[1]), abs=1e-5)
    ratio = np.maximum(guess / truth, truth / guess)
    for power in (1, 2, 3):
        inside = sklearn.accuracy_score(np.ones(len(ratio), bool), ratio < 1.25**power)
        assert found[f"delta{power}"] == pytest.approx(inside)
