"""What the caller of a worker does when it crashes, hangs, refuses or is not needed any more.

The workers here are small scripts that speak the protocol and import nothing heavy; the real one
is broken in ``tests/reliability/isolation.py``.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import pytest

from fit3d_cli.capture.sources.find import Scan
from fit3d_cli.errors import EnvironmentFault, Fit3dError, WeightsError
from fit3d_cli.lifting import process, worker
from fit3d_cli.lifting.isolation import Isolated
from fit3d_cli.lifting.results import Failed, LiftResult, named
from fit3d_cli.progress import Progress, ignore
from fit3d_cli.settings import LiftSettings
from fit3d_cli.workspace import Workspace

# The name of a scan is what the worker does with it.
SCRIPT = """
import json, os, signal, subprocess, sys, time
out = os.fdopen(os.dup(1), "w")
def tell(message):
    out.write(json.dumps(message) + "\\n"); out.flush()
def event(done):
    tell({"event": ["scan: geometry", done, 9, "", [0, 0], [0, 0]]})
def fail(kind, code, memory=False):
    tell({"failed": {"type": kind, "what": "planted", "where": "", "hint": "do it", "code": code,
                     "memory": memory, "trace": "a traceback"}})
request = json.loads(sys.stdin.readline())
place = request["workspace"]
with open(place + "/starts", "a") as file:
    file.write(f"{os.getpid()}\\n")
START
os.dup2(request["log"], 2)
tell({"done": None})
for line in sys.stdin:
    name = json.loads(line)["name"]
    print(f"begins {name}", file=sys.stderr, flush=True)
    event(1)
    first = not os.path.exists(f"{place}/{name}")
    open(f"{place}/{name}", "w").close()
    if name.startswith("crash") or (name == "once" and first):
        os.kill(os.getpid(), signal.SIGSEGV)
    elif name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "torn":
        out.write('{"done": {"name"'); out.flush(); os._exit(5)
    elif name == "hangs":
        time.sleep(60)
    elif name == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        with open(place + "/starts", "a") as file:
            file.write(f"{child.pid}\\n")
        event(2)
        time.sleep(60)
    elif name == "slow":
        for done in range(2, 9):
            time.sleep(0.25); event(done)
    elif name == "memory":
        fail("MemoryFault", 3, memory=True); continue
    elif name == "bad":
        fail("CaptureError", 2); continue
    elif name == "bug":
        fail("Fit3dError", 4); continue
    elif name == "loud":
        os.write(2, b"x" * 300_000); os._exit(1)
    elif name == "says":
        tell({"record": [30, "fit3d_cli.somewhere", "mind this"]})
    result = {"name": name, "path": place + "/x.f3d", "gaussians": 3, "psnr_heldout": float("nan"),
              "feature_cosine_heldout": 0.1, "seconds": 1.5, "skipped": False, "error": None,
              "exit_code": 0, "metrics": {"psnr": 1 / 3}, "notes": ["a"], "source": {},
              "attempts": 1, "log": None}
    tell({"done": result})
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)  # so that no path makes a line too long to be shown whole
    script = tmp_path / "worker.py"
    script.write_text(SCRIPT.replace("START", ""))
    monkeypatch.setattr(process, "WORKER", [sys.executable, str(script)])
    return Workspace(Path())


def starts(place: Workspace) -> list[int]:
    return list(map(int, (place.root / "starts").read_text().split()))


def isolated(place: Workspace, **settings: object) -> Isolated:
    return Isolated(LiftSettings.model_validate(settings), place, "cpu", 0)


def scan(name: str) -> Scan:
    return Scan(Path("scans") / name, name)


