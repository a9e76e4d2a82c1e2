"""Need against have."""

from __future__ import annotations

import logging
import resource
from pathlib import Path

import pytest

from fit3d_cli import device, preflight
from fit3d_cli.errors import MemoryFault, StorageError
from fit3d_cli.preflight import Needs, free_disk, require

GB = 10**9


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(preflight.SWITCH, raising=False)
    monkeypatch.setattr(preflight, "free_disk", lambda path: 10 * GB)
    monkeypatch.setattr(device, "available_memory", lambda: 4 * GB)


def ask(tmp_path: Path, **needs: int) -> None:
    require(Needs(**needs), where="kitchen", disk=tmp_path / "out", less="lower a.b")


def test_what_fits_is_let_through(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ask(tmp_path, memory=3 * GB, disk=10 * GB)
    assert not caplog.records


def test_what_is_tight_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ask(tmp_path, memory=int(3.5 * GB))
    assert "3.5 GB of memory, 4.0 GB are free: it will be tight" in caplog.text


def test_what_cannot_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MemoryFault, match=r"4\.1 GB of memory, 4\.0 GB are free") as memory:
        ask(tmp_path, memory=int(4.1 * GB))
    assert memory.value.where == "kitchen" and "a.b" in memory.value.hint
    with pytest.raises(StorageError, match=r"11\.0 GB of disk, 10\.0 GB are free") as disk:
        ask(tmp_path, disk=11 * GB)
    assert disk.value.where.endswith("out") and preflight.SWITCH in disk.value.hint
    monkeypatch.setenv(preflight.SWITCH, "off")
    ask(tmp_path, memory=99 * GB, disk=99 * GB)


def test_where_nobody_says_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "free_disk", lambda path: None)
    monkeypatch.setattr(device, "available_memory", lambda: None)
    ask(tmp_path, memory=99 * GB, disk=99 * GB)


def group(root: Path, v2: bool, limit: str, used: int, cached: int) -> Path:
    base = root / "sys/fs/cgroup" / ("" if v2 else "memory")
    own = base / "jobs/one"
    own.mkdir(parents=True)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/jobs/one\n" if v2 else "4:memory:/jobs/one\n")
    names = ("memory.max", "memory.current") if v2 else (
        "memory.limit_in_bytes", "memory.usage_in_bytes")  # fmt: skip
    (own / names[0]).write_text(f"{limit}\n")
    (own / names[1]).write_text(f"{used}\n")
    (own / "memory.stat").write_text(f"anon 5\n{'' if v2 else 'total_'}inactive_file {cached}\n")
    return root


@pytest.mark.parametrize("v2", [True, False])
def test_limits_of_containers_count(tmp_path: Path, v2: bool) -> None:
    assert device._group_memory(group(tmp_path / "a", v2, str(5 * GB), 3 * GB, GB)) == 3 * GB
    assert device._group_memory(group(tmp_path / "b", v2, str(GB), 3 * GB, GB)) == 0
    assert device._group_memory(group(tmp_path / "c", v2, "max", 3 * GB, GB)) is None
    assert device._group_memory(tmp_path / "nothing") is None


def test_the_limit_on_addresses_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 60, 1 << 60))
    left = device._address_space()
    assert left is not None and 0 < (1 << 60) - left < 1 << 50
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 20, 1 << 20))
    assert device._address_space() == 0
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert device._address_space() is None


def test_free_disk_of_what_is_not_there_yet(tmp_path: Path) -> None:
    found = free_disk(tmp_path / "not" / "yet")
    assert found is not None and found > 0
