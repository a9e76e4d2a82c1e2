"""Profiles and --set texts in which something is wrong by chance."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

from fit3d_cli.config import LEAVES, VERBS, Resolved, full_key, resolve, tomllib
from fit3d_cli.errors import SettingsError
from fit3d_cli.settings import Settings
from tests.reliability import _damage
from tests.reliability._judge import AREA, SLOWEST, SPARE, Judge, short_of_memory
from tests.reliability.base import Outcome, Trial, check

VALUES = (
    "0", "1", "-1", "32", "0.5", "1e300", "-1e-9", "nan", "inf", "true", "false", "''", "'auto'",
    "[]", "[1]", "['rgb', 'depth']", "{}", "{a = 1}", "2024-01-01", "9" * 40, "0x" + "f" * 3000,
    "9" * 5000, "1_000", "'3'", "3.0", "'\\u0000'", "[" * 300, "[" * 3000 + "]" * 3000,
    '"""x"""', "'é'", "'" + "x" * 3000 + "'", "{a.b.c = {d = 1}}", "07", "+5", "",
)  # fmt: skip
PROFILE = "[lift]\nheldout = 0.2  # so\n[lift.features]\ndim = 8\n[render]\nwhat = ['rgb']\n"


@check(
    "profiles",
    area=AREA,
    promise="A profile or --set is taken as it is written or refused with the key and what it "
    "accepts; an unknown key, however it is spelled or nested, is never ignored",
    goal="100,000 mutated profiles and --set texts: settings errors only, <= 100 ms each",
)
def run_profiles(trial: Trial) -> Outcome:
    outcome = Outcome()
    judge = Judge(outcome, (SettingsError,), SLOWEST)
    draw = trial.draw("profiles")
    path = trial.folder / "p.toml"
    seeds = [PROFILE, *(p.read_text() for p in sorted(profiles().glob("*.toml")))]
    for seed in seeds:
        path.write_text(seed)
        resolve("demo", profile=str(path))
    for number in range(trial.size(50_000, 350)):
        path.write_bytes(profile(draw, seeds))
        with short_of_memory(SPARE):
            what = f"profile {number}"
            resolved, failure = judge.call(what, lambda: resolve("demo", profile=str(path)))
        if isinstance(resolved, Resolved):
            for problem in differs(resolved, tomllib.loads(path.read_text("utf-8"))):
                outcome.require(False, f"{what}: {problem}")
        elif isinstance(failure, SettingsError):
            outcome.require("p.toml" in str(failure), f"{what}: {failure}")
    of_sets(judge, trial)
    for text in huge():
        path.write_text(text, "utf-8")
        _, failure = judge.call("huge profile", lambda: resolve("lift", profile=str(path)))
        outcome.require(isinstance(failure, SettingsError), f"taken: {text[:60]}")
    outcome.figure = (
        f"{judge.ends.total():,} texts ({judge.ends['read']:,} taken, every setting as written; "
        f"{judge.ends['refused']:,} refused), worst {judge.worst * 1000:.0f} ms"
    )
    return outcome


def profiles() -> Path:
    return Path(__file__).resolve().parent.parent.parent / "profiles"


def key(draw: random.Random) -> str:
    """A setting, its short form, or something like one."""
    full = draw.choice(list(LEAVES))
    kind = draw.random()
    if kind < 0.5:
        return full
    if kind < 0.6:
        return f"{full.partition('.')[0]}.{full.rpartition('.')[2]}"
    at = draw.randrange(len(full))
    if kind < 0.9:
        return full[:at] + draw.choice(("", "x", ".", "_", " ")) + full[at + 1 :]
    return draw.choice((full.rpartition(".")[0], f"'{full}'", "a." * 1500 + "b", "x" * 3000, "''"))


def profile(draw: random.Random, seeds: list[str]) -> bytes:
    """A profile with one thing or several wrong, or none."""
    kind = draw.random()
    if kind < 0.3:
        return _damage.bytes_of(draw.choice(seeds).encode(), draw)
    if kind < 0.5:
        return _damage.text_of(draw.choice(seeds), draw).encode("utf-8", "surrogateescape")
    lines = []
    for _ in range(draw.choice((1, 1, 2, 3))):
        name = key(draw)
        table, _, leaf = name.rpartition(".")
        value = draw.choice(VALUES)
        shape = draw.random()
        if shape < 0.5 or not table:
            lines.insert(0, f"{name} = {value}")  # before any table
        elif shape < 0.6:
            lines.append(f"[[{table}]]\n{leaf} = {value}")
        elif shape < 0.7:
            lines.append(f"[{name}]")
        elif shape < 0.8:
            lines.append(f"{table} = {{{leaf} = {value}}}")
        else:
            lines.append(f"[{table}]\n{leaf} = {value}")
    return "\n".join(lines).encode()


def of_sets(judge: Judge, trial: Trial) -> None:
    """``--set`` texts: the value as TOML says, or as text."""
    draw = trial.draw("sets")
    for number in range(trial.size(50_000, 350)):
        verb = draw.choice((*VERBS, "demo", "info"))
        name, value = key(draw), draw.choice((*VALUES, *_damage.WORDS))
        if name in LEAVES and draw.random() < 0.8:
            verb = "demo"
        text = f"{name}={value}" if draw.random() < 0.95 else draw.choice((name, "", "="))
        taken = partial(resolve, verb, sets=[text])
        with short_of_memory(SPARE):
            resolved, _ = judge.call(f"set {number}: {text[:60]!r}", taken)
        if not isinstance(resolved, Resolved):
            continue
        full = full_key(name.strip(), where="")
        got = resolved.values[full].value
        same = alike(got, value.strip()) or any(alike(got, v) for v in parsed(value))
        others = {k: v for k, v in resolved.differences().items() if k != full}
        judge.outcome.require(same and not others, f"{text[:80]!r} became {got!r}, {others}")


def parsed(value: str) -> list[Any]:
    try:
        return [tomllib.loads(f"v = {value}")["v"]]
    except (ValueError, RecursionError):
        return []


def differs(resolved: Resolved, table: dict[str, Any]) -> list[str]:
    """Settings that are not what the text says, and keys of the text that nothing came of."""
    wrong, given = [], {}
    for name, value in spelled(table):
        full = full_key(name, where="")
        given[full] = value
        if not alike(resolved.values[full].value, value):
            wrong.append(f"{name} = {str(value)[:60]} became {resolved.values[full].value!r}")
    plain = Settings().model_dump()
    for name, value in resolved.values.items():
        default: Any = plain
        for part in name.split("."):
            default = default[part]
        if name not in given and value.value != default:
            wrong.append(f"{name} became {value.value!r} by itself")
    return wrong


def spelled(table: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in table.items():
        inside = isinstance(value, dict)
        found += spelled(value, f"{prefix}{name}.") if inside else [(f"{prefix}{name}", value)]
        if inside and not value and not any(k.startswith(f"{prefix}{name}.") for k in LEAVES):
            found.append((f"{prefix}{name}", value))
    return found


def alike(got: Any, value: Any) -> bool:
    """Whether a setting is the value that was written, whatever its type."""
    if isinstance(got, tuple):
        parts = value.split(",") if isinstance(value, str) else value
        return list(got) == [p.strip() for p in parts if p != ""]
    if isinstance(got, bool) or isinstance(value, bool):
        return got is value or str(value).lower() in (str(got).lower(), str(int(got)))
    if isinstance(got, int | float):
        try:
            return float(got) == float(value)
        except (ValueError, TypeError):
            return False
    return str(got) == str(value)


def huge() -> list[str]:
    """Much, deep, long."""
    return [
        "#" * (1 << 20), "x = 1\n" * 20_000, "[lift]\n" + "a." * 30_000 + "b = 1", "[" * 60_000,
        "\n".join(f"k{i} = {i}" for i in range(8_000)), "lift" + ".a" * 1900 + " = 1",
        "\n".join(f"[{'.a' * 900}x]"[0:1] + f"lift{'.a' * 900}{i}]" for i in range(30)),
        "a = " + "[\n" * 20_000, "a = '''" + "x\n" * 30_000, "a = {" + "b = {" * 800,
    ]  # fmt: skip
