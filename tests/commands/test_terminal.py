"""What a terminal gets of names; the rest is ``tests/reliability/_told.py``."""

from __future__ import annotations

import io
import json

import pytest

from fit3d_cli.commands._terminal import Plain, escaped, escaped_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 雪 ↑", "plain é 雪 ↑"), ("a\u00a0b", "a\u00a0b"), ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb", "a\\nb"), ("a\u202eb", "a\\u202eb"), ("\x9b1m", "\\x9b1m"), ("\udce9", "\\udce9"),
    ],
)  # fmt: skip
def test_escapes(text: str, shown: str) -> None:
    assert escaped(text) == shown


@pytest.mark.parametrize("text", ["\x7f\x9b", "\U000e0001x", "\udce9", "a\u2028b", "é\n\t\x00"])
def test_json_means_the_same(text: str) -> None:
    shown = escaped_json(json.dumps(text, ensure_ascii=False))
    assert shown.isprintable() and json.loads(shown) == text


def test_a_stream_keeps_its_lines() -> None:
    out = io.StringIO()
    Plain(out).write("one\n\x1btwo\n")
    assert out.getvalue() == "one\n\\x1btwo\n" and not Plain(out).isatty()
