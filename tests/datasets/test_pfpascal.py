from pathlib import Path

import numpy as np
import pytest

from fit3d_cli.datasets.pfpascal import CATEGORIES, read_pfpascal
from fit3d_cli.errors import DatasetError
from fit3d_cli.images import save_png

HEAD = "source_image,target_image,class,XA,YA,XB,YB\n"
DIFFERENT, SAME = "test_pairs_pf_different_views.csv", "test_pairs_pf_same_views.csv"
ROW = "PF-dataset-PASCAL/JPEGImages/a.jpg,PF-dataset-PASCAL/JPEGImages/b.jpg,{},{},{},{},{}\n"


def row(
    category: object = 1, xa: str = "1;2.5", ya: str = "3;4", xb: str = "5;6", yb: str = "7;8"
) -> str:
    return ROW.format(category, xa, ya, xb, yb)


def tree(root: Path, **tables: str) -> Path:
    for name in ("a", "b"):
        save_png(root / "JPEGImages" / f"{name}.jpg", np.zeros((4, 6, 3), np.uint8))
    for name, text in tables.items():
        (root / f"{name}.csv").write_text(text)
    return root


def plain(root: Path, *rows: str) -> Path:
    return tree(root, test_pairs=HEAD + "".join(rows))


@pytest.mark.parametrize("inner", ["", "PF-dataset-PASCAL"])
def test_both_views_are_read_in_order(tmp_path: Path, inner: str) -> None:
    tree(
        tmp_path / inner,
        test_pairs_pf_different_views=HEAD + row(20) + row(1),
        test_pairs_pf_same_views=HEAD + row(2.0),
        test_pairs=HEAD + row(5),
    )
    pairs = read_pfpascal(tmp_path)
    assert [(CATEGORIES[p.category], p.view) for p in pairs] == [
        ("tvmonitor", "different"), ("aeroplane", "different"), ("bicycle", "same"),
    ]  # fmt: skip
    first = pairs[0]
    assert (first.source.name, first.target.name) == ("a.jpg", "b.jpg")
    assert first.source_points.tolist() == [[1, 3], [2.5, 4]]
    assert first.target_points.tolist() == [[5, 7], [6, 8]]
    assert not first.uneven


def test_the_plain_table_knows_no_views(tmp_path: Path) -> None:
    (pair,) = read_pfpascal(plain(tmp_path, row(7)))
    assert (pair.view, CATEGORIES[pair.category]) == ("", "car")


def test_the_longer_list_is_cut_and_absent_points_are_dropped(tmp_path: Path) -> None:
    plain(tmp_path, row(xa="1;2;3", ya="1;2;3"), row(xa="nan;2", ya="1;2"), row(xb="", yb=""))
    longer, absent, nothing = read_pfpascal(tmp_path)
    assert longer.source_points.tolist() == [[1, 1], [2, 2]] and longer.uneven
    assert absent.source_points.tolist() == [[2, 2]]
    assert absent.target_points.tolist() == [[6, 8]] and not absent.uneven
    assert nothing.source_points.shape == nothing.target_points.shape == (0, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "first line"),
        ("a,b\n", "first line"),
        (HEAD, "no pairs"),
        (HEAD + row(0), "class 0"),
        (HEAD + row(21), "class 21"),
        (HEAD + row(1.5), "class 1.5"),
        (HEAD + row("nan"), "line 2"),
        (HEAD + row("cat"), "line 2"),
        (HEAD + row() + row(xa="1"), "line 3: 1 x for 2 y"),
        (HEAD + row(xa="1;x"), "line 2"),
        (HEAD + row(xa="1;inf"), "infinite"),
        (HEAD + row()[:40] + "\n", "line 2: "),
        (HEAD + row().replace("/a.jpg", "/.."), "no file name"),
        (HEAD + row().replace("/a.jpg", "/zz.jpg"), "1 pictures"),
        ("\0\xff", "first line"),
        (HEAD + '"' + "x" * 200_000, "cannot be read as a table"),
    ],
)
def test_damaged_tables_are_one_clear_line(tmp_path: Path, text: str, words: str) -> None:
    tree(tmp_path, test_pairs=text)
    with pytest.raises(DatasetError, match=words) as caught:
        read_pfpascal(tmp_path)
    assert "\n" not in str(caught.value) and caught.value.hint


def test_a_path_never_leaves_the_pictures(tmp_path: Path) -> None:
    plain(tmp_path, row().replace("PF-dataset-PASCAL/JPEGImages/a.jpg", "../../../etc/b.jpg"))
    (pair,) = read_pfpascal(tmp_path)
    assert pair.source == tmp_path / "JPEGImages" / "b.jpg"


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    plain(tmp_path)
    (tmp_path / "test_pairs.csv").write_bytes(b"\xff\xfe\x00source")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_pfpascal(tmp_path)


def test_absent_says_where_to_get_it(tmp_path: Path) -> None:
    for root in (tmp_path / "none", tmp_path):
        with pytest.raises(DatasetError) as caught:
            read_pfpascal(root)
        for words in ("JPEGImages", DIFFERENT, SAME, "di.ens.fr", "--data", "research use"):
            assert words in caught.value.what + caught.value.hint
