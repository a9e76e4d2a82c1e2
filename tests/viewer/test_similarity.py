"""Codes against decoded tokens, and what a point or a view says."""

from __future__ import annotations

import pytest
import torch

from fit3d_cli.scene import Scene
from fit3d_cli.viewer.seen import seen_features
from fit3d_cli.viewer.similarity import affine, feature_at, make_codes, point_scores


def test_cosines_are_those_of_decoded_constant_maps(scene: Scene) -> None:
    maps = scene.features[:, None, None].expand(-1, 3, 3, -1)
    tokens = scene.decoder(maps)[:, 1, 1].double()
    rows = torch.cat([scene.features.double(), torch.ones(len(tokens), 1)], 1)
    assert torch.allclose(rows @ affine(scene.decoder).T, tokens, atol=1e-5)
    unit = torch.nn.functional.normalize(tokens, dim=1)
    codes = make_codes(scene.features, scene.decoder)
    assert codes.rows.shape == (len(tokens), 5)
    for index in (0, 100, 200):
        code = codes.encode(scene.features[index, None])[0]
        assert torch.allclose(codes.cosines(code).double(), unit @ unit[index], atol=1e-5)


def test_more_lifted_than_token_channels(scene: Scene) -> None:
    from fit3d_cli.decoders import Decoder

    narrow = Decoder(scene.decoder.weight[:3], scene.decoder.bias[:3])
    codes = make_codes(scene.features, narrow)
    tokens = narrow(scene.features[:, None, None].expand(-1, 3, 3, -1))[:, 1, 1]
    unit = torch.nn.functional.normalize(tokens, dim=1)
    assert torch.allclose(codes.rows @ codes.rows[7], unit @ unit[7], atol=1e-5)


def test_feature_at_a_point(scene: Scene) -> None:
    red = feature_at(scene.gaussians, scene.features, torch.tensor([-0.7, 0.0, 3.0]))
    blue = feature_at(scene.gaussians, scene.features, torch.tensor([0.7, 0.0, 4.0]))
    assert torch.allclose(red, torch.tensor([2.0, 0, 0, 0]), atol=0.15)
    assert torch.allclose(blue, torch.tensor([0, 2.0, 0, 0]), atol=0.15)
    # On a lone Gaussian's centre it is that Gaussian's; far away the nearest ones speak.
    one = scene.gaussians.select(torch.tensor([5]))
    assert torch.allclose(feature_at(one, scene.features[5:6], one.means[0]), scene.features[5])
    far = feature_at(scene.gaussians, scene.features, torch.tensor([-50.0, 0, 3]))
    assert torch.allclose(far, torch.tensor([2.0, 0, 0, 0]), atol=0.3)


def test_scores(scene: Scene) -> None:
    codes = make_codes(scene.features, scene.decoder)
    red, blue = codes.rows[10], codes.rows[-10]
    half = len(codes.rows) // 2
    like = point_scores(codes, [red], [])
    assert float(like[:half].min()) > float(like[half:].max())
    both = point_scores(codes, [red, blue], [])
    assert torch.equal(both, torch.maximum(like, codes.cosines(blue)))
    without = point_scores(codes, [red, blue], [blue])
    assert float(without[:half].mean()) > float(without[half:].mean()) + 0.1
    assert torch.allclose(point_scores(codes, [], [red]), -like)


def test_seen_features_even_out_what_no_view_shows(scene: Scene) -> None:
    seen = seen_features(scene)
    half = len(seen) // 2
    truth = torch.zeros_like(seen)
    truth[:half, 0], truth[half:, 1] = 2.0, 2.0
    before = (scene.features - truth).norm(dim=1).mean()
    after = (seen - truth).norm(dim=1)
    assert float(after.median()) < 0.6 * float(before)


def test_unseen_gaussians_keep_their_features(scene: Scene) -> None:
    from dataclasses import replace

    behind = scene.gaussians.means * torch.tensor([1.0, 1, -1])
    hidden = replace(scene, gaussians=replace(scene.gaussians, means=behind))
    assert torch.equal(seen_features(hidden), scene.features)


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_constant_features_stay(scene: Scene, constant: float) -> None:
    from dataclasses import replace

    flat = replace(scene, features=torch.full_like(scene.features, constant))
    assert torch.allclose(seen_features(flat), flat.features, atol=1e-4)
