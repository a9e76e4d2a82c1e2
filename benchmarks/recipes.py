"""Recipes on a declared split: tune on some captures, measure on what was never trained on.

    python -m benchmarks.recipes --data DIR --weights FILE --workspace DIR [--stage validation]
        [--recipe NAME=PROFILE[:key=value,...]] ...

The split is fixed here, before anything is measured. Recipes are chosen on the validation stage;
the test stage is run once for those that are reported:

| stage | tuned on | correspondence, depth | segmentation |
|---|---|---|---|
| validation | hololens_office, fox, ethiopian_head, apc_shelf | sevenscenes_redkitchen | CamVid train: frames 1-267 teach the head, 278-367 are scored |
| test | sevenscenes_redkitchen, fox, ethiopian_head, apc_shelf | hololens_office | CamVid train teaches, val is scored |

Everything is a ``fit3d`` command, printed before it runs; reports stay in the workspace, one
folder per recipe. The table at the end is Markdown; ``--out`` keeps it with the figures as JSON.

    python -m benchmarks.recipes --table FILE.json ...    # the table of earlier runs
    python -m benchmarks.recipes --table FILE.json ... --against NAME

The last prints tuned models against the tuned model of another recipe instead of the base, from the
per-item values of the reports: same pairs, same pictures, neighbours resampled together.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from fit3d_cli.statistics import Measured, make_rows

BACKBONE = "vit_tiny_patch16_224"
CROP = 128  # pixels of a picture of --cls
GAP = 10  # frames between the CamVid frames that teach and those that are scored
# Items that are resampled together: pairs of query views beside each other, frames of a video.
BLOCKS = {"corr": 8, "depth": 4, "seg": 5}
HEADLINES = {
    "corr": (
        "recall@1patch", "recall@1patch:0-15deg", "recall@1patch:15-30deg",
        "recall@1patch:30-60deg", "recall@1patch:60-180deg",
    ),
    "depth": ("rmse",),
    "seg": ("miou",),
    "cls": ("patch_top1",),
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """Who teaches and who is scored."""

    tuned_on: tuple[str, ...]
    scored: str


STAGES = {
    "validation": Stage(
        ("hololens_office", "fox", "ethiopian_head", "apc_shelf"), "sevenscenes_redkitchen"
    ),
    "test": Stage(
        ("sevenscenes_redkitchen", "fox", "ethiopian_head", "apc_shelf"), "hololens_office"
    ),
}


@dataclass(frozen=True)
class Recipe:
    """A tuned model: a profile and what differs from it."""

    name: str
    profile: str
    settings: tuple[str, ...]

    @staticmethod
    def parse(text: str) -> Recipe:
        """``NAME=PROFILE[:key=value,...]``."""
        name, _, rest = text.partition("=")
        profile, _, settings = rest.partition(":")
        return Recipe(name, profile or name, tuple(s for s in settings.split(",") if s))


def main() -> int:
    """Lift, tune, measure; print the table."""
    parsed = _options()
    if parsed.table:
        results = [json.loads(path.read_text(encoding="utf-8")) for path in parsed.table]
        found = [row for result in results for row in result["rows"]]
        print(against(found, parsed.against) if parsed.against else table(found))
        return 0
    runner = _Runner(parsed)
    stage = STAGES[parsed.stage]
    camvid = camvid_tree(parsed.data / "camvid", parsed.stage, parsed.workspace)
    for name in (*stage.tuned_on,):
        runner.lift(name)
    rows = []
    for text in parsed.recipe:
        recipe = Recipe.parse(text)
        seconds = runner.tune(recipe, stage)
        reports = {
            "corr": runner.probe(recipe, "corr", str(parsed.data / stage.scored)),
            "depth": runner.probe(recipe, "depth", str(parsed.data / stage.scored)),
            "seg": runner.probe(recipe, "seg", "camvid", "--data", str(camvid)),
        }
        if parsed.cls:
            reports["cls"] = runner.probe(
                recipe, "cls", str(parsed.cls), "--set", f"probe.backbone.width={CROP}"
            )
        rows.append({"recipe": recipe.name, "seconds": seconds, "reports": reports})
        result = {
            "schema": "fit3d-recipes/1",
            "stage": parsed.stage,
            "machine": machine.describe(len(os.sched_getaffinity(0))),
            "commands": runner.commands,
            "rows": rows,
        }
        if parsed.out:
            parsed.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(table(rows))
    return 0


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line per model, every figure with its paired interval to the base."""
    columns = [
        (task, name)
        for task, names in HEADLINES.items()
        for name in names
        if any(name in _row(r, task, 0).get("figures", {}) for r in rows)
    ]
    lines = [
        "| model | " + " | ".join(f"{task} {name}" for task, name in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for number, row in enumerate(rows):
        for index, model in enumerate(("base", "tuned", "concat")):
            if model == "base" and number:
                continue
            label = {"base": "base", "tuned": row["recipe"], "concat": f"{row['recipe']} + base"}
            cells = [_cell(_row(row, task, index), name) for task, name in columns]
            lines.append(f"| {label[model]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def against(rows: list[dict[str, Any]], name: str) -> str:
    """Markdown: each recipe's tuned model minus that of ``name``, with paired intervals.

    Figures are means over items: for segmentation the mean of the pictures' mIoU, as the mIoU of
    the whole split has no per-item values.

    Raises:
        SystemExit: No recipe of that name.
    """
    reference = next((row for row in rows if row["recipe"] == name), None)
    if reference is None:
        raise SystemExit(f"no recipe {name!r} among {', '.join(row['recipe'] for row in rows)}")
    figures = {**HEADLINES, "seg": ("image_miou",)}
    columns = [(task, figure) for task, names in figures.items() for figure in names
               if figure in _row(reference, task, 1).get("samples", {})]  # fmt: skip
    lines = [
        f"| minus {name} | " + " | ".join(f"{t} {f}" for t, f in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row in rows:
        if row is not reference:
            cells = [_difference(row, reference, task, figure) for task, figure in columns]
            lines.append(f"| {row['recipe']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _difference(row: dict[str, Any], reference: dict[str, Any], task: str, figure: str) -> str:
    pair = [_row(r, task, 1)["samples"].get(figure, []) for r in (reference, row)]
    if len(pair[0]) != len(pair[1]):
        raise SystemExit(f"{row['recipe']}: other items than {reference['recipe']} in {task}")
    values = [[float("nan") if v is None else v for v in one] for one in pair]
    # Items are in the order of their views or frames: those beside each other are alike.
    groups = [index // BLOCKS.get(task, 1) for index in range(len(values[0]))]
    _, other = make_rows(
        {"reference": Measured({figure: values[0]}), "other": Measured({figure: values[1]})},
        groups=groups, reference="reference",
    )  # fmt: skip
    found = other.differences[figure]
    noise = ", noise" if found.low <= 0 <= found.high else ""
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f}{noise})"


def _row(row: dict[str, Any], task: str, index: int) -> dict[str, Any]:
    rows = row["reports"].get(task, {}).get("rows", [])
    found: dict[str, Any] = rows[index] if index < len(rows) else {}
    return found


def _cell(row: dict[str, Any], name: str) -> str:
    figure = row.get("figures", {}).get(name)
    if figure is None or figure["value"] is None:
        return "-"
    shown = f"{figure['value']:.3f}"
    difference = row.get("differences", {}).get(name)
    if difference is None:
        return shown
    if difference["low"] is None:
        return f"{shown} (no interval)"
    noise = difference["low"] <= 0 <= difference["high"]
    return f"{shown} ({difference['low']:+.3f} to {difference['high']:+.3f}{', noise' * noise})"


class _Runner:
    """Runs ``fit3d`` commands and remembers them."""

    def __init__(self, parsed: argparse.Namespace) -> None:
        self.parsed = parsed
        self.commands: list[str] = []
        self.program = [sys.executable, "-m", "fit3d_cli"]
        self.model = ["--backbone", BACKBONE, "--weights", str(parsed.weights)]

    def run(self, *words: str) -> dict[str, Any]:
        """One command with ``--json``; ends the benchmark where it fails."""
        common = ["--workspace", str(self.parsed.workspace), "--seed", str(self.parsed.seed)]
        command = [*words, *common]
        self.commands.append(shlex.join(["fit3d", *command]))
        print("$ " + self.commands[-1], file=sys.stderr, flush=True)
        done = subprocess.run(
            [*self.program, *command, "--json", "--quiet"],
            cwd=machine.ROOT, stdout=subprocess.PIPE, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(machine.ROOT)},
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"ended with {done.returncode}: {self.commands[-1]}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def lift(self, capture: str) -> None:
        """Lift a capture, unless that is done."""
        extra = [word for s in self.parsed.lift for word in ("--set", s)]
        self.run("lift", str(self.parsed.data / capture), *self.model, *extra)

    def tune(self, recipe: Recipe, stage: Stage) -> float:
        """Tune a model; returns the wall seconds, of this run."""
        scenes = [str(self.parsed.workspace / "scenes" / f"{s}.f3d") for s in stage.tuned_on]
        extra = [word for s in recipe.settings for word in ("--set", s)]
        began = time.monotonic()
        name = f"{recipe.name}-{self.parsed.stage}"
        self.run("finetune", *scenes, "--profile", recipe.profile, "--name", name, *extra)
        return time.monotonic() - began

    def probe(self, recipe: Recipe, task: str, *words: str) -> dict[str, Any]:
        """Measure a tuned model beside the base."""
        model = self.parsed.workspace / "models" / f"{recipe.name}-{self.parsed.stage}"
        extra = [word for s in self.parsed.probe for word in ("--set", s)]
        report = self.run("probe", task, *words, "--tuned", str(model), *self.model, *extra)
        kept = self.parsed.workspace / "recipes" / f"{recipe.name}-{self.parsed.stage}"
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copy(report["path"], kept / Path(report["path"]).name)
        return report


def camvid_tree(source: Path, stage: str, workspace: Path) -> Path:
    """The CamVid tree of a stage: the data itself, or links to parts of its training split."""
    if stage == "test":
        return source
    place = workspace / "datasets" / "camvid-validation"
    for kind in ("images", "labels"):
        files = sorted((source / "train" / kind).iterdir())
        for split, part in (("train", files[:267]), ("val", files[267 + GAP :])):
            folder = place / split / kind
            folder.mkdir(parents=True, exist_ok=True)
            for file in part:
                target = folder / file.name
                if not target.exists():
                    shutil.copyfile(file, target)
    return place


def _options() -> argparse.Namespace:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--table", type=Path, nargs="+", help="print the table of these and stop")
    made.add_argument("--against", metavar="NAME", help="with --table: recipe to compare with")
    made.add_argument("--data", type=Path, help="folder of the captures and CamVid")
    made.add_argument("--weights", type=Path, help=f"of {BACKBONE}")
    made.add_argument("--workspace", type=Path)
    made.add_argument("--stage", choices=sorted(STAGES), default="validation")
    made.add_argument(
        "--recipe", action="append", metavar="NAME=PROFILE[:key=value,...]",
        help="repeatable; default: fit3d-paper, corr-paper, single",
    )  # fmt: skip
    made.add_argument("--lift", action="append", default=[], metavar="key=value")
    made.add_argument("--probe", action="append", default=[], metavar="key=value")
    made.add_argument("--cls", type=Path, help="image folder for k-NN classification")
    made.add_argument("--out", type=Path, help="JSON")
    made.add_argument("--seed", type=int, default=0)
    parsed = made.parse_args()
    parsed.recipe = parsed.recipe or ["fit3d-paper", "corr-paper", "single"]
    for name in ("data", "weights", "workspace"):
        if getattr(parsed, name) is not None:
            setattr(parsed, name, getattr(parsed, name).resolve())
        elif not parsed.table:
            made.error(f"--{name} is needed")
    return parsed


if __name__ == "__main__":
    raise SystemExit(main())
