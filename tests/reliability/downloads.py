"""Downloads: killed anywhere, served by liars; never a bad file under a final name."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from huggingface_hub import constants

from fit3d_cli.backbones import fetching, hub, pins
from fit3d_cli.errors import Fit3dError, OfflineError, WeightsError
from tests.reliability._hub import COMMIT, FILE, REPOSITORY, Hub, serving, tampered
from tests.reliability._talking import Talking
from tests.reliability.base import Outcome, Trial, check

BOUND = 10.0  # seconds, with the shortened patience of this check


@contextmanager
def cache_in(folder: Path, address: str, *, timeout: float = 0.4) -> Iterator[None]:
    """The hub's cache and the pins in a folder, the hub at an address, and less patience."""
    clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    clean |= {"FIT3D_PINS": str(folder / "pins.json"), "HF_TOKEN": "secret"}
    with (
        mock.patch.multiple(constants, ENDPOINT=address, HF_HUB_CACHE=str(folder / "hub"),
                            HF_HUB_OFFLINE=False),
        mock.patch.multiple(fetching, TIMEOUT=timeout, PAUSE=0.01, WINDOW=timeout),
        mock.patch.dict(os.environ, clean, clear=True),
    ):  # fmt: skip
        yield


def wrong_files(cache: Path, digest: str) -> list[str]:
    """Names in the cache that promise a whole file and do not keep it."""
    bad = []
    for path in cache.rglob("*"):
        # Locks and what is incomplete promise nothing.
        final = len(path.name) == 64 or path.name == FILE
        if final and (not path.is_file() or _digest(path) != digest):
            bad.append(str(path))
    return bad


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def liars(trial: Trial, data: bytes, outcome: Outcome) -> tuple[int, float]:
    """Every tampered server; returns how many, and the longest time."""
    digest, worst = hashlib.sha256(data).hexdigest(), 0.0
    servers = tampered(data)
    if not trial.whole:
        slow = {"hangs before it answers", "hangs half-way", "drips"}
        servers = {name: trick for name, trick in servers.items() if name not in slow}
    for number, (name, (may, tricks)) in enumerate(servers.items()):
        folder = trial.folder / f"liar-{number}"
        folder.mkdir()
        with serving(Hub(data, **tricks)) as server, cache_in(folder, server.address):
            began = time.monotonic()
            try:
                path = hub.hub_file(REPOSITORY, FILE, "midget")
                outcome.require(may, f"{name}: believed")
                outcome.require(_digest(path) == digest, f"{name}: another file was handed out")
            except Fit3dError as error:
                outcome.require(not may, f"{name}: {error}")
                told = str(error)
                outcome.require("\n" not in told and bool(error.hint), f"{name}: {told}")
                outcome.require(error.exit_code in (2, 3), f"{name}: exit {error.exit_code}")
                outcome.require(not (folder / "pins.json").exists(), f"{name}: was pinned")
            except Exception as error:
                outcome.require(False, f"{name}: {error!r}")
            passed = time.monotonic() - began
            worst = max(worst, passed)
            outcome.require(passed < BOUND, f"{name}: took {passed:.1f} s")
            bad = wrong_files(folder / "hub", digest)
            outcome.require(not bad, f"{name}: left {bad}")
            leaked = server.tokens.get("cdn", "")
            outcome.require(not leaked, f"{name}: the token was sent on")
            outside = [p for p in folder.iterdir() if p.name not in ("hub", "pins.json")]
            outcome.require(not outside, f"{name}: wrote {outside}")
    return len(servers), worst


