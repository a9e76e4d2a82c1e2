"""One writer at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fit3d_cli import storage
from fit3d_cli.errors import StorageError
from fit3d_cli.storage import temporaries
from tests.storage.common import ROOT, names


def test_one_holder_of_a_lock_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "scene.f3d"
    order: list[str] = []

    def wait() -> None:
        with storage.locked(path, blocking=True):
            order.append("second")

    with storage.locked(path):
        with pytest.raises(StorageError, match=f"pid {os.getpid()} "), storage.locked(path):
            pass
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.05)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]
    with storage.locked(path):
        pass
    assert names(tmp_path) == []


HOLD = """
import sys
from pathlib import Path
from fit3d_cli import storage
with storage.locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "scene.f3d"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT},
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(StorageError, match=f"pid {process.pid} "), storage.locked(path):
        pass
    process.kill()
    process.communicate(timeout=60)
    with storage.locked(path):
        pass


def test_who_waits_is_told_for_whom(tmp_path: Path) -> None:
    path = tmp_path / "scene.f3d"
    told: list[str] = []
    with storage.locked(path, blocking=True, on_wait=told.append):
        assert told == []

        def wait() -> None:
            with storage.locked(path, blocking=True, on_wait=told.append):
                pass

        thread = threading.Thread(target=wait)
        thread.start()
        while not told:
            time.sleep(0.01)
    thread.join(timeout=10)
    assert told == [f"pid {os.getpid()} on {storage.faults.host_name()}"]


def test_an_instant_of_a_sweep_is_no_holder(tmp_path: Path) -> None:
    path = tmp_path / "scene.f3d"
    (tmp_path / "scene.f3d.lock").touch()
    fd, held = temporaries._try_to_hold(tmp_path / "scene.f3d.lock")
    assert held is False
    threading.Timer(0.03, os.close, (fd,)).start()
    with storage.locked(path):
        pass
