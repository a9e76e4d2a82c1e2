"""From profile, ``--set`` and flags to validated settings that know where they came from.

Order: defaults < profile < ``--set`` < flag. There are no environment variables and no hidden
files: what ``--dry-run`` prints is all there is.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from fit3d_cli.errors import SettingsError, UnknownNameError
from fit3d_cli.settings import Section, Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found]  # there below 3.11 only

DEFAULT = "default"
VERBS = tuple(Settings.model_fields)
CHAIN = "demo"  # the verb that runs the others and so uses every section
MAX_PROFILE_BYTES = 1 << 16
MAX_LINE = 4096  # characters, of a profile and of one --set
MAX_DOTS = 64  # in a line: tomllib's time grows with more than the square of a dotted key


@dataclass(frozen=True)
class Value:
    """One resolved setting.

    Attributes:
        value: After validation.
        source: ``default``, ``profile NAME``, ``--set``, or the flag.
        description: What the setting does.
    """

    value: Any
    source: str
    description: str


@dataclass(frozen=True)
class Resolved:
    """Settings of one run.

    Attributes:
        settings: Every section; a verb takes its own.
        values: Full dotted keys of the verb's sections to value and source.
    """

    settings: Settings
    values: Mapping[str, Value] = field(default_factory=dict)

    def differences(self) -> dict[str, Any]:
        """Full keys to plain JSON values, where they differ from the defaults."""
        plain = flatten(self.settings.model_dump(mode="json"))
        defaults = flatten(Settings().model_dump(mode="json"))
        return {key: plain[key] for key in self.values if plain[key] != defaults[key]}

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Full keys to ``{"value", "from"}`` in plain JSON types."""
        plain = flatten(self.settings.model_dump(mode="json"))
        return {key: {"value": plain[key], "from": v.source} for key, v in self.values.items()}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables to full dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _walk(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from _walk(info.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info


LEAVES: Mapping[str, FieldInfo] = dict(_walk(Settings))


def full_key(key: str, *, where: str) -> str:
    """The full dotted name of a setting.

    ``lift.dim`` stands for ``lift.features.dim`` while only one setting of ``lift`` is
    called ``dim``.

    Raises:
        SettingsError: No such setting, or several that the short form could mean.
    """
    if key in LEAVES:
        return key
    below = [leaf for leaf in LEAVES if leaf.startswith(f"{key}.")]
    if below:
        raise SettingsError(
            f"{key!r} is a group of settings", where=where, hint=f"set one of {_some(below)}"
        )
    key = _clipped(key)
    section, _, name = key.partition(".")
    inside = [leaf for leaf in LEAVES if leaf.startswith(f"{section}.")]
    matches = [leaf for leaf in inside if name and leaf.endswith(f".{name}")]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise SettingsError(
            f"{key!r} is ambiguous", where=where, hint=f"write {' or '.join(matches[:3])}"
        )
    raise SettingsError(f"unknown setting {key!r}", where=where, hint=_nearest(key, inside))


def _nearest(key: str, inside: Sequence[str]) -> str:
    section, _, name = key.partition(".")
    leaf = key.rpartition(".")[2]
    same_name = [other for other in LEAVES if other.rpartition(".")[2] == leaf]
    by_name = {other.partition(".")[2]: other for other in inside}
    by_name.update({other.rpartition(".")[2]: other for other in reversed(inside)})
    near = [by_name[match] for match in difflib.get_close_matches(name, by_name, n=1, cutoff=0.6)]
    near = near or [other for other in inside if other.rpartition(".")[2].startswith(leaf)][:3]
    near = near or same_name[:2] or difflib.get_close_matches(key, LEAVES, n=1, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    sections = difflib.get_close_matches(section, VERBS, n=1) or VERBS
    return f"keys start with {', '.join(sections)}; see fit3d {sections[0]} --dry-run"


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _clipped(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def allowed(info: FieldInfo) -> str:
    """What a setting accepts, in words."""
    kind = info.annotation
    if get_origin(kind) is tuple:
        return f"a list of {', '.join(map(str, get_args(get_args(kind)[0])))}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    bounds = [
        f"{sign} {getattr(limit, name)}"
        for limit in info.metadata
        for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
        if getattr(limit, name, None) is not None
    ]
    word = words[kind] if isinstance(kind, type) and kind in words else str(kind)
    return " ".join([word, " and ".join(bounds)]).strip()


def _refuse(key: str, value: object, where: str) -> NoReturn:
    info = LEAVES[key]
    try:
        shown = _clipped(repr(value))
    except ValueError:  # an integer of more digits than Python prints
        shown = "a huge number"
    raise SettingsError(
        f"{key} cannot be {shown}",
        where=where,
        hint=f"give {allowed(info)} ({_clipped(info.description or '', 70)})",
    )


def parse_override(text: str) -> tuple[str, Any]:
    """Split one ``--set`` into its full key and its value.

    The value is a TOML value; what TOML does not accept is taken as text, so that
    ``render.views=orbit`` needs no quotes.

    Raises:
        SettingsError: No ``=``, or the key is unknown.
    """
    name, equals, raw = text.partition("=")
    name = name.strip()
    if not equals or not name:
        raise SettingsError(
            "not of the form key=value",
            where=f"--set {_clipped(text)}",
            hint="write for example --set lift.features.dim=32",
        )
    key = full_key(name, where=f"--set {_clipped(name)}")
    raw = raw.strip()
    if len(raw) > MAX_LINE:
        raise SettingsError("too long", where=f"--set {key}", hint="put it into a --profile file")
    try:
        table = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):
        return key, raw
    parsed = table["value"]
    is_text = LEAVES[key].annotation is str and not isinstance(parsed, str)
    return key, raw if is_text or len(table) > 1 else parsed


def profile_names() -> list[str]:
    """Names of the profiles that come with fit3d, sorted."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in _profile_dir().iterdir()
        if entry.name.endswith(".toml")
    )


def _profile_dir() -> Any:
    """The shipped profiles: package data, or the source tree's top-level folder."""
    packaged = resources.files("fit3d_cli") / "profiles"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parent.parent / "profiles"


def read_profile(profile: str) -> dict[str, Any]:
    """Full keys and values of a profile.

    Args:
        profile: The name of a shipped profile, or the path of a TOML file.

    Raises:
        UnknownNameError: Neither a shipped profile nor a file.
        SettingsError: Not TOML, or a key that is no setting.
    """
    where = f"--profile {profile}"
    if profile in profile_names():
        source = _profile_dir() / f"{profile}.toml"
    else:
        source = Path(profile)
        if not source.is_file():
            names = profile_names()
            near = difflib.get_close_matches(profile, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names)}"
            raise UnknownNameError(
                "no such profile or file", where=where, hint=f"{hint} (or name a TOML file)"
            )
    try:
        with source.open("rb") as file:
            data = file.read(MAX_PROFILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(
            f"cannot be read: {error.strerror}", where=where, hint="check its permissions"
        ) from error
    lines = data.split(b"\n")
    longest, dots = max(map(len, lines)), max(line.count(b".") for line in lines)
    if len(data) > MAX_PROFILE_BYTES or longest > MAX_LINE or dots > MAX_DOTS:
        raise SettingsError(
            "too large for a profile", where=where, hint="write [section] and key = value lines"
        )
    try:
        table = _leaves(tomllib.loads(data.decode("utf-8")))
    except (ValueError, RecursionError) as error:
        raise SettingsError(
            f"not TOML: {error}", where=where, hint="write [section] and key = value lines"
        ) from error
    given: dict[str, Any] = {}
    for key, value in table.items():
        if value == {} and any(leaf.startswith(f"{key}.") for leaf in LEAVES):
            continue  # a section without settings
        full = full_key(key, where=where)
        if full in given:
            raise SettingsError(
                f"{full} is set twice",
                where=where,
                hint="keep one of the lines",
            )
        given[full] = value
    return given


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """As ``flatten``, with the empty tables: an unknown one must be noticed."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inside = _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {}
        for name, leaf in (inside or {f"{prefix}{key}": value}).items():
            if name in found:  # "a.b" in quotes beside b below [a]
                raise ValueError(f"{name} stands there twice")
            found[name] = leaf
    return found


def resolve(
    verb: str,
    *,
    profile: str = "",
    sets: Sequence[str] = (),
    flags: Mapping[str, tuple[str, Any]] | None = None,
) -> Resolved:
    """Settle every setting of a verb.

    Args:
        verb: A section of ``Settings``; ``demo``, which uses them all; or a verb without
            settings, for which a profile is checked and ``--set`` refused.
        profile: Name or path of a profile; empty for none.
        sets: ``key=value`` texts, later ones win.
        flags: Full keys to (option as typed, value); a value of None was not given.

    Raises:
        SettingsError: An unknown key, a value that does not fit, or a ``--set`` for another
            verb. The message names the key and what it accepts.
        UnknownNameError: No such profile.
    """
    given: dict[str, tuple[Any, str, str]] = {}  # full key -> value, source, where
    for key, value in (read_profile(profile) if profile else {}).items():
        given[key] = (value, f"profile {Path(profile).stem}", f"--profile {profile}")
    for text in sets:
        key, value = parse_override(text)
        where = f"--set {key}"
        if not _used(key, verb):
            hint = f"drop it, or set a {verb}.* key" if verb in VERBS else "drop it"
            raise SettingsError(f"not used by fit3d {verb}", where=where, hint=hint)
        given[key] = (value, "--set", where)
    for key, (option, value) in (flags or {}).items():
        if value is not None:
            given[full_key(key, where=option)] = (value, option, option)

    tree: dict[str, Any] = {}
    for key, (value, _, where) in given.items():
        *groups, leaf = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = _prepared(key, value, where)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        loc = [str(part) for part in error.errors()[0]["loc"]]
        while loc and ".".join(loc) not in given:
            loc.pop()
        key = ".".join(loc)
        _refuse(key, given[key][0], given[key][2])
    dumped = flatten(settings.model_dump())
    values = {
        key: Value(dumped[key], given[key][1] if key in given else DEFAULT, info.description or "")
        for key, info in LEAVES.items()
        if _used(key, verb)
    }
    return Resolved(settings, values)


def _used(key: str, verb: str) -> bool:
    return verb == CHAIN or key.startswith(f"{verb}.")


def _prepared(key: str, value: Any, where: str) -> Any:
    """Bring a value closer to the setting's type where that cannot be misunderstood."""
    kind = LEAVES[key].annotation
    if isinstance(value, bool) and kind is not bool:  # pydantic would take true for 1
        _refuse(key, value, where)
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:  # what TOML promises
        _refuse(key, value, where)
    if get_origin(kind) is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        if isinstance(parts, list | tuple):
            parts = tuple(p.strip() if isinstance(p, str) else p for p in parts if p != "")
        if not parts:
            _refuse(key, value, where)
        return parts
    return value


def as_text(value: Any) -> str:
    """A setting's value as a reader would type it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return value if isinstance(value, str) and value else json.dumps(value)
