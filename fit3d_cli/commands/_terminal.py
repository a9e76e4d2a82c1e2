"""Text for a terminal: a name from data can neither drive it nor forge what it shows.

Names of files, views, scenes and models come from anywhere. A terminal obeys escape sequences in
them, and characters that turn the writing direction change what a line seems to say.
"""

from __future__ import annotations

from typing import Any, TextIO


def escaped(text: str, keep: str = "") -> str:
    """``text`` with everything escaped that is not printed as itself.

    Args:
        text: Anything.
        keep: Further characters that are left as they are, e.g. the end of a line.
    """
    if text.isprintable():
        return text
    kept = f"{keep}\u00a0"
    return "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text
    )


def escaped_json(text: str) -> str:
    """JSON whose strings hold only what is printed as itself; it means the same."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _unit_escapes(c) for c in text)


def _unit_escapes(character: str) -> str:
    """JSON's escape, which names UTF-16 units."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(
        f"\\u{int.from_bytes(units[i : i + 2], 'big'):04x}" for i in range(0, len(units), 2)
    )


class Plain:
    """A text stream that escapes what it is given, line ends apart.

    Args:
        stream: Where it goes; rich writes there itself, colours and all.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write ``text``, escaped."""
        return self.stream.write(escaped(text, "\n"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
