from __future__ import annotations

import pytest

from fit3d_cli.errors import SettingsError
from fit3d_cli.showing.point import Point, parse_point

NAMES = ("images/a.jpg", "images/b.png", "other/b.jpg")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3,4", Point(0, 3, 4)),
        ("a:3,4.5", Point(0, 3, 4.5)),
        ("b.jpg:0,0", Point(2, 0, 0)),
        ("images/b.png:1,2", Point(1, 1, 2)),
    ],
)
def test_forms(text: str, expected: Point) -> None:
    assert parse_point(text, NAMES) == expected


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "similarity to what"), ("3", "not a point"), ("3,4,5", "not a point"),
        ("x,y", "not a point"), ("nan,1", "not a point"), ("c:1,1", "no picture is called c"),
        ("b:1,1", "2 pictures are called b"),
    ],
)  # fmt: skip
def test_mistakes_name_the_remedy(text: str, what: str) -> None:
    with pytest.raises(SettingsError, match=what) as error:
        parse_point(text, NAMES)
    assert error.value.hint and error.value.where.startswith("--point")


def test_the_token_that_sees_a_pixel() -> None:
    size, grid = (64, 32), (4, 8)  # cells of 8 by 8 pixels
    assert Point(0, 0, 0).token(size, grid) == (0, 0)
    assert Point(0, 7, 8).token(size, grid) == (1, 0)
    assert Point(0, 63, 31).token(size, grid) == (3, 7)
    for x, y in ((64, 0), (-1, 0), (0, 32)):
        with pytest.raises(SettingsError, match="outside a picture of 64x32"):
            Point(0, x, y).token(size, grid)
