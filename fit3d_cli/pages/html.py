"""A small HTML builder: whatever is not ``Markup`` is escaped, data for programs included."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, TypeAlias

_VOID = {"img", "input", "meta"}
_LONG = 32  # a word that may be broken anywhere
# Control characters, and halves of characters as file names of another encoding give them.
_UNFIT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


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
            parts.append(f'{key}="{_escaped(value)}"')
    opening = f"<{' '.join(parts)}>"
    return Markup(opening if tag in _VOID else f"{opening}{render(children)}</{tag}>")


def render(node: Node) -> str:
    """Nodes to text; None is nothing."""
    if node is None:
        return ""
    if isinstance(node, Markup):
        return node.text
    if isinstance(node, (str, int, float)):
        return _escaped(node)
    return "".join(render(child) for child in node)


def _escaped(value: object) -> str:
    """Text for an element or an attribute; what no page may hold becomes U+FFFD."""
    return html.escape(_UNFIT.sub("\ufffd", str(value)), quote=True)


def name(text: str) -> Markup:
    """A name from data, without paths; isolated, so that no writing direction leaves it."""
    shown = without_paths(text)
    long = max(map(len, shown.split()), default=0) > _LONG
    return el("bdi", shown, class_="long" if long else None)


def inline(tag: str, text: str) -> Markup:
    """A ``style`` or ``script`` element around a file of ours, whose content is not escaped.

    Raises:
        ValueError: The text would end the element.
    """
    if "</" in text:
        raise ValueError(f"text for <{tag}> must not hold '</'")
    return Markup(f"<{tag}>{text}</{tag}>")


def source_hash(text: str) -> str:
    """How a Content-Security-Policy names the one inline style or script that it lets through.

    Args:
        text: All that stands between the tags.
    """
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def json_block(identity: str, data: Any, *, digits: int | None = 7) -> Markup:
    """Data for programs; no value can end the element or start a comment in it.

    Args:
        identity: The element's id.
        data: Anything that ``plain`` takes.
        digits: Significant digits of floats; None keeps them all.
    """
    text = json.dumps(
        plain(data, digits=digits), ensure_ascii=True, sort_keys=True, allow_nan=False,
        separators=(",", ":"),
    )  # fmt: skip
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(f'<script type="application/json" id="{_escaped(identity)}">{text}</script>')


def data_uri(data: bytes, kind: str = "image/png") -> str:
    """Bytes as an address that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def plain(value: Any, *, digits: int | None = 7) -> Any:
    """JSON types only: NaN becomes null, floats keep ``digits``, absolute paths their last part."""
    if isinstance(value, Mapping):
        return {without_paths(str(k)): plain(item, digits=digits) for k, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, digits=digits) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if digits is None else float(f"{value:.{digits}g}")
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
