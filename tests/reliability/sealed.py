"""Nothing that is read can run, reach or tell anything."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import subprocess
import sys
import time
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import PIL.Image
import torch

from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.datasets.plain_pickle import read_plain_pickle
from fit3d_cli.errors import DatasetError, Fit3dError
from fit3d_cli.handoff.unpickle import DAMAGED, REFUSED, main, shut_in
from tests.reliability import _anonymous, _told
from tests.reliability._evil import LARGE, called, evil, evil_lists, legacy, state, text
from tests.reliability._hunt import memory
from tests.reliability._strangers import Stranger, spoilt, strangers
from tests.reliability._watched import Watch, in_child
from tests.reliability.base import Outcome, Trial, check

AREA = "Security"


@check(
    "no-code",
    area=AREA,
    promise="Reading a file runs no code of it, starts no program, opens no connection and writes "
    "nowhere else.",
    goal="10,000 good and spoilt files of every kind, 0 such events",
)
def no_code(trial: Trial) -> Outcome:
    outcome = Outcome()
    count = trial.size(10_000, 130)
    import_timm()  # for this check and the next
    read = in_child(lambda: _read_all(trial, count), 3600.0 if trial.whole else 120.0)
    outcome.cases = read["cases"]
    outcome.broken = read["seen"] + read["crashed"]
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(read["kinds"].items()))
    planted = in_child(lambda: _planted(trial.folder), 60.0)
    outcome.require(len(planted) == 5, f"of 5 planted events only these were seen: {planted}")
    outcome.figure = (
        f"{outcome.cases:,} files ({read['good']:,} read, the others refused), "
        f"{len(read['seen'])} events; 5 planted ones are seen; {kinds}"
    )
    return outcome


def _read_all(trial: Trial, count: int) -> dict[str, Any]:
    folder = trial.folder / "world"
    folder.mkdir()
    known = strangers(folder)
    if not trial.whole:  # one of each kind
        known = list({one.kind: one for one in known}.values())
    originals = {one.path: one.path.read_bytes() for one in known}
    watch = Watch(folder)
    PIL.Image.init()
    # What is imported late is imported now, on the way through good files and some bad ones.
    draw = trial.draw("warm")
    for one in known:
        one.read()
        for _ in range(3 if trial.whole else 1):
            _try(one, spoilt(originals[one.path], draw), originals[one.path])
    watch.on = True
    kinds: Counter[str] = Counter()
    good, crashed = 0, []
    for case in range(count):
        one = known[case % len(known)]
        raw = originals[one.path]
        # The first round is of good files.
        content = raw if case < len(known) else spoilt(raw, trial.draw("case", case))
        watch.on = True
        ended = _try(one, content, raw)
        kinds[one.kind] += 1
        good += ended == "read"
        if ended not in ("read", "refused"):
            crashed.append(f"case {case}, {one.kind} {one.path.name}: {ended}")
    watch.on = False
    return {"cases": count, "seen": watch.seen, "kinds": kinds, "good": good,
            "crashed": crashed[:20]}  # fmt: skip


def _try(one: Stranger, content: bytes, original: bytes) -> str:
    one.path.write_bytes(content)
    try:
        one.read()
    except (Fit3dError, UnicodeDecodeError):
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:100]}"
    finally:
        one.path.write_bytes(original)
    return "read"


def _planted(folder: Path) -> list[str]:
    """Five things that must be seen."""
    import pickle
    import subprocess

    watch = Watch(folder)
    watch.on = True
    pickle.loads(pickle.dumps(Path))
    exec("1")
    subprocess.run(["true"], check=False)
    with suppress(OSError):
        (folder.parent / f"{folder.name}-outside").write_text("")
    with suppress(OSError):
        import socket

        socket.create_connection(("127.0.0.1", 1), 0.1)
    watch.on = False
    with suppress(OSError):
        (folder.parent / f"{folder.name}-outside").unlink()
    wanted = ("pickle.find_class", "exec", "subprocess.Popen", "open for writing", "socket.connect")
    return [word for word in wanted if any(line.startswith(word) for line in watch.seen)]


@check(
    "converter",
    area=AREA,
    promise="A checkpoint of somebody else is opened in a process that can do nothing but hand "
    "back tensors.",
    goal=">= 30 malicious files: all refused, 0 side effects, bounded time and memory",
)
def converter(trial: Trial) -> Outcome:
    outcome = Outcome()
    canary = trial.folder / "canary"
    files = evil(canary)
    if not trial.whole:
        files = {name: files[name] for name in sorted(files.keys() - LARGE)[::2]}
    worst = {"seconds": 0.0, "bytes": 0}
    ends: Counter[str] = Counter()
    for name, make in files.items():
        path = trial.folder / f"{name}.pth"
        path.write_bytes(make())
        try:
            told = in_child(lambda path=path: _convert(path), 60.0)
        except RuntimeError as error:
            # A limit ended it, as it would the real process.
            outcome.require("-11" not in str(error), f"{name}: {error}")
            told = {"code": -1, "seconds": 0.0, "bytes": 0, "said": str(error)}
        ends["refused" if told["code"] == REFUSED else "damaged"] += 1
        outcome.require(told["code"] in (-1, REFUSED, DAMAGED), f"{name}: {told}")
        outcome.require(not canary.exists(), f"{name}: ran")
        canary.unlink(missing_ok=True)
        made = {item.name for item in trial.folder.iterdir()} - {path.name}
        outcome.require(not made, f"{name}: wrote {sorted(made)[:3]}")
        for key in worst:
            worst[key] = max(worst[key], told[key])
        if trial.whole:
            outcome.require(_really(path) == 2, f"{name}: the command did not exit with 2")
        path.unlink()
    outcome.require(worst["seconds"] < 10, f"{worst['seconds']:.1f} s of processor time")
    outcome.require(worst["bytes"] < 800 << 20, f"{worst['bytes'] >> 20} MiB")
    lists = _lists(trial, outcome, canary)
    outcome.require(_good(trial.folder), "a good checkpoint is refused too")
    outcome.require(bool(_unguarded(trial.folder)), "a planted pickle does not run unguarded")
    outcome.cases = len(files) + lists
    outcome.figure = (
        f"{len(files)} checkpoints ({ends['refused']} refused, {ends['damaged']} damaged) and "
        f"{lists} pickled lists: 0 ran, 0 files written; worst {worst['seconds']:.1f} s, "
        f"+{worst['bytes'] >> 20} MiB"
    )
    return outcome


def _convert(path: Path) -> dict[str, Any]:
    """The converter's own process, forked instead of started."""
    before = memory(reset=True)
    target = path.with_suffix(".safetensors")
    shut_in(str(path), str(target))
    said = io.StringIO()
    began = time.process_time()
    with contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = main(str(path), str(target))
    return {"code": code, "seconds": time.process_time() - began, "bytes": memory() - before,
            "said": said.getvalue()[-200:]}  # fmt: skip


