"""The published training pictures against answers by hand."""

import colorsys

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d_cli.datasets.base import ColorChange, DepthDataset
from fit3d_cli.datasets.boxes import PixelBox
from fit3d_cli.errors import DatasetError
from fit3d_cli.probing.exact import crops as crops_module
from fit3d_cli.probing.exact.colours import (
    as_bytes,
    change_colours,
    distort,
    hsv_to_rgb,
    rgb_to_hsv,
)
from fit3d_cli.probing.exact.crops import depth_crop, seg_crop
from fit3d_cli.probing.exact.drawing import Draws, batch_members
from fit3d_cli.probing.exact.protocol import (
    DEPTH_PROTOCOLS,
    DEPTH_SCHEDULE,
    SEG_SCHEDULE,
    DepthProtocol,
    SegProtocol,
)
from fit3d_cli.probing.exact.resample import (
    keep_ratio_size,
    resize_bytes,
    resize_nearest,
    turn,
)
from fit3d_cli.settings import ProbeSettings


def ramp(height: int, width: int) -> Tensor:
    """``[3, H, W]``: red counts columns, green rows."""
    columns = torch.arange(width).expand(height, width)
    rows = torch.arange(height)[:, None].expand(height, width)
    return torch.stack([columns, rows, torch.zeros_like(rows)]).float()


# --- schedules ---------------------------------------------------------------------------------


def test_segmentation_schedule_is_the_published_one() -> None:
    at = SEG_SCHEDULE.factor
    assert at(0) == pytest.approx(1e-6)
    assert at(750) == pytest.approx((1 - 750 / 40_000) * (0.5 + 0.5e-6))
    assert at(1500) == pytest.approx(1 - 1500 / 40_000)
    assert at(39_999) == pytest.approx(1 / 40_000)
    assert {SEG_SCHEDULE.beta(step) for step in (0, 20_000)} == {0.9}


def test_depth_schedule_is_the_published_one() -> None:
    at, beta = DEPTH_SCHEDULE.factor, DEPTH_SCHEDULE.beta
    assert at(0) == pytest.approx(1e-3)
    assert at(12_800) == pytest.approx(0.75)  # half of 1 + cos 60 degrees
    assert at(6400) == pytest.approx((1 - 0.5 * 0.999) * 0.5 * (1 + np.cos(np.pi / 6)))
    assert at(38_399) < 1e-7
    assert beta(0) == pytest.approx(0.95) and beta(38_399) == pytest.approx(0.95)
    assert beta(round(0.3 * 38_400) - 1) == pytest.approx(0.85)
    assert beta(5760) == pytest.approx(0.9, abs=1e-4)
    assert DEPTH_SCHEDULE.choices == 6 and round(DEPTH_SCHEDULE.level * 38_400) == 100


def test_fewer_steps_keep_the_shares() -> None:
    short = DEPTH_SCHEDULE.adjusted(ProbeSettings(steps=384, lr=0.5, weight_decay=0.0, batch=3))
    assert (short.steps, short.lr, short.weight_decay, short.batch) == (384, 0.5, 0.0, 3)
    for step in (0, 64, 128, 300):
        assert short.factor(step) == pytest.approx(DEPTH_SCHEDULE.factor(100 * step))
    assert round(short.level * short.steps) == 1
    same = SEG_SCHEDULE.adjusted(ProbeSettings())
    assert same == SEG_SCHEDULE
    tiny = SEG_SCHEDULE.adjusted(ProbeSettings(steps=1))
    assert tiny.factor(0) == 1
    one = DEPTH_SCHEDULE.adjusted(ProbeSettings(steps=1))
    assert 0 < one.beta(0) < 1


def test_presets_differ_in_what_is_mended_only() -> None:
    parity, fixed = DEPTH_PROTOCOLS["parity"], DEPTH_PROTOCOLS["fixed"]
    assert parity.schedule == fixed.schedule and parity.per_loss == fixed.per_loss == 2
    assert (parity.norm, parity.cut_padding, parity.parity_box, parity.choose) == (
        False, False, True, True,
    )  # fmt: skip
    assert (fixed.norm, fixed.cut_padding, fixed.parity_box, fixed.choose) == (
        True, True, False, False,
    )  # fmt: skip