def gone(pid: int) -> bool:
    """Ended, though perhaps nobody has collected it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_one_worker_serves_all(place: Workspace) -> None:
    with isolated(place) as lifter:
        results = [lifter.lift(scan(name), ignore) for name in ("a", "b", "c")]
    assert [result.name for result in results if isinstance(result, LiftResult)] == ["a", "b", "c"]
    (first, *_) = results
    assert isinstance(first, LiftResult)
    assert first.metrics == {"psnr": 1 / 3} and math.isnan(first.psnr_heldout)
    assert first.path == place.root / "x.f3d" and first.notes == ("a",)
    (worker,) = starts(place)
    assert gone(worker)


def test_a_result_survives_the_way() -> None:
    result = LiftResult(
        "é\udcff", Path("a/\udcff"), metrics={"x": 0.1}, notes=("n",), log=Path("l")
    )
    again = LiftResult.from_json(json.loads(json.dumps(result.to_json())))
    assert repr(again) == repr(result)


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_a_crash_is_tried_again_so_often_and_no_more(
    place: Workspace, retries: int, caplog: pytest.LogCaptureFixture
) -> None:
    with isolated(place, retries=retries) as lifter:
        failed = lifter.lift(scan("crash"), ignore)
        after = lifter.lift(scan("after"), ignore)
    assert isinstance(failed, Failed) and isinstance(after, LiftResult)
    row = failed.result(scan("crash"), 1.0)
    assert (row.attempts, row.exit_code, row.log) == (retries + 1, 4, place.log_path("crash"))
    tried = f" ({retries + 1} attempts)" if retries else ""
    assert row.error == (
        f"scans/crash: crashed in geometry (signal SIGSEGV){tried} - this is a bug of fit3d: "
        f"report it; see {row.log}"
    )
    assert place.log_path("crash").read_text().count("begins crash") == retries + 1
    assert len(starts(place)) == retries + 2  # and one for the scan that comes after it
    assert len([r for r in caplog.records if "trying again" in r.message]) == retries


def test_what_succeeds_at_last_leaves_no_log(place: Workspace) -> None:
    place.log_path("once").parent.mkdir()
    place.log_path("once").write_text("of an earlier run")
    with isolated(place) as lifter:
        result = lifter.lift(scan("once"), ignore)
    assert isinstance(result, LiftResult)
    assert (result.attempts, result.log) == (2, None)
    assert not place.log_path("once").exists()


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("killed", 3, "killed in geometry, probably for want of memory"),
        ("torn", 4, "crashed in geometry (exit code 5)"),
        ("memory", 3, "planted"),
    ],
)
def test_other_ends(place: Workspace, name: str, code: int, says: str) -> None:
    with isolated(place) as lifter:
        failed = lifter.lift(scan(name), ignore)
    assert isinstance(failed, Failed)
    row = failed.result(scan(name), 0.0)
    assert (row.exit_code, row.attempts, len(starts(place))) == (code, 2, 2)
    assert row.error is not None
    assert row.error.startswith(f"scans/{name}: {says} (2 attempts) - ")
    assert row.log is not None and "attempt 2: " in row.log.read_text()


def test_a_hang_is_ended_and_a_slow_scan_is_not(place: Workspace) -> None:
    with isolated(place, retries=0, stall=1.0) as lifter:
        slow = lifter.lift(scan("slow"), ignore)  # 1.75 s, a sign of life each quarter
        began = time.monotonic()
        failed = lifter.lift(scan("hangs"), ignore)
    assert time.monotonic() - began < 20
    assert isinstance(slow, LiftResult) and isinstance(failed, Failed)
    assert isinstance(failed.error, EnvironmentFault)
    assert "scans/hangs: no progress for 1 s in geometry" in str(failed.error)
    assert all(map(gone, starts(place)))


def test_bad_input_is_not_tried_again_and_keeps_the_worker(place: Workspace) -> None:
    with isolated(place, retries=2) as lifter:
        bad = lifter.lift(scan("bad"), ignore)
        assert isinstance(lifter.lift(scan("a"), ignore), LiftResult)
        assert len(starts(place)) == 1
        bug = lifter.lift(scan("bug"), ignore)
        assert isinstance(lifter.lift(scan("b"), ignore), LiftResult)
    assert isinstance(bad, Failed) and isinstance(bug, Failed)
    assert (bad.attempts, bad.log, bug.attempts) == (1, None, 1)
    assert str(bad.error) == "scans/bad: planted - do it"
    # A worker that met a bug is in no state to be trusted; what it said is kept.
    assert len(starts(place)) == 2
    assert bug.log is not None and "a traceback" in bug.log.read_text()


def test_a_log_is_no_larger_than_anyone_reads(place: Workspace) -> None:
    with isolated(place, retries=0) as lifter:
        failed = lifter.lift(scan("loud"), ignore)
    assert isinstance(failed, Failed) and failed.log is not None
    assert 60_000 < failed.log.stat().st_size < 70_000


def test_a_full_disk_does_not_hide_why(place: Workspace) -> None:
    (place.root / "logs").write_text("a file where a folder should be")
    with isolated(place, retries=0) as lifter:
        failed = lifter.lift(scan("crash"), ignore)
    assert isinstance(failed, Failed)
    assert failed.log is None and "SIGSEGV" in str(failed.error)


def test_records_go_the_callers_way(place: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    with isolated(place) as lifter:
        lifter.lift(scan("says"), ignore)
    assert [(r.name, r.message) for r in caplog.records] == [("fit3d_cli.somewhere", "mind this")]


def test_an_interruption_ends_the_worker_and_its_children(place: Workspace) -> None:
    def interrupt(event: Progress) -> None:
        if event.done == 2:
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), isolated(place) as lifter:
        lifter.lift(scan("stubborn"), interrupt)
    assert time.monotonic() - began < 10
    worker, child = starts(place)
    while time.monotonic() - began < 10 and not gone(child):
        time.sleep(0.01)
    assert gone(worker) and gone(child)


START_FAULTS: dict[str, tuple[str, type[Fit3dError], str]] = {
    "refused": ("fail('WeightsError', 2); sys.exit()", WeightsError, "^planted - do it$"),
    "crashed": ("os.kill(os.getpid(), signal.SIGSEGV)", Fit3dError, r"crashed \(signal SIGSEGV\)"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", EnvironmentFault, "killed"),
    "silent": ("sys.exit(3)", Fit3dError, "exit code 3"),
}


@pytest.mark.parametrize("fault", START_FAULTS)
def test_nothing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    line, kind, says = START_FAULTS[fault]
    script = tmp_path / "worker.py"
    script.write_text(SCRIPT.replace("START", line))
    monkeypatch.setattr(process, "WORKER", [sys.executable, str(script)])
    with pytest.raises(kind, match=says) as caught:
        isolated(Workspace(tmp_path))
    assert type(caught.value) is kind


def test_want_of_memory_is_seen_behind_another_error() -> None:
    try:
        try:
            raise MemoryError
        except MemoryError as cause:
            raise WeightsError("cannot be read", where="a.png") from cause
    except WeightsError as error:
        assert worker._failure(error)["memory"] is True
    assert worker._failure(WeightsError("cannot be read", where="a.png"))["memory"] is False


@pytest.mark.parametrize(
    ("error", "says", "code"),
    [
        (WeightsError("odd", where="room/a.png"), "room/a.png: odd", 2),
        (EnvironmentFault("odd", where="lift.batch"), "room: lift.batch: odd", 3),
        (MemoryError(), "scans/room: out of memory - ", 3),
        (ZeroDivisionError("x"), "scans/room: internal error, ZeroDivisionError: x - ", 4),
    ],
)
def test_every_row_names_its_scan(error: Exception, says: str, code: int) -> None:
    found = named(error, scan("room"))
    assert str(found).startswith(says)
    assert found.exit_code == code