def _really(path: Path) -> int:
    """Exit code of the command."""
    words = [sys.executable, "-m", "fit3d_cli", "export", str(path), "--workspace", "w"]
    done = subprocess.run(words, cwd=path.parent, capture_output=True, text=True, check=False)
    return done.returncode if done.stderr.count("\n") == 1 else -1


def _lists(trial: Trial, outcome: Outcome, canary: Path) -> int:
    """The walker of pickled data sets."""
    files = evil_lists(canary)
    if not trial.whole:
        files = {name: content for name, content in files.items() if name not in LARGE}

    def walk(path: Path) -> dict[str, Any]:
        before, began = memory(reset=True), time.process_time()
        ended = "read"
        try:
            read_plain_pickle(path)
        except DatasetError:
            ended = "refused"
        return {"ended": ended, "seconds": time.process_time() - began, "bytes": memory() - before}

    paths = {name: trial.folder / f"{name}.pkl" for name in files}
    for name, content in files.items():
        paths[name].write_bytes(content)
    every = in_child(lambda: {name: walk(path) for name, path in paths.items()}, 120.0)
    for name, told in every.items():
        harmless = name in ("holds-itself", "deep")
        outcome.require(told["ended"] == "refused" or harmless, f"{name}: {told}")
        outcome.require(told["seconds"] < 5 and told["bytes"] < 256 << 20, f"{name}: {told}")
        paths[name].unlink()
    outcome.require(not canary.exists(), "a pickled list ran")
    return len(files)