# --- draws -------------------------------------------------------------------------------------


def test_draws_depend_on_their_key_alone() -> None:
    first = [Draws("crop", 1, 2, 3).uniform(0, 1) for _ in range(2)]
    assert first[0] == first[1]
    keys = ((1, 2, 3), (1, 2, 4), (1, 3, 3), (2, 2, 3))
    others = {Draws("crop", *key).uniform(0, 1) for key in keys}
    assert len(others) == 4
    draws = Draws("x")
    whole = {draws.whole(-2, 2) for _ in range(200)}
    assert whole == {-2, -1, 0, 1}


def test_every_epoch_goes_through_all_pictures_whatever_the_batch() -> None:
    small = [index for step in range(15) for index in batch_members(7, step, 2, 10)]
    large = [index for step in range(6) for index in batch_members(7, step, 5, 10)]
    assert small == large
    epochs = [small[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert len(batch_members(7, 0, 16, 3)) == 16  # more than there are


# --- resampling --------------------------------------------------------------------------------


def test_sizes_keep_the_shape_within_both_bounds() -> None:
    assert keep_ratio_size(640, 480, 2048, 512) == (683, 512)
    assert keep_ratio_size(480, 640, 2048, 512) == (512, 683)
    assert keep_ratio_size(3000, 500, 2048, 512) == (2048, 341)
    assert keep_ratio_size(876, 584, 1024, 256) == (384, 256)


def test_bilinear_has_no_antialiasing_and_gives_whole_numbers() -> None:
    row = torch.tensor([0.0, 10, 20, 31]).expand(3, 2, 4)
    # Pixel centres 0.5 and 2.5 of the old grid; 25.5 goes up.
    assert resize_bytes(row, 2, 2)[0, 0].tolist() == [5, 26]
    wide = torch.tensor([100.0, 0, 0, 0, 0, 0, 0, 0]).expand(3, 2, 8)
    assert resize_bytes(wide, 2, 2)[0, 0].tolist() == [0, 0]  # the bright pixel is jumped over
    assert resize_nearest(torch.arange(6).expand(2, 6), 4, 1).tolist() == [[0, 1, 3, 4]]


def test_a_quarter_turn_is_clockwise_and_exact() -> None:
    square = torch.arange(9.0).reshape(1, 3, 3)
    expected = torch.tensor([[6.0, 3, 0], [7, 4, 1], [8, 5, 2]])
    torch.testing.assert_close(turn(square, 90)[0], expected, atol=1e-5, rtol=0)
    assert torch.equal(turn(square, 90, nearest=True)[0], expected)
    assert torch.equal(turn(square, 0)[0], square[0])
    ones = turn(torch.ones(1, 20, 30), 45)
    assert ones[0, 0, 0] == 0 and ones[0, 10, 15] == pytest.approx(1)


# --- colours -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rgb", "hsv"),
    [((255, 0, 0), (0, 255, 255)), ((0, 255, 0), (60, 255, 255)), ((0, 0, 255), (120, 255, 255)),
     ((255, 255, 0), (30, 255, 255)), ((128, 128, 128), (0, 0, 128)), ((0, 0, 0), (0, 0, 0)),
     ((200, 100, 150), (165, 128, 200))],
)  # fmt: skip
def test_hsv_is_opencvs(rgb: tuple[int, int, int], hsv: tuple[int, int, int]) -> None:
    picture = torch.tensor(rgb, dtype=torch.float32)[:, None, None]
    assert rgb_to_hsv(picture).flatten().tolist() == pytest.approx(hsv, abs=0.51)
    back = hsv_to_rgb(rgb_to_hsv(picture)).flatten().tolist()
    assert back == pytest.approx(rgb, abs=2)


def test_hsv_agrees_with_the_standard_library() -> None:
    rng = np.random.default_rng(0)
    for rgb in rng.integers(0, 256, (50, 3)):
        hue, saturation, value = colorsys.rgb_to_hsv(*(rgb / 255))
        found = rgb_to_hsv(torch.from_numpy(rgb).float()[:, None, None]).flatten()
        assert abs((float(found[0]) - 180 * hue + 90) % 180 - 90) <= 0.51
        assert found[1:].tolist() == pytest.approx([255 * saturation, 255 * value], abs=0.51)


class Fixed(Draws):
    """Draws that are given."""

    def __init__(self, happens: list[bool], uniform: list[float], whole: list[int]) -> None:
        self._happens, self._uniform, self._whole = happens, uniform, whole

    def happens(self, probability: float) -> bool:
        return self._happens.pop(0)

    def uniform(self, low: float, high: float) -> float:
        value = self._uniform.pop(0)
        assert low <= value <= high
        return value

    def whole(self, low: int, high: int) -> int:
        value = self._whole.pop(0)
        assert low <= value < high
        return value


def test_distortion_by_hand() -> None:
    grey = torch.full((3, 1, 1), 101.0)
    # Brightness + 10.7, contrast first x 1.5; grey has no saturation and no hue.
    draws = Fixed([True, True, True, True, True], [10.7, 1.5, 0.5], [9])
    assert distort(grey, draws).flatten().tolist() == [166, 166, 166]  # floor(111 * 1.5)
    # Contrast last, after a saturation of one half: 255 -> 127, so (200, 100.4, 100.4).
    red = torch.tensor([200.0, 0, 0])[:, None, None]
    found = distort(red, Fixed([False, False, True, False, True], [0.5, 0.5], []))
    assert found.flatten().tolist() == [100, 50, 50]
    # Hue moved by 17 steps of two degrees and round the circle.
    moved = rgb_to_hsv(distort(red, Fixed([False, True, False, False, True], [], [17])))
    assert moved[0].item() == pytest.approx(17, abs=0.51)
    moved = rgb_to_hsv(distort(red, Fixed([False, True, False, False, True], [], [-18])))
    assert moved[0].item() == pytest.approx(162, abs=0.51)
    assert as_bytes(torch.tensor([-3.0, 7.9, 300.0])).tolist() == [0, 7, 255]
    nothing = Fixed([False, False, False, False, False], [], [])
    assert torch.equal(distort(grey, nothing), grey)


def test_gamma_acts_on_bytes_as_published_or_on_shares() -> None:
    change = ColorChange((1.1, 1.1), (0.5, 0.5), (0.9, 1.1), 1.0)
    grey = torch.full((3, 1, 1), 100.0)
    colours = [0.9, 1.0, 1.1]
    published = change_colours(grey, change, Fixed([True], [1.1, 0.5, *colours], []),
                               gamma_peak=255)  # fmt: skip
    level = 100**1.1 * 0.5
    assert published.flatten().tolist() == pytest.approx([level * c for c in colours])
    meant = change_colours(grey, change, Fixed([True], [1.1, 0.5, *colours], []), gamma_peak=1)
    level = 255 * (100 / 255) ** 1.1 * 0.5
    assert meant.flatten().tolist() == pytest.approx([level * c for c in colours])
    assert torch.equal(change_colours(grey, change, Fixed([False], [], []), gamma_peak=1), grey)


# --- segmentation crops ------------------------------------------------------------------------

SMALL = SegProtocol(short=64, long=256, ratios=(1.0, 1.0), crop=48, stride=32)


def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops_module, "distort", lambda picture, draws: picture)