class Downloader:
    """The process of ``_downloader.py``."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self.talking = Talking("tests.reliability._downloader")
        self.close = self.talking.close

    def run(self, name: str, kill: int = 0) -> dict[str, Any]:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        job = {
            "endpoint": self.address, "cache": str(folder / "hub"), "kill": kill,
            "pins": str(folder / "pins.json"), "answer": str(self.folder / "answer"),
        }  # fmt: skip
        made: dict[str, Any] = self.talking.ask(job)
        return made


def kills(trial: Trial, data: bytes, outcome: Outcome) -> tuple[int, int, int]:
    """Killed at points spread over a download: how many, of how many, and resumed part-way."""
    digest = hashlib.sha256(data).hexdigest()
    with serving(Hub(data)) as server:
        child = Downloader(trial.folder, server.address)
        try:
            clean = child.run("clean")
            points = int(clean["points"])
            outcome.require("path" in clean and points > 20, f"clean run: {clean}")
            wanted = min(points, trial.size(100, 6))
            # Evenly spread, and the last ones, where names are given.
            chosen = sorted(
                {1 + i * points // wanted for i in range(wanted)}
                | set(range(max(1, points - trial.size(16, 6)), points + 1))
            )
            resumed = 0
            for kill in chosen:
                name = f"kill-{kill}"
                made = child.run(name, kill)
                if "path" in made and kill > int(made["points"]):
                    continue  # the hub's locks sometimes take a call less
                outcome.require("killed" in made, f"point {kill}: {made}")
                cache = trial.folder / name / "hub"
                outcome.require(not wrong_files(cache, digest), f"point {kill}: a bad file")
                parts = [p.stat().st_size for p in cache.rglob("*.incomplete")]
                sent = server.sent
                made = child.run(name)
                outcome.require("path" in made, f"after point {kill}: {made}")
                outcome.require(not wrong_files(cache, digest), f"after point {kill}: a bad file")
                left = [str(p) for p in cache.rglob("*.incomplete")]
                outcome.require(not left, f"after point {kill}: {left}")
                if parts and parts[0]:
                    resumed += 1
                    outcome.require(server.sent - sent == len(data) - parts[0],
                                    f"after point {kill}: began anew")  # fmt: skip
        finally:
            child.close()
    return len(chosen), points, resumed


def pinned(trial: Trial, data: bytes, outcome: Outcome) -> int:
    """What was downloaded once is what it is: in the cache, and on the hub."""
    digest, folder = hashlib.sha256(data).hexdigest(), trial.folder / "pinned"
    folder.mkdir()
    other = data[::-1]
    with serving(Hub(data)) as server, cache_in(folder, server.address):
        path = hub.hub_file(REPOSITORY, FILE, "midget")
        pin = pins.read_pin(REPOSITORY, FILE)
        outcome.require(pin == pins.Pin(COMMIT, digest, len(data)), f"pin: {pin}")
        outcome.require(server.tokens["timm"] == "Bearer secret", "no token for the hub")
        sent = server.sent
        outcome.require(hub.hub_file(REPOSITORY, FILE, "midget") == path and server.sent == sent,
                        "a cached file was downloaded again")  # fmt: skip
        # A damaged file in the cache is found, removed and fetched again.
        path.resolve().write_bytes(data[:-1] + b"!")
        with mock.patch.object(hub.logging.getLogger(hub.__name__), "warning"):
            again = hub.hub_file(REPOSITORY, FILE, "midget")
        outcome.require(_digest(again) == digest and server.sent == sent + len(data),
                        "a damaged cached file was not replaced")  # fmt: skip
        # Beginnings that are not of this file are found out at the end, and thrown away.
        path.unlink()
        path.resolve().unlink(missing_ok=True)
        blob = folder / "hub" / f"models--{REPOSITORY.replace('/', '--')}" / "blobs" / digest
        blob.unlink(missing_ok=True)
        blob.with_name(f"{digest}.incomplete").write_bytes(b"x" * 1000)
        try:
            hub.hub_file(REPOSITORY, FILE, "midget")
            outcome.require(False, "a foreign beginning was believed")
        except WeightsError:
            outcome.require(_digest(hub.hub_file(REPOSITORY, FILE, "midget")) == digest,
                            "no recovery from a foreign beginning")  # fmt: skip
        # The pinned revision is asked for, and must not have changed.
        outcome.require(any(COMMIT in line for line in server.asked if "HEAD" in line),
                        "the pinned revision was not asked for")  # fmt: skip
        server.data = other
        outcome.require(_digest(hub.hub_file(REPOSITORY, FILE, "midget")) == digest,
                        "the cache did not serve")  # fmt: skip
        blob.unlink()
        try:
            hub.hub_file(REPOSITORY, FILE, "midget")
            outcome.require(False, "another file than was pinned was believed")
        except WeightsError as error:
            outcome.require("pins.json" in error.hint, f"no way to accept a change: {error}")
        (folder / "pins.json").unlink()
        changed = _digest(hub.hub_file(REPOSITORY, FILE, "midget"))
        outcome.require(changed == hashlib.sha256(other).hexdigest(), "a change cannot be accepted")
        (folder / "pins.json").write_text("{")
        try:
            hub.hub_file(REPOSITORY, FILE, "midget")
            outcome.require(False, "damaged pins were passed over")
        except WeightsError as error:
            outcome.require("pins.json" in error.where, str(error))
    with cache_in(trial.folder / "nobody", "http://127.0.0.1:9"):
        try:
            hub.hub_file(REPOSITORY, FILE, "midget")
        except OfflineError as error:
            outcome.require("--weights FILE" in error.hint, str(error))
    return 8


def planted(trial: Trial, data: bytes, outcome: Outcome) -> None:
    """The check sees a downloader that does not verify."""
    wrong = bytes([data[0] ^ 1]) + data[1:]
    folder = trial.folder / "planted"
    folder.mkdir()
    digest = hashlib.sha256(data).hexdigest()
    tricks = {"get": lambda server, handler: server.serve(handler, wrong)}
    with (
        serving(Hub(data, **tricks)) as server,
        cache_in(folder, server.address),
        mock.patch.object(hub.storage, "sha256_file", lambda path: digest),
    ):
        hub.hub_file(REPOSITORY, FILE, "midget")
    outcome.require(bool(wrong_files(folder / "hub", digest)), "an unverified file is not seen")


@check(
    "downloads",
    area="Security",
    promise="Weights are downloaded from a fixed commit, resumed after any interruption, and used"
    " only if size and sha256 are what the hub announced and what they were the first time",
    goal="100 kills, >= 20 tampered servers, 0 bad files under a final name",
)
def run(trial: Trial) -> Outcome:
    outcome = Outcome()
    data = trial.draw("data").randbytes(trial.size(3_000_000, 400_000))
    count, worst = liars(trial, data, outcome)
    killed, points, resumed = kills(trial, data, outcome)
    pinned(trial, data, outcome)
    planted(trial, data, outcome)
    outcome.cases = count + killed
    outcome.figure = (
        f"{killed} kills at {points} points of a download, {resumed} of them resumed part-way;"
        f" {count} tampered servers, longest {worst:.1f} s; 0 bad files under a final name"
    )
    return outcome
