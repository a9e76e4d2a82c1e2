import math

import pytest
import torch
from torch import Tensor, nn

from fit3d_cli.geometry.grids import interpolate
from fit3d_cli.probing import prediction
from fit3d_cli.probing.heads import DepthHead, Fusion, SegHead
from fit3d_cli.probing.prediction import predict_depth, predict_labels
from fit3d_cli.probing.training import Plan, draw_pixels


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def expected_logits(head: SegHead, rows: Tensor) -> Tensor:
    """torch's batch normalisation and convolution with the weights of a head."""
    norm = nn.BatchNorm1d(6)
    convolution = nn.Conv2d(6, 4, 1)
    with torch.no_grad():
        norm.weight.copy_(head.norm.weight)
        norm.bias.copy_(head.norm.bias)
        convolution.weight.copy_(head.weight[:, :, None, None])
        assert convolution.bias is not None
        convolution.bias.copy_(head.bias)
    found: Tensor = convolution(norm(rows).T[None, :, :, None])[0, :, :, 0].T
    return found


@pytest.mark.parametrize("known", [True, False])
def test_seg_head_is_batch_norm_and_a_convolution(known: bool) -> None:
    rows = torch.randn(500, 6, generator=generator()) * 3 + 1
    statistics = (rows.mean(0), rows.var(0, unbiased=False)) if known else None
    head = SegHead(6, 4, statistics=statistics, generator=generator())
    with torch.no_grad():
        head.norm.weight.uniform_(0.5, 2)
        head.norm.bias.uniform_(-1, 1)
        head.bias.uniform_(-1, 1)
    expected = expected_logits(head, rows)
    torch.testing.assert_close(head(rows), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(head(rows.reshape(4, 5, 25, 6)), expected.reshape(4, 5, 25, 4),
                               atol=1e-4, rtol=1e-4)  # fmt: skip
    # Known statistics hold for any batch; estimated ones are the running mean at the end.
    other = torch.randn(50, 6, generator=generator())
    if known:
        before = head(other)
        assert head.norm.running_mean is not None
        assert torch.equal(head.norm.running_mean, rows.mean(0))
        head.eval()
        torch.testing.assert_close(head(other), before)
    else:
        before = head(other)
        head.eval()
        assert not torch.allclose(head(other), before)


def test_fusion_maps_the_joined_channels_and_keeps_the_class_token() -> None:
    fusion = Fusion(6, 3, generator=generator())
    tokens = torch.randn(2, 5, 8, generator=generator())
    fused = fusion(tokens)
    assert fused.shape == (2, 5, 5)
    torch.testing.assert_close(fused[..., :3], tokens[..., :6] @ fusion.weight.T + fusion.bias)
    assert torch.equal(fused[..., 3:], tokens[..., 6:])
    head = DepthHead(5, 4, 1.0, 2.0, fusion=fusion, generator=generator())
    torch.autograd.backward(head(tokens).sum())
    assert fusion.weight.grad is not None and float(fusion.weight.grad.abs().sum()) > 0


def test_heads_commute_with_interpolation() -> None:
    grid = torch.randn(4, 5, 6, generator=generator())
    places = torch.rand(40, 2, generator=generator())
    head = SegHead(6, 3, statistics=(torch.ones(6), torch.full((6,), 4.0)), generator=generator())
    torch.testing.assert_close(head(interpolate(grid, places)), interpolate(head(grid), places))


def test_depth_is_the_expectation_over_bins() -> None:
    head = DepthHead(2, 4, 1.0, 4.0, generator=generator())
    logits = torch.tensor([[-1.0, 0.0, 2.0, 0.4]])
    mass = [0.1, 0.1, 2.1, 0.5]
    expected = sum(m * b for m, b in zip(mass, (1, 2, 3, 4), strict=True)) / sum(mass)
    assert float(head.decode(logits)) == pytest.approx(expected)
    far = head(torch.randn(100, 2, generator=generator()) * 1e4)
    assert far.min() >= 1 and far.max() <= 4


@pytest.mark.parametrize("held", [1, 16 * 170, 1 << 26])  # one class at a time, sixteen, all
def test_labels_are_the_arg_max_of_enlarged_logits_over_any_number_of_classes(
    monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(prediction, "_CHUNK_VALUES", held)
    head = SegHead(5, 37, statistics=(torch.zeros(5), torch.ones(5)), generator=generator())
    grid = torch.randn(3, 4, 5, generator=generator())
    logits = nn.functional.interpolate(
        head(grid).permute(2, 0, 1)[None], size=(10, 17), mode="bilinear", align_corners=False
    )
    assert torch.equal(predict_labels(head, grid, 10, 17), logits[0].argmax(0))


def test_depth_prediction_has_the_size_of_the_truth() -> None:
    head = DepthHead(5, 8, 0.5, 2.0, generator=generator())
    same = predict_depth(head, torch.ones(3, 4, 5), 11, 9)
    assert same.shape == (11, 9)
    torch.testing.assert_close(same, head(torch.ones(5)).expand(11, 9))


def test_pixels_are_drawn_from_the_valid_ones_at_their_centres() -> None:
    labels = torch.arange(20).reshape(4, 5)
    valid = labels % 3 == 0
    pixels = draw_pixels(labels, valid, generator())
    assert pixels is not None
    assert set(pixels.targets.tolist()) <= {0, 3, 6, 9, 12, 15, 18}
    column = (pixels.places[:, 0] * 5 - 0.5).round().long()
    row = (pixels.places[:, 1] * 4 - 0.5).round().long()
    assert torch.equal(labels[row, column], pixels.targets)
    assert draw_pixels(labels, torch.zeros(4, 5, dtype=torch.bool), generator()) is None


def shape(plan: Plan) -> Tensor:
    return torch.tensor([plan.factor(step) for step in range(plan.steps)])


def test_schedules_rise_and_fall() -> None:
    linear = shape(Plan(100, 1, 1.0, 0.0, 0.1, "linear"))
    assert linear[9] == 1 and linear[0] == pytest.approx(0.1)
    assert torch.all(linear[10:].diff() < 0) and linear[-1] < 0.02
    torch.testing.assert_close(linear[10:].diff().diff(), torch.zeros(88), atol=1e-6, rtol=0)
    cosine = shape(Plan(90, 1, 1.0, 0.0, 1 / 3, "cosine"))
    assert cosine[29] == 1
    assert cosine[60] == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)), abs=1e-6)
    assert shape(Plan(1, 1, 1.0, 0.0, 1 / 3, "cosine")).tolist() == [1.0]
