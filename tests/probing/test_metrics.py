import math

import numpy as np
import pytest
import torch

from fit3d_cli.probing.losses import sig_loss
from fit3d_cli.probing.metrics import (
    DEPTH_METRICS,
    class_counts,
    depth_metrics,
    image_segmentation,
    split_segmentation,
)


def figures(counts: torch.Tensor) -> dict[str, float]:
    """Figures of a split with one picture."""
    pooled = split_segmentation(counts[None].double())
    return {name: float(one.reduce(one.sums.sum(0))) for name, one in pooled.items()}


def test_class_counts_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 3, 255], (7, 9))
    predicted = rng.integers(0, 4, (7, 9))
    expected = np.zeros((3, 4), int)
    for true, said in zip(labels.flat, predicted.flat, strict=True):
        if true != 255:
            expected[0, true] += true == said
            expected[1, true] += 1
            expected[2, said] += 1
    counts = class_counts(torch.from_numpy(predicted), torch.from_numpy(labels), 4, 255)
    assert np.array_equal(counts.numpy(), expected)


def test_segmentation_figures_by_hand() -> None:
    # Class 0: 3 hits, 1 taken for class 1. Class 1: 2 hits. Class 2 never occurs nor is said.
    metrics = figures(torch.tensor([[3, 2, 0], [4, 2, 0], [3, 3, 0]]))
    assert metrics["miou"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert metrics["macc"] == pytest.approx((3 / 4 + 1) / 2)
    assert metrics["aacc"] == pytest.approx(5 / 6)


def test_a_class_that_is_only_said_costs_miou_but_not_macc() -> None:
    counts = torch.tensor([[3, 4, 0], [4, 4, 0], [3, 4, 1]])
    metrics = figures(counts)
    assert metrics["miou"] == pytest.approx((3 / 4 + 1 + 0) / 3)
    assert metrics["macc"] == pytest.approx((3 / 4 + 1) / 2)
    assert image_segmentation(counts)["image_miou"] == pytest.approx((3 / 4 + 1) / 2)
    assert image_segmentation(counts)["image_acc"] == pytest.approx(7 / 8)


def test_depth_figures_by_hand() -> None:
    metrics = depth_metrics(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 2.0]))
    assert metrics["abs_rel"] == pytest.approx(0.5)
    assert metrics["sq_rel"] == pytest.approx(0.5)
    assert metrics["rmse"] == pytest.approx(math.sqrt(0.5))
    assert metrics["rmse_log"] == pytest.approx(math.log(2) / math.sqrt(2))
    assert metrics["log10"] == pytest.approx(math.log10(2) / 2)
    assert metrics["silog"] == pytest.approx(100 * math.log(2) / 2)
    assert (metrics["delta1"], metrics["delta2"], metrics["delta3"]) == (0.5, 0.5, 0.5)


def test_depth_figures_against_numpy() -> None:
    rng = np.random.default_rng(1)
    truth = rng.uniform(0.5, 5, 400)
    guess = truth * rng.lognormal(0.05, 0.25, 400)
    metrics = depth_metrics(torch.from_numpy(guess), torch.from_numpy(truth))
    log = np.log(guess) - np.log(truth)
    assert metrics["silog"] == pytest.approx(100 * log.std())
    assert metrics["rmse"] == pytest.approx(np.sqrt(np.mean((guess - truth) ** 2)))
    ratio = np.maximum(guess / truth, truth / guess)
    for n in (1, 2, 3):
        assert metrics[f"delta{n}"] == pytest.approx((ratio < 1.25**n).mean())
    assert metrics["delta1"] < metrics["delta2"] <= metrics["delta3"]


def test_a_perfect_guess_has_no_error() -> None:
    truth = torch.linspace(0.5, 4, 50)
    metrics = depth_metrics(truth, truth)
    assert set(metrics) == set(DEPTH_METRICS)
    assert all(v == (1 if k.startswith("delta") else 0) for k, v in metrics.items())


def test_sig_loss_forgives_most_of_a_common_scale() -> None:
    truth = torch.linspace(1, 5, 100)
    scaled = sig_loss(truth * 1.3, truth)
    assert float(scaled) == pytest.approx(math.sqrt(0.15) * math.log(1.3), rel=0.01)
    noisy = truth * torch.exp(0.3 * torch.tensor([1.0, -1.0]).repeat(50))
    assert sig_loss(noisy, truth) > sig_loss(noisy, truth, warm_up=True)
    assert float(sig_loss(truth, truth)) < 1e-5
    guess = truth.clone().requires_grad_(True)
    torch.autograd.backward(sig_loss(guess, truth))
    assert guess.grad is not None and torch.isfinite(guess.grad).all()
