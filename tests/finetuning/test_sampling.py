"""The plan of an epoch is a pure function of the seed."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from fit3d_cli.finetuning.sampling import Draw, draw_seed, jitter, plan_epoch

SHAPES = [(64, 48), (64, 32), (64, 48)]
VIEWS = [(scene, view) for scene, count in enumerate((7, 5, 4)) for view in range(count)]
# Every view may go with its two neighbours, but the last view of a scene with none.
PARTNERS = [
    [] if view == (7, 5, 4)[scene] - 1 else [v for v in (view - 1, view + 1) if v >= 0]
    for scene, view in VIEWS
]


def plan(**changes: object) -> list[list[Draw]]:
    options = {"batch": 3, "flip": True, "seed": 0, "epoch": 0, **changes}
    return plan_epoch(VIEWS, SHAPES, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [1, 2, 3, 50])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_view_once_and_sizes_never_mixed(batch: int, epoch: int) -> None:
    batches = plan(batch=batch, epoch=epoch)
    drawn = Counter((draw.scene, draw.view) for chosen in batches for draw in chosen)
    assert drawn == Counter(VIEWS)
    assert all(draw.partner is None and draw.views == 1 for chosen in batches for draw in chosen)
    for chosen in batches:
        assert 1 <= len(chosen) <= batch
        assert len({SHAPES[draw.scene] for draw in chosen}) == 1
    # Only the last batch of each size may be smaller, so all epochs have as many steps.
    smaller = [SHAPES[chosen[0].scene] for chosen in batches if len(chosen) < batch]
    assert len(smaller) == len(set(smaller))
    assert len(batches) == -(-11 // batch) + -(-5 // batch)


@pytest.mark.parametrize(("batch", "anchors"), [(2, 1), (3, 1), (4, 2), (50, 25)])
def test_half_of_a_batch_brings_partners(batch: int, anchors: int) -> None:
    batches = plan(batch=batch, partners=PARTNERS)
    drawn = Counter((draw.scene, draw.view) for chosen in batches for draw in chosen)
    assert drawn == Counter(VIEWS), "every view is an anchor once"
    assert max(map(len, batches)) <= anchors
    assert all(sum(draw.views for draw in chosen) <= batch for chosen in batches)
    known = dict(zip(VIEWS, PARTNERS, strict=True))
    for draw in (draw for chosen in batches for draw in chosen):
        allowed = known[draw.scene, draw.view]
        assert draw.partner in allowed if allowed else draw.partner is None


def test_all_partners_get_their_turn() -> None:
    seen = Counter(
        draw.partner
        for epoch in range(60)
        for chosen in plan(epoch=epoch, partners=PARTNERS)
        for draw in chosen
        if (draw.scene, draw.view) == (0, 2)
    )
    # 60 fair coins: a deviation of 5 standard deviations is 19.
    assert set(seen) == {1, 3} and abs(seen[1] - 30) < 19


def test_scenes_of_one_size_share_batches() -> None:
    assert any(len({draw.scene for draw in chosen}) > 1 for chosen in plan())


def test_plan_is_deterministic_and_differs_by_seed_and_epoch() -> None:
    assert plan() == plan()
    orders = {
        str([[(d.scene, d.view) for d in chosen] for chosen in plan(seed=s, epoch=e)])
        for s in range(3)
        for e in range(3)
    }
    assert len(orders) == 9


def test_about_half_is_mirrored() -> None:
    draws = [
        draw
        for epoch in range(40)
        for chosen in plan(epoch=epoch, partners=PARTNERS)
        for draw in chosen
    ]
    # 640 fair coins: a deviation of 5 standard deviations is 63.
    assert abs(sum(draw.flip for draw in draws) - 320) < 63
    assert abs(sum(draw.flip_partner for draw in draws) - 320) < 63
    assert 200 < sum(draw.flip != draw.flip_partner for draw in draws) < 440
    still = plan(flip=False, partners=PARTNERS)
    assert not any(draw.flip or draw.flip_partner for chosen in still for draw in chosen)
    # Mirroring or not, order and partners are the same.
    pairs = [[(d.scene, d.view, d.partner) for d in c] for c in plan(partners=PARTNERS)]
    assert pairs == [[(d.scene, d.view, d.partner) for d in chosen] for chosen in still]


def test_no_draw_is_ever_repeated() -> None:
    """3DCorrEnhance's workers were seeded alike in every epoch: 100 pairs for 100 epochs."""
    seeds = [d.seed for e in range(200) for chosen in plan(epoch=e) for d in chosen]
    assert len(set(seeds)) == len(seeds) == 200 * len(VIEWS)
    # The seeds differ in what torch's CPU generator looks at: 32 bits.
    assert all(0 <= seed < 2**32 for seed in seeds)
    first = torch.rand(2, generator=torch.Generator().manual_seed(5))
    wrapped = torch.rand(2, generator=torch.Generator().manual_seed(5 + 2**32))
    assert torch.equal(first, wrapped), "torch looks at more bits now: draw_seed may use them"


def test_seeds_are_a_bijection_of_the_count() -> None:
    """Epochs and positions count the draws; the count is scrambled without collisions."""
    views = 97
    seeds = [draw_seed(3, epoch, p, views) for epoch in range(300) for p in range(views + 1)]
    assert len(set(seeds)) == len(seeds)
    # They look random: each bit is set in about half of them (5 standard deviations).
    for bit in range(32):
        share = sum(seed >> bit & 1 for seed in seeds)
        assert abs(share - len(seeds) / 2) < 2.5 * len(seeds) ** 0.5
    assert draw_seed(3, 0, 0, views) != draw_seed(4, 0, 0, views)


def test_jitter_by_hand() -> None:
    image = torch.tensor([0.2, 0.4, 0.6]).view(3, 1, 1).expand(3, 2, 2)
    state = torch.Generator().manual_seed(1)
    brightness, contrast, saturation = (
        1 + 0.5 * (2 * torch.rand(3, generator=torch.Generator().manual_seed(1)) - 1)
    ).tolist()
    grey = 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6
    # One colour: contrast moves each channel away from the mean grey.
    expected = []
    for channel in (0.2, 0.4, 0.6):
        value = brightness * (grey + contrast * (channel - grey))
        expected.append(brightness * grey + saturation * (value - brightness * grey))
    made = jitter(image, 0.5, state)
    assert min(expected) > 0 and max(expected) < 1
    for channel, value in enumerate(expected):
        assert float(made[channel].max()) == pytest.approx(value, abs=1e-6)


def test_jitter_stays_in_range_and_off_is_off() -> None:
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert jitter(image, 0.0, torch.Generator()) is image
    for seed in range(20):
        made = jitter(image, 1.0, torch.Generator().manual_seed(seed))
        assert float(made.min()) >= 0 and float(made.max()) <= 1
        assert not torch.equal(made, image)
        assert torch.equal(made, jitter(image, 1.0, torch.Generator().manual_seed(seed)))
