"""Several processes train as one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fit3d_cli.backbones.export import read_provenance
from fit3d_cli.errors import DeviceError, SettingsError
from fit3d_cli.finetuning.distributed import PeerError, Processes
from fit3d_cli.finetuning.finetune import FinetuneResult
from fit3d_cli.finetuning.joining import joined, leads
from fit3d_cli.tensorfile import read_tensors

Tune = Callable[..., FinetuneResult]
RECIPE: dict[str, Any] = {
    "objectives": {"l1": 1.0, "anchor": 0.1, "info_nce": 0.1}, "pairs": {"min_overlap": 0.05},
    "batch": 6, "jitter": 0.2, "ema": 0.5, "lr": 1e-4, "max_steps": 3,
    "targets": {"source": "relifted", "relift_every": 2},
}  # fmt: skip


class Twins:
    """Runs two processes of one training at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ready = folder, False
        script = Path(__file__).with_name("twins.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
                 "TORCH_CPP_LOG_LEVEL": "ERROR"},  # as the installed program does
        )  # fmt: skip

    def __call__(self, **job: object) -> list[tuple[int, str, str]]:
        """Exit code, stdout and stderr of the two."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        assert self.process.stdin is not None and self.process.stdout is not None
        if not self.ready:
            self.ready = self.process.stdout.readline() == "ready\n"
        stem = self.folder / "job"
        self.process.stdin.write(json.dumps({"port": port, "stem": str(stem), **job}) + "\n")
        self.process.stdin.flush()
        codes = json.loads(self.process.stdout.readline())
        return [
            (code, Path(f"{stem}.{rank}.out").read_text(), Path(f"{stem}.{rank}.err").read_text())
            for rank, code in enumerate(codes)
        ]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    made = Twins(tmp_path_factory.mktemp("twins"))
    yield made
    made.process.kill()
    made.process.communicate()


def sets(prefix: str, values: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for key, value in values.items():
        name = f"{prefix}.{key}"
        found += sets(name, value) if isinstance(value, dict) else ["--set", f"{name}={value}"]
    return found


def test_two_processes_give_the_weights_of_one(
    twins: Twins, home: Path, own: Path, tune: Tune, tmp_path: Path
) -> None:
    alone = tune(own, **RECIPE)
    workspace = Path(shutil.copytree(home / "out", tmp_path / "two"))
    scenes = [str(workspace / "scenes" / f"{name}.f3d") for name in ("hall", "attic")]
    argv = ["finetune", *scenes, "--workspace", str(workspace), "--json"]
    first, second = twins(argv=[*argv, "--epochs", "2", *sets("finetune", RECIPE)])
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert json.loads(first[1])["steps"] == alone.steps == 3
    assert second[1] == "" and "finetune" not in second[2], "only the first process tells"
    one, two = (
        read_tensors(m / "model.safetensors")[0] for m in (alone.path, workspace / "models/tuned")
    )
    base = read_tensors(next(iter(json.loads((own / "backbones.json").read_text()).values()))
                        / Path("model.safetensors"))[0]  # fmt: skip
    for name, tensor in one.items():
        # One step of AdamW moves a weight by about lr; the two agree to a thousandth of that.
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6)
    assert max(float((one[k] - base[k]).abs().max()) for k in one) > 1e-4
    figures = [read_provenance(p)["figures"] for p in (alone.path, workspace / "models/tuned")]
    for key in ("loss_first", "loss_last", "heldout_before", "heldout_after"):
        assert figures[1][key] == pytest.approx(figures[0][key], rel=1e-5)
    assert not list((workspace / "cache" / "finetune").iterdir())


def test_processes_without_work_are_told_of(twins: Twins, home: Path, tmp_path: Path) -> None:
    workspace = Path(shutil.copytree(home / "out", tmp_path / "idle"))
    argv = ["finetune", str(workspace / "scenes/hall.f3d"), "--workspace", str(workspace)]
    for batch, name in ((2, "few"), (4, "enough")):
        one = {"batch": batch, "max_steps": 1, "name": name, "objectives": {"info_nce": 1.0},
               "pairs": {"min_overlap": 0.05}}  # fmt: skip
        first, second = twins(argv=[*argv, *sets("finetune", one)])
        assert (first[0], second[0]) == (0, 0), first[2] + second[2]
        told = "a step of 1 pair leaves 1 of 2 processes without work - raise it" in first[2]
        assert told == (batch == 2) and "without work" not in second[2]


FAILING = """
import sys, torch
from fit3d_cli.errors import StorageError
from fit3d_cli.finetuning.distributed import PeerError
from fit3d_cli.finetuning.joining import joined

