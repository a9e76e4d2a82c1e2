"""The zero-shot matching tasks find the same places on the GPU as on the CPU."""

from __future__ import annotations

import pytest
import torch

from fit3d_cli.probing.matching_tasks.peaks import best_pixels
from fit3d_cli.probing.matching_tasks.poses import mutual_neighbours
from fit3d_cli.probing.matching_tasks.tracker import Tracker, TrackerRules

pytestmark = pytest.mark.gpu


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_peaks(device: torch.device) -> None:
    grid, queries = _random(60, 60, 384), _random(20, 384, seed=1)
    found = best_pixels(queries.to(device), grid.to(device), 840, 840)
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, best_pixels(queries, grid, 840, 840), atol=1.0, rtol=0)


def test_mutual_neighbours(device: torch.device) -> None:
    first, second = (
        torch.nn.functional.normalize(_random(n, 384, seed=n), dim=1) for n in (4000, 3000)
    )
    for ours, theirs in zip(
        mutual_neighbours(first.to(device), second.to(device)),
        mutual_neighbours(first, second),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_tracks(device: torch.device) -> None:
    world = _random(20, 40, 64)
    features = torch.stack([world[:, t : t + 30] for t in range(10)])
    rules = TrackerRules(radius=0.05, temperature=0.002, anchor=0.7, visible=0.6)
    places = (torch.rand(50, 2, generator=torch.Generator().manual_seed(2)) + 0.5) / 2
    frames = torch.arange(50) % 10
    there = Tracker(features.to(device), 2 / 3, rules).track(places, frames)
    here = Tracker(features, 2 / 3, rules).track(places, frames)
    near = (there.places - here.places).abs().amax(-1) < 1e-3
    assert near.float().mean() > 0.999
    assert (there.occluded == here.occluded).float().mean() > 0.99
