from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fit3d_cli.backbones.average import interpolate_state, moving_average
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.parts import Part, make_trainable, merge
from fit3d_cli.errors import WeightsError

NAME = "vit_small_patch14_dinov2.lvd142m"
Family = Callable[..., Backbone]
Pictures = Callable[[Backbone], Tensor]


def tuned_copy(backbone: Backbone, part: Part) -> Backbone:
    drawn = torch.Generator().manual_seed(0)
    parameters = make_trainable(backbone, part=part, rank=2, generator=drawn)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=drawn)
    merge(backbone)
    return backbone


def test_moving_average_is_the_recurrence_and_goes_on_after_a_pause() -> None:
    values = [{"w": torch.full((2,), float(v))} for v in (1, 2, 5)]
    average = {"w": torch.zeros(2)}
    for value in values:
        moving_average(average, value, 0.9)
    expected = 0.0
    for value in (1, 2, 5):
        expected = 0.9 * expected + 0.1 * value
    torch.testing.assert_close(average["w"], torch.full((2,), expected))
    paused = {"w": torch.zeros(2)}
    for value in values:
        paused = {"w": paused["w"].clone()}
        moving_average(paused, value, 0.9)
    assert torch.equal(paused["w"], average["w"])
    moving_average(average, {"w": torch.ones(2, dtype=torch.float64)}, 0.0)
    assert torch.equal(average["w"], torch.ones(2))


@pytest.mark.parametrize("part", ["full", "lora", "adapter", "swin"])
def test_interpolation_ends_at_base_and_tuned(
    family: Family, pictures: Pictures, part: Part
) -> None:
    base, tuned = family(NAME), tuned_copy(family(NAME), part)
    images = pictures(base)
    made = tuned_copy(family(NAME), part)
    with torch.no_grad():
        ends = base.tokens(images), tuned.tokens(images)
        assert not torch.equal(*ends)
        for alpha, end in enumerate(ends):
            made.load(interpolate_state(base.state(), tuned.state(), alpha))
            assert torch.equal(made.tokens(images), end)
        made.load(interpolate_state(base.state(), tuned.state(), 0.5))
        between = made.tokens(images)
    distance = [float((between - end).abs().mean()) for end in ends]
    apart = float((ends[0] - ends[1]).abs().mean())
    assert 0.1 * apart < min(distance) and max(distance) < 0.9 * apart
    if part == "adapter":  # linear in its weights
        torch.testing.assert_close(between, (ends[0] + ends[1]) / 2, rtol=0, atol=1e-5)


def test_state_and_load_are_strict(family: Family) -> None:
    base, adapted = family(NAME), tuned_copy(family(NAME), "adapter")
    assert adapted.state().keys() - base.state().keys() == {
        "adapter.conv.weight", "adapter.conv.bias",
    }  # fmt: skip
    with pytest.raises(ValueError, match="another backbone"):
        base.load(adapted.state())
    digest = base.weights_sha256
    base.load(tuned_copy(family(NAME), "full").state())
    assert base.weights_sha256 != digest


def test_other_architectures_are_refused(family: Family) -> None:
    base, other = family(NAME), family(NAME, depth=1)
    with pytest.raises(WeightsError, match=r"not of one architecture \(blocks.1"):
        interpolate_state(base.state(), other.state(), 0.5)
    wide = {key: torch.zeros(2) for key in base.state()}
    with pytest.raises(WeightsError, match="not of one architecture"):
        interpolate_state(base.state(), wide, 0.5)
    conv, swin = (tuned_copy(family(NAME), part) for part in ("adapter", "swin"))
    with pytest.raises(WeightsError, match="adapter"):
        interpolate_state(conv.state(), swin.state(), 0.5)
