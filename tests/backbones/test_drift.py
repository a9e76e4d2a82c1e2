"""Drift of tokens, by hand."""

from __future__ import annotations

import pytest
import torch

from fit3d_cli.backbones.drift import Drift, token_drift


def test_by_hand() -> None:
    base = torch.tensor([[[3.0, 4.0], [0.0, 1.0]]])
    found = token_drift(base, torch.tensor([[[4.0, 3.0], [0.0, 2.0]]]))
    assert found is not None
    assert found.cosine == pytest.approx((24 / 25 + 1) / 2)
    assert found.norm_ratio == pytest.approx(7 / 6)
    assert token_drift(base, -2 * base) == Drift(pytest.approx(-1), pytest.approx(2))
    assert token_drift(base, torch.zeros(1, 2, 3)) is None
