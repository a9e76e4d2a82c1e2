"""Ablations under one small protocol: what helps, what costs, what is noise.

    python -m benchmarks.ablations --data DIR --weights FILE --workspace DIR --out FILE [--row NAME]
    python -m benchmarks.ablations --out FILE --page docs/ablations.md

The first form runs what ``FILE`` does not hold yet, one row after the other, and writes the file
after each command; a row that fails is noted and the next one runs. The second form makes the
tables of the page. Split, captures and backbone are those of ``benchmarks.recipes``, stage
``validation``; rows and protocol stand in ``benchmarks.ablation_rows``. Everything is a ``fit3d``
command.

Geometry and tokens of a capture are cached: only the first lift of a workspace fits the geometry,
the others solve the features again (and make tokens, if their width is another one).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.ablation_page import fill
from benchmarks.ablation_rows import LIFT, PROBE, PROTOCOL, ROWS, TASKS, TUNE, Row
from benchmarks.recipes import BACKBONE, STAGES, camvid_tree

SCHEMA = "fit3d-ablations/1"
STAGE = "validation"


class CommandError(Exception):
    """A ``fit3d`` command ended with an error."""


@dataclass(frozen=True)
class Runner:
    """Runs ``fit3d`` commands in one workspace and measures each.

    Attributes:
        data: Folder of the captures and CamVid.
        weights: Of the backbone.
        workspace: Where everything goes.
        seed: Of every command.
    """

    data: Path
    weights: Path
    workspace: Path
    seed: int

    def run(self, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """One command; returns its JSON, and its time, memory and the machine's load.

        ``cpu_seconds`` and ``peak_bytes`` come from ``wait4``: of this command alone.

        Raises:
            CommandError: It ended with an error; the message is its last line.
        """
        command = [*words, "--workspace", str(self.workspace), "--seed", str(self.seed)]
        shown = shlex.join(["fit3d", *command])
        print("$ " + shown, file=sys.stderr, flush=True)
        load, began = os.getloadavg()[0], time.monotonic()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as told:
            process = subprocess.Popen(
                [sys.executable, "-m", "fit3d_cli", *command, "--json", "--quiet"],
                cwd=machine.ROOT, stdout=out, stderr=told,
                env={**os.environ, "PYTHONPATH": str(machine.ROOT)},
            )  # fmt: skip
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.monotonic() - began
            out.seek(0)
            told.seek(0)
            if process.returncode:
                lines = told.read().decode(errors="replace").strip().splitlines()
                why = next((x for x in lines if x.startswith("fit3d: error")), (lines or [""])[-1])
                raise CommandError(f"exit {process.returncode}: {why} [{shown}]")
            found: dict[str, Any] = json.loads(out.read())
        return found, {
            "command": shown,
            "seconds": seconds,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_bytes": usage.ru_maxrss * 1024,
            "load": [load, os.getloadavg()[0]],
        }

    def lift(self, settings: tuple[str, ...], variant: str) -> dict[str, Any]:
        """Lift all captures that teach; keep the archives as ``<workspace>/lifted/<variant>``."""
        kept = self.workspace / "lifted" / variant
        kept.mkdir(parents=True, exist_ok=True)
        lifts: dict[str, Any] = {"captures": {}, "settings": list(settings)}
        for name in STAGES[STAGE].tuned_on:
            archive = self.workspace / "scenes" / f"{name}.f3d"
            archive.unlink(missing_ok=True)
            found, measured = self.run(
                "lift", str(self.data / name), "--backbone", BACKBONE,
                "--weights", str(self.weights), *sets((*LIFT, *settings)),
            )  # fmt: skip
            (scene,) = found["scenes"]
            shutil.copyfile(archive, kept / archive.name)
            lifts["captures"][name] = {
                **measured,
                "archive_bytes": archive.stat().st_size,
                "gaussians": scene["gaussians"],
                "feature_cosine_heldout": scene["feature_cosine_heldout"],
            }
        return lifts

    def tune(self, row: Row) -> dict[str, Any]:
        """Tune one row's model; what it took."""
        archives = [
            str(self.workspace / "lifted" / row.variant / f"{name}.f3d")
            for name in STAGES[STAGE].tuned_on
        ]
        settings = tuple(f"finetune.{s}" for s in (*TUNE, *row.tune))
        tuned, measured = self.run("finetune", *archives, "--name", row.name, *sets(settings))
        return {**measured, "steps": tuned["steps"]}

    def probe(self, row: Row, task: str, camvid: Path) -> dict[str, Any]:
        """Measure one row's model; the report without the figures of single items."""
        scored = str(self.data / STAGES[STAGE].scored)
        words = ["camvid", "--data", str(camvid)] if task == "seg" else [scored]
        # Linear fusion is learnt with a head, and matching has none.
        models = [model for model in row.models if task != "corr" or model != "fused"]
        report, measured = self.run(
            "probe", task, *words, "--tuned", str(self.workspace / "models" / row.name),
            "--backbone", BACKBONE, "--weights", str(self.weights),
            "--models", ",".join(models), *sets(PROBE),
        )  # fmt: skip
        for line in report["rows"]:
            del line["samples"]
        return {**report, "cpu_seconds": measured["cpu_seconds"]}