def test_labels_stay_with_their_pixels_and_padding_is_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain(monkeypatch)
    labels = torch.randint(0, 9, (64, 40), generator=torch.Generator().manual_seed(0))
    picture = (labels * 20.0).expand(3, 64, 40)
    protocol = SegProtocol(short=40, long=256, ratios=(1.0, 1.0), crop=48)
    places, flips = set(), set()
    for number in range(30):
        crop = seg_crop(picture, labels, protocol, 255, Draws(number))
        assert crop.picture.shape == (3, 48, 40) and crop.target.shape == (48, 48)
        assert (crop.target[:, 40:] == 255).all()
        shown = crop.target[:, :40]
        assert torch.equal((crop.picture[0] * 255 / 20).round().long(), shown)
        for flipped, candidate in ((False, shown), (True, shown.flip(-1))):
            for top in range(17):
                if torch.equal(candidate, labels[top : top + 48]):
                    places.add(top)
                    flips.add(flipped)
    assert len(places) > 8 and flips == {False, True}


def test_a_crop_of_one_class_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plain(monkeypatch)
    labels = torch.zeros(64, 480, dtype=torch.int64)
    labels[:, 430:] = 1
    picture = torch.zeros(3, 64, 480)

    def mixed() -> int:
        protocol = SegProtocol(short=64, long=480, ratios=(1.0, 1.0), crop=64)
        count = 0
        for number in range(60):
            target = seg_crop(picture, labels, protocol, 255, Draws(number)).target
            share = float(target.float().mean())
            count += 0.25 < share < 0.75
        return count

    # One place in 13 fits: 8 % of single draws, 58 % of up to eleven.
    assert 24 <= mixed() <= 45
    monkeypatch.setattr(crops_module, "_TRIES", 0)
    assert mixed() <= 12


