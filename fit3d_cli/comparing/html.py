"""A small HTML builder: whatever is not ``Markup`` is escaped."""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, TypeAlias

_VOID = {"img", "input", "meta"}


@dataclass(frozen=True)
class Markup:
    """Text that is HTML already, made by this module only."""

    text: str


Node: TypeAlias = "str | int | float | Markup | Iterable[Node] | None"


def el(tag: str, *children: Node, **attributes: str | int | float | bool | None) -> Markup:
    """An element; children and attribute values are escaped.

    Attribute names lose a trailing underscore (``class_``), other underscores become hyphens.
    None and False leave the attribute out, True writes its bare name.
    """
    parts = [tag]
    for name, value in attributes.items():
        key = name.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(key)
        elif value is not None and value is not False:
            parts.append(f'{key}="{html.escape(str(value), quote=True)}"')
    opening = f"<{' '.join(parts)}>"
    return Markup(opening if tag in _VOID else f"{opening}{render(children)}</{tag}>")


def render(node: Node) -> str:
    """Nodes to text; None is nothing."""
    if node is None:
        return ""
    if isinstance(node, Markup):
        return node.text
    if isinstance(node, (str, int, float)):
        return html.escape(str(node), quote=True)
    return "".join(render(child) for child in node)


def inline(tag: str, text: str) -> Markup:
    """A ``style`` or ``script`` element around a file of ours, whose content is not escaped.

    Raises:
        ValueError: The text would end the element.
    """
    if "</" in text:
        raise ValueError(f"text for <{tag}> must not hold '</'")
    return Markup(f"<{tag}>{text}</{tag}>")


def json_block(name: str, data: Any) -> Markup:
    """Data for programs; no value can end the element or start a comment in it."""
    text = json.dumps(plain(data), ensure_ascii=True, sort_keys=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(
        f'<script type="application/json" id="{html.escape(name, quote=True)}">{text}</script>'
    )


def data_uri(data: bytes, kind: str = "image/png") -> str:
    """Bytes as an address that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def plain(value: Any) -> Any:
    """JSON types only: NaN becomes null, floats keep 7 digits, absolute paths their last part."""
    if isinstance(value, Mapping):
        return {without_paths(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    return without_paths(str(value))


_POSIX = re.compile(r"(?<![\w.…~/\\:<])/(?:[^\s/\"'`=,;:|<>()\[\]]+/)+[^\s/\"'`=,;:|<>()\[\]]*")
_WINDOWS = re.compile(r"(?<!\w)[A-Za-z]:\\(?:[^\\\"'`=,;|<>]+\\)*[^\\\s\"'`=,;|<>]*")


def without_paths(text: str) -> str:
    """Text whose absolute paths are cut to ``…/last``: a page is sent to others."""
    if PurePosixPath(text).is_absolute() and "\n" not in text:
        return _last(PurePosixPath(text).name)
    if PureWindowsPath(text).is_absolute() and "\n" not in text:
        return _last(PureWindowsPath(text).name)
    text = _WINDOWS.sub(lambda found: _last(PureWindowsPath(found[0]).name), text)
    return _POSIX.sub(lambda found: _last(PurePosixPath(found[0]).name), text)


def _last(name: str) -> str:
    return f"…/{name}" if name else "…"