def main() -> int:
    """Run what is missing, or make the page."""
    parsed = _options()
    known = parsed.out.is_file()
    result = json.loads(parsed.out.read_text(encoding="utf-8")) if known else _empty()
    if parsed.page:
        text = parsed.page.read_text(encoding="utf-8")
        parsed.page.write_text(fill(text, result), encoding="utf-8")
        return 0
    if result["protocol"] != PROTOCOL:
        raise SystemExit(f"{parsed.out} was measured under another protocol: name another file")
    runner = Runner(
        parsed.data.resolve(), parsed.weights.resolve(), parsed.workspace.resolve(), parsed.seed
    )
    camvid = camvid_tree(runner.data / "camvid", STAGE, runner.workspace)

    def keep() -> None:
        result["machine"] = machine.describe(int(os.environ.get("OMP_NUM_THREADS", "0")))
        beside = parsed.out.with_name(parsed.out.name + ".new")
        beside.write_text(json.dumps(result, indent=1), encoding="utf-8")
        beside.replace(parsed.out)

    failed = 0
    for row in (r for r in ROWS if not parsed.row or r.name in parsed.row):
        made: dict[str, Any] = {} if row.same_as else result["rows"].setdefault(row.name, {})
        made.pop("error", None)
        try:
            if row.variant not in result["lifts"]:
                result["lifts"][row.variant] = runner.lift(row.lift, row.variant)
                keep()
            if row.same_as:
                continue
            if "tune" not in made:
                made["tune"] = runner.tune(row)
                keep()
            reports = made.setdefault("reports", {})
            for task in (t for t in TASKS if t not in reports):
                reports[task] = runner.probe(row, task, camvid)
                keep()
        except CommandError as error:
            print(error, file=sys.stderr, flush=True)
            made["error"] = str(error)
            failed += 1
            keep()
    return 1 if failed else 0


def _empty() -> dict[str, Any]:
    return {"schema": SCHEMA, "protocol": PROTOCOL, "lifts": {}, "rows": {}, "machine": {}}


def sets(settings: tuple[str, ...]) -> list[str]:
    """``--set`` words; of several values for one key ``fit3d`` takes the last."""
    return [word for setting in settings for word in ("--set", setting)]


def _options() -> argparse.Namespace:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--data", type=Path, help="folder of the captures and CamVid")
    made.add_argument("--weights", type=Path, help=f"of {BACKBONE}")
    made.add_argument("--workspace", type=Path)
    made.add_argument("--out", type=Path, required=True, help="JSON, read and written")
    made.add_argument("--row", action="append", choices=[row.name for row in ROWS])
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--page", type=Path, help="fill its tables from the JSON, run nothing")
    parsed = made.parse_args()
    if not parsed.page and not (parsed.data and parsed.weights and parsed.workspace):
        made.error("--data, --weights and --workspace are needed to run rows")
    return parsed


if __name__ == "__main__":
    raise SystemExit(main())