def test_the_ratio_scales_the_picture_before_the_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    plain(monkeypatch)
    picture = ramp(64, 96)
    labels = (picture[0] // 8).long()
    doubled = SegProtocol(short=64, long=256, ratios=(2.0, 2.0), crop=48)
    crop = seg_crop(picture, labels, doubled, 255, Draws(1))
    slope = (crop.picture[0, 0] * 255).diff().abs().mean()
    assert 0.4 < float(slope) < 0.6  # 96 levels over 192 columns


# --- depth crops -------------------------------------------------------------------------------


def depths(**changes: object) -> DepthDataset:
    values = {"crop": (40, 50), "rotate": 0.0, "flip": False, "color": None, **changes}
    return DepthDataset("toy", (), (), **values)  # type: ignore[arg-type]


def test_depth_stays_with_its_pixels_through_all_changes() -> None:
    picture = ramp(60, 80)
    depth = picture[0] / 10 + 0.1
    flips, turned = 0, 0
    for number in range(40):
        dataset = depths(rotate=2.5, flip=True)
        crop = depth_crop(picture, depth, dataset, DepthProtocol(), Draws(number))
        assert crop.picture.shape == (3, 40, 50) and crop.target.shape == (40, 50)
        known = crop.target > 0
        error = (crop.target - (crop.picture[0] * 25.5 + 0.1))[known].abs()
        assert float(error.median()) < 0.06  # a rotated photo is mixed, depth is not
        flips += bool(crop.target[20, 10] > crop.target[20, 40])
        turned += bool(crop.target[0, 25] != crop.target[39, 25])
    assert 10 < flips < 30 and 10 < turned < 30


def test_the_training_box_comes_first() -> None:
    picture = ramp(60, 80)
    dataset = depths(train_box=PixelBox(10, 50, 20, 70))
    crop = depth_crop(picture, picture[0], dataset, DepthProtocol(), Draws(0))
    assert torch.equal(crop.target, picture[0, 10:50, 20:70])
    with pytest.raises(DatasetError, match="do not lie in a picture of 30x20"):
        depth_crop(ramp(20, 30), ramp(20, 30)[0], dataset, DepthProtocol(), Draws(0))


def test_without_a_crop_the_picture_stays_whole() -> None:
    picture = ramp(60, 80)
    crop = depth_crop(picture, picture[0], depths(crop=None), DepthProtocol(), Draws(0))
    assert torch.equal(crop.picture * 255, picture)
    small = depth_crop(ramp(20, 30), ramp(20, 30)[0], depths(), DepthProtocol(), Draws(0))
    assert small.target.shape == (20, 30)
