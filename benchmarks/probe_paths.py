"""The fast preset of the probe beside the exact ones: same data, same models, figures and time.

    python -m benchmarks.probe_paths [seg camvid --data DIR] [--presets fast,fixed] [--steps N]

Without a dataset a few built-in rooms are generated. ``--steps`` is for the exact presets, whose
published tens of thousands take a GPU. The differences are those of single pictures, paired, with
their 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from fit3d_cli.probing.run import run_probe
from fit3d_cli.progress import Progress
from fit3d_cli.report import Report
from fit3d_cli.rooms import write_room
from fit3d_cli.settings import BackboneSettings, ProbeSettings
from fit3d_cli.statistics import Measured, make_rows
from fit3d_cli.storage import write_json

ROOMS = {"train": 3, "test": 2}
SHOWN = {"seg": ("miou", "macc", "aacc", "image_miou"), "depth": ("rmse", "abs_rel", "delta1")}


def parser() -> argparse.ArgumentParser:
    """What the command is told."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("task", nargs="?", default="seg", choices=sorted(SHOWN))
    made.add_argument("dataset", nargs="?", default="rooms")
    made.add_argument("--data", metavar="DIR", default="")
    made.add_argument("--presets", default="fast,fixed", help="of fast, fixed, parity")
    made.add_argument("--models", default="base")
    made.add_argument("--backbone", default="room-tiny")
    made.add_argument("--weights", default="")
    made.add_argument("--tuned", default="")
    made.add_argument("--width", type=int, default=448, help="of the fast preset's pictures")
    made.add_argument("--batch", type=int, default=4, help="pictures per forward pass")
    made.add_argument("--steps", type=int, default=300, help="of the exact presets, 0 = published")
    made.add_argument("--fast-steps", type=int, default=0, help="of the fast preset, 0 = its own")
    made.add_argument("--max-images", type=int, default=0)
    made.add_argument("--device", default="auto")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--workspace", type=Path, help="kept; else a temporary one")
    made.add_argument("--out", type=Path, metavar="FILE.json")
    return made


def measure(options: argparse.Namespace, workspace: Path) -> dict[str, tuple[Report, float]]:
    """Report and seconds of every preset."""
    if options.dataset == "rooms" and not options.data:
        for split, count in ROOMS.items():
            for number in range(count):
                folder = workspace / "datasets" / "rooms" / split / f"room-{number}"
                seed = 100 * options.seed + number + (50 if split == "test" else 0)
                write_room(folder, seed, views=3, width=160, height=120)
    found = {}
    for preset in options.presets.split(","):
        settings = ProbeSettings(
            backbone=BackboneSettings(
                name=options.backbone, weights=options.weights, width=options.width,
                batch=options.batch,
            ),
            tuned=options.tuned, data=options.data, models=tuple(options.models.split(",")),
            preset=preset, steps=options.fast_steps if preset == "fast" else options.steps,
            max_images=options.max_images, drift_images=0,
        )  # fmt: skip
        began = time.perf_counter()
        done = run_probe(
            options.task, options.dataset, settings, workspace=workspace, device=options.device,
            seed=options.seed, on_event=_tell(preset),
        )  # fmt: skip
        found[preset] = done.report, time.perf_counter() - began
    return found


def compare(found: dict[str, tuple[Report, float]], task: str) -> dict[str, Any]:
    """Figures by preset and model, and the paired differences to the first preset."""
    result: dict[str, Any] = {"presets": {}, "differences": {}}
    for preset, (report, seconds) in found.items():
        figures = {
            row.model: {name: row.figures[name].to_dict() for name in SHOWN[task]}
            for row in report.rows
        }
        result["presets"][preset] = {
            "seconds": seconds, "figures": figures, "notes": list(report.notes),
        }  # fmt: skip
    first = next(iter(found))
    for number, row in enumerate(found[first][0].rows):
        samples = {p: Measured(report.rows[number].samples) for p, (report, _) in found.items()}
        for made in make_rows(samples, reference=first)[1:]:
            result["differences"][f"{row.model}: {made.model} - {first}"] = {
                name: figure.to_dict() for name, figure in made.differences.items()
            }
    return result


def table(result: dict[str, Any]) -> str:
    """For people."""
    lines = []
    for preset, one in result["presets"].items():
        for model, figures in one["figures"].items():
            shown = "  ".join(f"{name} {_interval(f)}" for name, f in figures.items())
            lines.append(f"{preset:7}{model:8}{one['seconds']:8.1f} s  {shown}")
    for name, figures in result["differences"].items():
        shown = "  ".join(f"{metric} {_interval(f)}" for metric, f in figures.items())
        lines.append(f"{name}: {shown}")
    return "\n".join(lines)


def _interval(figure: dict[str, Any]) -> str:
    ends = [figure["low"], figure["high"]]
    shown = "" if None in ends else f" [{ends[0]:.4f}, {ends[1]:.4f}]"
    return f"{figure['value']:.4f}{shown}"


def _tell(preset: str) -> Any:
    def tell(event: Progress) -> None:
        if event.done % 50 == 0 or event.done == event.total:
            text = f"{preset}: {event.stage} {event.done}/{event.total} {event.note}"
            print(text, file=sys.stderr, flush=True)

    return tell


def main() -> int:
    """Measure, print, write."""
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, options.workspace or Path(folder))
    result = compare(found, options.task)
    result["command"] = " ".join(sys.argv[1:])
    result["machine"] = machine.describe(options.threads)
    print(table(result))
    if options.out is not None:
        write_json(options.out, json.loads(json.dumps(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
