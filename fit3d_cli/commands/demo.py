"""``fit3d demo``: the whole chain on the built-in rooms."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fit3d_cli.commands._options import DEFAULT_WORKSPACE, Run

if TYPE_CHECKING:
    from fit3d_cli.lifting.lift import LiftResult
    from fit3d_cli.progress import OnEvent
    from fit3d_cli.report import Report
    from fit3d_cli.settings import Settings

PROFILE = "demo"
WORKSPACE = Path("fit3d-demo")
WIDTH, HEIGHT = 192, 144
LIFT_ROOMS, LIFT_VIEWS = 3, 24
# Few views of many rooms: heads and scores should not hang on one kind of furniture.
PROBE_ROOMS = {"train": 10, "test": 8}
PROBE_VIEWS = 4
PHOTO_BYTES = 100_000  # of a made photo with its depth and labels


def demo(
    run: Run,
    rooms: Annotated[
        int | None, typer.Option(min=1, max=100, metavar="N", help="Rooms to lift (3).")
    ] = None,
) -> None:
    """Generate rooms, lift, render, finetune, probe on unseen rooms, compare. Offline, on a CPU.

    Takes a few minutes on two cores; run it again to go on after an interruption. Results go to
    WORKSPACE (fit3d-demo here).
    """
    workspace = WORKSPACE if run.workspace == DEFAULT_WORKSPACE else run.workspace
    run = dataclasses.replace(run, profile=run.profile or PROFILE, workspace=workspace)
    resolved = run.resolve()
    count = rooms or LIFT_ROOMS
    if run.dry_run:
        unseen = {f"unseen rooms, {split}": n for split, n in PROBE_ROOMS.items()}
        run.show_settings(resolved, {"rooms to lift": count, **unseen})
        return

    from fit3d_cli import storage
    from fit3d_cli.archive import read_archive
    from fit3d_cli.backbones.load import load_backbone
    from fit3d_cli.comparing.compare import compare
    from fit3d_cli.device import resolve_device
    from fit3d_cli.finetuning.finetune import finetune
    from fit3d_cli.lifting.lift import lift_captures
    from fit3d_cli.probing.run import run_probe
    from fit3d_cli.rendering import render_scene
    from fit3d_cli.splat.backends import splat_device

    began = time.monotonic()
    settings = resolved.settings
    common: dict[str, Any] = {"workspace": workspace, "device": run.device, "seed": run.seed}
    # What cannot end well must not begin: the rooms alone take a while and some disk.
    storage.require_writable(workspace)
    _require_room(settings, count, workspace)
    resolve_device(run.device)
    splats = splat_device(run.device)
    load_backbone(settings.lift.backbone.name, weights=settings.lift.backbone.weights)
    with run.progress() as on_event:
        _write_rooms(workspace, count, run.seed, on_event)
        captures = workspace / "captures"
        scenes = lift_captures([captures], settings.lift, on_event=on_event, **common)
        failed = [scene for scene in scenes if scene.error is not None]
        if failed:
            sys.stderr.write(f"fit3d: error: {failed[0].error}\n")
            raise typer.Exit(failed[0].exit_code)
        archives = [scene.path for scene in scenes if scene.path is not None]
        first = read_archive(archives[0]).to(splats)
        pictures = workspace / "renders" / first.name
        rendered: dict[str, Any] = {"width": settings.render.width, "out": pictures}
        rendered |= {"frames": settings.render.frames, "fps": settings.render.fps}
        for views, video in (("held-out", settings.render.video), ("orbit", "gif")):
            render_scene(
                first, what=settings.render.what, views=views, video=video, on_event=on_event,
                **rendered,
            )  # fmt: skip
        tuned = finetune(archives, settings.finetune, captures=[], on_event=on_event, **common)
        reports = [
            run_probe(task, "rooms", settings.probe, on_event=on_event, **common).report
            for task in ("seg", "depth")
        ]
        page = compare(
            [], settings.compare, differences=resolved.differences(), command="fit3d demo",
            on_event=on_event, **common,
        ).page  # fmt: skip
    if run.as_json:
        run.emit(
            {
                "scenes": [_scene(scene) for scene in scenes],
                "finetune": {
                    "steps": tuned.steps,
                    "loss_first": tuned.loss_first,
                    "loss_last": tuned.loss_last,
                    "heldout_before": tuned.heldout_before,
                    "heldout_after": tuned.heldout_after,
                    "seconds": tuned.seconds,
                },
                "probe": [
                    {
                        "task": report.task,
                        "dataset": report.dataset,
                        "model": row.model,
                        "metrics": dict(row.metrics),
                    }
                    for report in reports
                    for row in report.rows
                ],
                "report": page,
                "seconds": time.monotonic() - began,
            }
        )
        return
    _print(run, scenes, reports, pictures, page, time.monotonic() - began)


def _require_room(settings: Settings, rooms: int, workspace: Path) -> None:
    """Refuse before the rooms are made what the whole chain has no room for."""
    from fit3d_cli.backbones.facts import model_facts
    from fit3d_cli.lifting.preflight import lift_sizes
    from fit3d_cli.preflight import Needs, require

    model = model_facts(settings.lift.backbone.name, settings.lift.backbone.weights)
    sizes = lift_sizes([(WIDTH, HEIGHT)] * LIFT_VIEWS, settings.lift, model.patch_size, model.dim)
    photos = rooms * LIFT_VIEWS + PROBE_VIEWS * sum(PROBE_ROOMS.values())
    seen = 2 * model.dim * sizes.tokens * PROBE_VIEWS * sum(PROBE_ROOMS.values())
    # Photo, depth and labels; tokens of two models; the tuned model and its checkpoints.
    disk = rooms * sizes.disk() + photos * PHOTO_BYTES + 2 * seen + 12 * 4 * model.params
    require(
        Needs(sizes.memory(), 0, disk), where="fit3d demo", disk=workspace,
        less="lower --rooms",
    )  # fmt: skip


def _write_rooms(workspace: Path, count: int, seed: int, on_event: OnEvent) -> None:
    """``captures/room-N`` to lift and to tune on; ``datasets/rooms`` has other rooms to probe on.

    None of these seeds is among those that the built-in backbone was trained on.
    """
    from concurrent.futures import ThreadPoolExecutor

    from fit3d_cli.device import thread_count
    from fit3d_cli.progress import Progress
    from fit3d_cli.rooms import write_room

    probed = workspace / "datasets" / "rooms"
    plan = [(workspace / "captures" / f"room-{i}", LIFT_VIEWS) for i in range(count)]
    plan += [
        (probed / split / f"room-{i}", PROBE_VIEWS)
        for split, rooms in PROBE_ROOMS.items()
        for i in range(rooms)
    ]

    def make(index: int) -> None:
        directory, views = plan[index]
        write_room(directory, 1000 * seed + index, views=views, width=WIDTH, height=HEIGHT)

    with ThreadPoolExecutor(thread_count()) as pool:
        for done, _ in enumerate(pool.map(make, range(len(plan)))):
            on_event(Progress("generate rooms", done + 1, len(plan)))


def _scene(scene: LiftResult) -> dict[str, Any]:
    return {
        "name": scene.name,
        "gaussians": scene.gaussians,
        "psnr_heldout": scene.psnr_heldout,
        "feature_cosine_heldout": scene.feature_cosine_heldout,
        "seconds": scene.seconds,
    }


def _print(
    run: Run,
    scenes: list[LiftResult],
    reports: list[Report],
    pictures: Path,
    page: Path,
    seconds: float,
) -> None:
    from fit3d_cli.commands import _figures, _show

    columns = ("scene", "gaussians", "PSNR held-out", "feature cosine held-out")
    rows = [(s.name, s.gaussians, s.psnr_heldout, s.feature_cosine_heldout) for s in scenes]
    _show.table(run.out, columns, rows)
    for report in reports:
        run.out.write("\n")
        _figures.table(run.out, report, every=False)
    run.out.write(f"\npictures: {pictures}\npage: {page}\n")
    run.out.write(f"done in {seconds:.0f} s; rooms are a demonstration, not a benchmark\n")
    run.hint("fit3d lift YOUR_CAPTURE --backbone dinov2-small  (COLMAP, transforms.json or RGB-D)")