with joined(torch.device("cpu")) as processes:
    assert processes.sum(torch.tensor([1.0, processes.rank])).tolist() == [2.0, 1.0]
    grown = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    grown[0].grad = torch.tensor([1.0, processes.rank])
    if processes.rank:
        grown[1].grad = torch.tensor([3.0, 4.0])
    processes.sum_gradients(grown)
    assert [None if p.grad is None else p.grad.tolist() for p in grown] == [[2, 1], [3, 4], None]
    assert list(processes.share(range(5))) == ([0, 2, 4], [1, 3])[processes.rank]
    assert processes.together(lambda: processes.rank) == processes.rank
    def work():
        if processes.rank == 1:
            raise StorageError("the disk is full")
    try:
        processes.together(work)
    except StorageError:
        assert processes.rank == 1
    except PeerError as error:
        assert processes.rank == 0 and error.exit_code == 3
    else:
        raise AssertionError("went on")
    try:
        processes.lead(lambda: 1 / 0)
    except ZeroDivisionError:
        assert processes.rank == 0
    except PeerError as error:
        assert processes.rank == 1 and error.exit_code == 4
    else:
        raise AssertionError("went on")
    print("well", flush=True)
    if processes.rank == 1:
        import os
        os._exit(9)  # killed: nobody says goodbye
    try:
        processes.sum(torch.ones(1))
    except PeerError as error:
        sys.exit(error.exit_code)
"""


def test_a_failure_ends_all_of_them(twins: Twins, tmp_path: Path) -> None:
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    first, second = twins(script=str(script))
    assert (first[1], second[1]) == ("well\n", "well\n"), first[2] + second[2]
    assert (first[0], second[0]) == (3, 9)


def test_one_message_for_all(twins: Twins, own: Path, tmp_path: Path) -> None:
    """The photos are gone: the first process says so, both end with its code."""
    (own / "captures.json").write_text(json.dumps({"hall": str(tmp_path / "gone")}))
    scene = str(own / "scenes" / "hall.f3d")
    first, second = twins(argv=["finetune", scene, "--workspace", str(own)])
    assert (first[0], second[0]) == (2, 2)
    assert "hall" in first[2] and "--captures" in first[2] and second[2] == ""
    assert not (own / "models").exists()


def test_what_an_earlier_torchrun_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process alone leads, whatever number it once had: it must not keep its result to itself."""
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    for size in (None, "", "1"):
        if size is None:
            monkeypatch.delenv("WORLD_SIZE", raising=False)
        else:
            monkeypatch.setenv("WORLD_SIZE", size)
        assert leads()
        with joined(torch.device("cpu")) as processes:
            assert (processes.rank, processes.size) == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not leads()
    monkeypatch.setenv("MASTER_PORT", "29500")
    for rank in ("2", "-1"):
        monkeypatch.setenv("RANK", rank)
        told = pytest.raises(SettingsError, match=f"RANK is {rank}, WORLD_SIZE 2 - start with")
        with told, joined(torch.device("cpu")):
            pass
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "two")
        with pytest.raises(SettingsError, match=f"{name} is 'two', not a number - unset it") as e:
            leads()
        assert e.value.where == "environment"


def test_alone_nothing_is_asked_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(torch.device("cpu")) as processes:
        assert (processes.rank, processes.size, processes.leads) == (0, 1, True)
        values = torch.tensor([1.5, 2.0])
        assert processes.sum(values).tolist() == [1.5, 2.0]
    with pytest.raises(ZeroDivisionError):
        Processes().together(lambda: 1 / 0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SettingsError, match="torchrun"), joined(torch.device("cpu")):
        pass
    assert PeerError(3).exit_code == 3


LOST = """
import os, sys, time
from fit3d_cli.errors import Fit3dError
from fit3d_cli.finetuning import joining
import torch

joining._MEETING, joining._CONNECTING = 0.6, 1.0
rank = int(os.environ["RANK"])
if {absent} == rank:
    os._exit(9)
if {lost} == rank:  # it has come, and is killed before it has found the others
    joining._connect = lambda processes: time.sleep(0.3) or os._exit(9)
try:
    with joining.joined(torch.device("cpu")):
        print("went on")
except Fit3dError as error:
    print(error)
    sys.exit(error.exit_code)
"""
LATE, GONE = "did not come within 0.01 minutes", "is gone"


@pytest.mark.parametrize(
    ("absent", "lost", "what"), [(0, None, LATE), (1, None, LATE), (None, 0, GONE), (None, 1, GONE)]
)
def test_nobody_waits_forever(
    twins: Twins, tmp_path: Path, absent: int | None, lost: int | None, what: str
) -> None:
    """Before they are connected nothing breaks when one of them is lost."""
    script = tmp_path / "lost.py"
    script.write_text(LOST.format(absent=absent, lost=lost))
    ended = twins(script=str(script))
    missing = absent if absent is not None else lost
    assert missing is not None and ended[missing][0] == 9
    code, out, err = ended[1 - missing]
    assert (code, err) == (3, ""), err
    assert out.startswith(f"torchrun: process {missing} of this training {what} - ")


def test_a_taken_port_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "127.0.0.1"),
                            ("MASTER_PORT", str(port))):  # fmt: skip
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        told = pytest.raises(DeviceError, match=f"cannot listen on port {port}")
        with told as e, joined(torch.device("cpu")):
            pass
        assert e.value.where == "MASTER_PORT"
