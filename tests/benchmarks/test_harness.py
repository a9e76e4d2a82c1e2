from __future__ import annotations

import json
import mmap
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpu, gpu_sides, lift, memory, results, splat, sweep, targets
from benchmarks.options import Setup, parser, setup_from
from benchmarks.results import Line, Record
from benchmarks.timing import interleave, quartiles


def test_splat_results_are_complete(quick: Setup, tmp_path: Path) -> None:
    result = splat.run(quick)
    path = tmp_path / "out" / "splat.json"
    results.write(result, path)
    read = json.loads(path.read_text())
    results.check(read)
    names = [figure["figure"] for figure in read["figures"]]
    assert names == [
        "forward", "cached", "features", "cached_features", "full", "threads",
        "threads_features", "determinism", "stages",
    ]  # fmt: skip
    forward = read["figures"][0]
    assert set(forward["sides"]) == {"ours", "pairs", "tiles"}
    assert all(len(side["seconds"]) == quick.rounds for side in forward["sides"].values())
    assert max(forward["extra"]["max_error_same_projection"].values()) < 1e-5
    assert read["scene"]["digest"] and read["scene"]["pairs_per_pixel"] > 1
    stages = {line["ours"] for line in read["figures"][-1]["lines"]}
    assert {"project", "bin", "weights", "apply", "apply_t"} <= stages
    table = results.table([read])
    assert "pairs" in table and ">= 20" in table
    assert "pairs per pixel" in results.header(read)


def test_other_parts_give_results(quick: Setup) -> None:
    for part, figures in ((targets, 2), (sweep, 4)):
        result = part.run(quick)
        results.check(json.loads(json.dumps(result)))
        assert len(result["figures"]) == figures
        assert results.table([result]).count("\n") > figures


def test_gpu_harness_runs_on_the_cpu(quick: Setup) -> None:
    result = gpu.run(replace(quick, width=48, height=32), torch.device("cpu"))
    results.check(json.loads(json.dumps(result)))
    lines = [line for figure in result["figures"] for line in figure["lines"]]
    assert {line["verdict"] for line in lines} == {"", "not measured"}
    same = [line["value"] for line in lines if line["against"] == "CPU"]
    assert same == [0.0, 0.0]


def test_a_side_that_cannot_run_does_not_cost_the_table(
    quick: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("no room\nmore")

    good, bad = gpu_sides.working({"ours": lambda: None, "gsplat 64": broken})
    assert list(good) == ["ours"] and bad == {"gsplat 64": "no room"}
    monkeypatch.setattr(gpu, "sides_of", lambda job, work: {"ours float32": broken})
    result = gpu.run(replace(quick, width=32, height=32, rounds=1), torch.device("cpu"))
    results.check(result)
    assert "no room" in results.table([result])


def test_gpu_command_says_that_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu"])
    assert gpu.main() == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert "no CUDA device" in said.err


def test_a_lift_is_whole(quick: Setup) -> None:
    found = lift.once(quick)
    assert found["finite"] and found["views"] == 6
    assert found["seconds"] >= sum(found["stages"].values()) * 0.9
    assert {"weights", "solve", "decoder"} <= set(found["stages"])


def test_sides_take_turns() -> None:
    calls: list[str] = []
    sides = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    timings = interleave(sides, rounds=3, warmup=2)
    assert calls == list("ab") * 5
    assert len(timings["a"].seconds) == len(timings["b"].cpu_seconds) == 3
    assert quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (2.0, 3.0, 4.0)


def test_verdicts() -> None:
    line = Line("f", "what", "ours", "rival", 19.9, goal=20.0)
    assert line.verdict == "missed"
    assert replace(line, value=20.0).verdict == "reached"
    assert replace(line, value=None).verdict == "not measured"
    assert replace(line, goal=None).verdict == ""
    assert replace(line, value=1.05, goal=1.1, better="lower").verdict == "reached"
    assert replace(line, value=1.2, goal=1.1, better="lower").verdict == "missed"


def test_check_refuses_what_is_not_a_result(quick: Setup) -> None:
    machine = {"cpu": "", "threads": 1, "versions": {}, "commit": "", "load_average": [0.0]}
    side = {"seconds": [1.0], "median_s": 1.0}
    record = Record("f", "what", 1, {"ours": side}, lines=[Line("f", "what", "ours", "", 1.0)])
    good = results.report("splat", machine, quick.to_json(), {}, [record])
    results.check(good)
    for bad in (
        {**good, "schema": "fit3d-bench/0"},
        {k: v for k, v in good.items() if k != "scene"},
        {**good, "machine": {}},
        {**good, "figures": [{**good["figures"][0], "rounds": 2}]},
    ):
        with pytest.raises(ValueError):
            results.check(bad)


def test_options_reach_a_child_process() -> None:
    given = setup_from(parser("x").parse_args(["--quick", "--dim", "5", "--only", "a", "b"]))
    assert (given.dim, given.rounds, given.only, given.quick) == (5, 2, ("a", "b"), True)
    assert Setup.from_json(json.dumps(given.to_json())) == given
    assert given.wants("a") and not given.wants("c")


def test_peak_memory_is_seen() -> None:
    # Memory of its own: an allocator might hand out pages that are resident already.
    found = memory.measure(lambda: np.frombuffer(mmap.mmap(-1, 64_000_000), np.uint8).sum())
    if found is None:
        pytest.skip("no /proc/self/clear_refs")
    assert 60e6 < found["growth_bytes"] < 100e6
    assert memory.measure(lambda: None)["growth_bytes"] < 8e6


@pytest.mark.slow
def test_peak_memory_of_a_side_in_its_own_process(quick: Setup) -> None:
    found = memory.measure_apart("benchmarks.splat", "forward", "tiles", quick.to_json())
    assert found is None or found["growth_bytes"] > 1e6


@pytest.mark.slow
def test_a_side_that_fails_apart_is_an_error(quick: Setup) -> None:
    with pytest.raises(RuntimeError, match="forward, nobody"):
        memory.measure_apart("benchmarks.splat", "forward", "nobody", quick.to_json())
