"""The plan of an epoch is a pure function of the seed."""

from __future__ import annotations

from collections import Counter

import pytest

from fit3d_cli.finetuning.sampling import Draw, plan_epoch

SHAPES = [(64, 48), (64, 32), (64, 48)]
VIEWS = [(scene, view) for scene, count in enumerate((7, 5, 4)) for view in range(count)]


def plan(**changes: object) -> list[list[Draw]]:
    options = {"batch": 3, "flip": True, "seed": 0, "epoch": 0, **changes}
    return plan_epoch(VIEWS, SHAPES, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [1, 2, 3, 50])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_view_once_and_sizes_never_mixed(batch: int, epoch: int) -> None:
    batches = plan(batch=batch, epoch=epoch)
    drawn = Counter((draw.scene, draw.view) for chosen in batches for draw in chosen)
    assert drawn == Counter(VIEWS)
    for chosen in batches:
        assert 1 <= len(chosen) <= batch
        assert len({SHAPES[draw.scene] for draw in chosen}) == 1
    # Only the last batch of each size may be smaller, so all epochs have as many steps.
    smaller = [SHAPES[chosen[0].scene] for chosen in batches if len(chosen) < batch]
    assert len(smaller) == len(set(smaller))
    assert len(batches) == -(-11 // batch) + -(-5 // batch)


def test_scenes_of_one_size_share_batches() -> None:
    assert any(len({draw.scene for draw in chosen}) > 1 for chosen in plan())


def test_plan_is_deterministic_and_differs_by_seed_and_epoch() -> None:
    assert plan() == plan()
    assert len({str(plan(seed=s, epoch=e)) for s in range(3) for e in range(3)}) == 9


def test_about_half_is_mirrored() -> None:
    flips = [draw.flip for epoch in range(40) for chosen in plan(epoch=epoch) for draw in chosen]
    # 640 fair coins: a deviation of 5 standard deviations is 63.
    assert abs(sum(flips) - 320) < 63
    assert not any(draw.flip for chosen in plan(flip=False) for draw in chosen)
    # Mirroring or not, the order is the same.
    pairs = [[(d.scene, d.view) for d in chosen] for chosen in plan()]
    assert pairs == [[(d.scene, d.view) for d in chosen] for chosen in plan(flip=False)]
