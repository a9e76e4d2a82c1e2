from __future__ import annotations

import pytest
import torch

from benchmarks import scenes
from benchmarks.options import Setup
from benchmarks.rivals import lists, pairs, raster, shrink
from benchmarks.splat import Case, difference
from benchmarks.targets import Case as TargetCase
from fit3d_cli.splat.reference import blend_weights, project

RIVALS = sorted(raster.RIVALS)


@pytest.mark.parametrize("name", RIVALS)
def test_rival_draws_our_picture(case: Case, name: str) -> None:
    drawn = raster.forward(case.scene.inputs, case.view, raster.RIVALS[name])
    assert difference(drawn, case.forward())["max"] < 1e-5


@pytest.mark.parametrize("name", RIVALS)
def test_rival_finds_our_gradients(case: Case, name: str) -> None:
    blend = raster.RIVALS[name]
    values = raster.step(case.scene.inputs, case.view, case.upstream, blend, geometry=False)
    assert all(grad is None for grad in values[:4])
    assert difference(values, case.features(case.weights()))["max"] < 1e-5
    whole = raster.step(case.scene.inputs, case.view, case.upstream, blend, geometry=True)
    assert difference(whole, case.full())["max"] < 1e-4


@pytest.mark.parametrize("name", RIVALS)
def test_rival_obeys_the_reference(name: str) -> None:
    """Against the dense definition, with a picture that is no multiple of the tile."""
    setup = Setup(quick=True, synthetic=300, width=37, height=29, dim=3, threads=1)
    scene = scenes.room(300, setup)
    view = scene.view(0)
    i = scene.inputs
    flat = project(i.means, i.quats, i.scales, i.opacities, view)
    dense = blend_weights(flat, i.opacities, view.width, view.height).weights
    expected = (dense @ i.values).reshape(view.height, view.width, 3)
    drawn = raster.forward(i, view, raster.RIVALS[name])
    assert difference(drawn, expected)["max"] < 1e-5
    with torch.no_grad():
        own = lists.project(i, view)
        found = lists.bin_tiles(own, view.width, view.height)
    assert pairs.count(own, found, view) == int((dense > 0).sum())


def test_a_wrong_picture_is_noticed(case: Case) -> None:
    expected = case.forward()
    wrong = expected.clone()
    wrong[0, 0] += 0.01 * expected.abs().max()
    found = difference(wrong, expected)
    assert found["max"] > 9e-3
    assert found["beyond"] == pytest.approx(1 / expected[..., 0].numel())


def test_shrinking_decoded_pixels_is_decoding_tokens(quick: Setup) -> None:
    case = TargetCase(scenes.load(quick), 3, 24, seed=1)
    exact = case.exact()
    assert float((case.shrink() - exact).abs().max()) < 1e-5
    assert float((case.fresh() - exact).abs().max()) < 1e-5
    assert torch.equal(case.again(), case.fresh())
    # Taps that reach the next pixel, as FiT3D's do, give other numbers.
    narrow = torch.nn.functional.conv2d(
        case.pixels().permute(2, 0, 1)[None], case.decoder.weight, case.decoder.bias, padding=1
    )
    pooled = torch.nn.functional.avg_pool2d(narrow, case.patch)[0].permute(1, 2, 0)
    assert float((pooled - exact).abs().max()) > 1e-2
    assert shrink.decode_and_shrink(case.pixels(), case.decoder, case.patch).shape == exact.shape
