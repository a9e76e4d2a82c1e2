from __future__ import annotations

import json
import math

import pytest

from fit3d_cli.pages.html import el, inline, json_block, name, plain, render, without_paths


def test_builder_escapes_and_drops() -> None:
    element = el("a", "<b>", None, [1, el("i", "x")], class_="y", data_n='"', hidden=True, id=None)
    assert render(element) == '<a class="y" data-n="&quot;" hidden>&lt;b&gt;1<i>x</i></a>'
    with pytest.raises(ValueError, match="must not hold"):
        inline("script", "'</script>'")
    assert "<" not in render(json_block("x", ["<!--</script>&"]))[40:-9]
    assert plain({"a": (1.23456789, math.inf, None, True)}) == {"a": [1.234568, None, None, True]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ann/x y.png", "…/x y.png"),
        ("C:\\Users\\ann\\x.png", "…/x.png"),
        ("--set a=/home/ann/w.st --b /tmp/c", "--set a=…/w.st --b …/c"),
        ("see '/home/ann/r.json'.", "see '…/r.json'."),
        ("a/b and 1/2 and and/or", "a/b and 1/2 and and/or"),
        ("images/x.png", "images/x.png"),
        ("", ""),
    ],
)
def test_absolute_paths_are_cut(text: str, expected: str) -> None:
    assert without_paths(text) == expected


def test_names_are_isolated_and_unfit_characters_replaced() -> None:
    arabic = "\u202eexe.\u0627\u0644\x00\x1b[31m\udcff"
    text = render(name(arabic))
    assert text.startswith("<bdi>") and text.endswith("</bdi>")
    assert "\x00" not in text and "\x1b" not in text
    text.encode("utf-8")  # half a character would not go
    assert render(el("img", alt=arabic)).count("\ufffd") == 3
    assert render(name("/home/ann/x")) == "<bdi>…/x</bdi>"


@pytest.mark.parametrize("digits", [7, None])
def test_data_survive_and_never_end_their_element(digits: int | None) -> None:
    data = {"</script><!--": [1 / 3, "\u2028<&>", math.nan, True, None, {"x": ()}]}
    text = render(json_block("a", data, digits=digits))
    assert text.count("<") == 2 and "&" not in text
    body = text[text.index(">") + 1 : text.rindex("<")]
    third = 1 / 3 if digits is None else 0.3333333
    expected = {"</script><!--": [third, "\u2028<&>", None, True, None, {"x": []}]}
    assert json.loads(body) == expected