def _good(folder: Path) -> bool:
    path = folder / "good.pth"
    torch.save({"model": {"a.b": torch.ones(3)}, "args": argparse.Namespace(lr=1)}, path)
    told = in_child(lambda: _convert(path), 60.0)
    path.unlink()
    path.with_suffix(".safetensors").unlink(missing_ok=True)
    return bool(told["code"] == 0)


def _unguarded(folder: Path) -> bool:
    """Whether the attack works where nothing guards."""
    canary = folder / "planted"
    raw = legacy(state(called("os", "system", text(f"touch {canary}"))))
    path = folder / "planted.pth"
    path.write_bytes(raw)

    def load() -> bool:
        with contextlib.suppress(Exception):
            torch.load(path, weights_only=False)
        return canary.exists()

    ran = bool(in_child(load, 60.0))
    canary.unlink(missing_ok=True)
    path.unlink()
    return ran


@check(
    "no-markup",
    area=AREA,
    promise="A name is shown as a name: in pages, model cards, the viewer and on the terminal it "
    "is never markup, code or a control sequence.",
    goal="every string of every page hostile: 0 elements, attributes or handlers more than usual",
)
def no_markup(trial: Trial) -> Outcome:
    outcome = Outcome()
    words = list(_told.HOSTILE)
    if trial.whole:
        draw = trial.draw("words")
        words += ["".join(draw.choices(words, k=3)) for _ in range(60)]
    else:  # all at once, and one that breaks out of an attribute
        words = [" ".join(words), words[1]]
    for word in words:
        outcome.broken += _told.page_faults(word, trial.folder)
    for word in (*_told.TERMINAL, *_told.HOSTILE):
        outcome.broken += _told.terminal_faults(word) + _told.card_faults(word)
    planted = _told.Skeleton(f"<p onclick=x><img src='http://x'>{words[0]}").wrong
    outcome.require(len(planted) >= 2, "a planted handler is not seen")
    shown = 7 * (len(_told.TERMINAL) + len(_told.HOSTILE))
    outcome.cases = 4 * len(words) + shown
    outcome.figure = (
        f"{4 * len(words)} pages of hostile names: 0 elements or handlers more, no script but the "
        f"page's own, no request; {shown} tables, lines and bars: 0 control characters"
    )
    return outcome


@check(
    "no-names",
    area=AREA,
    promise="What is passed on - archives, models, reports, pages, exported files - tells no user, "
    "machine or folder.",
    goal="every file of every verb in a world of telling names: 0 of them found",
)
def no_names(trial: Trial) -> Outcome:
    outcome = Outcome()
    lines = _anonymous.ALL if trial.whole else _anonymous.FEW
    made = in_child(lambda: _anonymous.make_everything(trial.folder, lines), 600.0)
    outcome.broken = made["failed"] + made["told"]
    # It would be found: packed, in another encoding, in the file that remembers places.
    name = _anonymous.USER
    planted = (gzip.compress(name.encode()), name.upper().encode("utf-16-le"))
    outcome.require(all(map(_anonymous.secrets_in, planted)), "a planted name is not found")
    outcome.require(bool(made["local"]), "the workspace's own memory does not tell the place")
    outcome.cases = len(made["files"])
    outcome.figure = (
        f"{len(made['files'])} files of {len(lines)} commands: {len(made['told'])} tell a name; "
        f"only {', '.join(made['local'])} do, which stay"
    )
    return outcome
