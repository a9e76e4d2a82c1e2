"""Memory that does not grow with what is done: views, scenes, epochs, the size of an archive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.reliability._measuring import measuring
from tests.reliability._views import many_views, scene_of, small_room, write_backbone
from tests.reliability.base import Outcome, Trial, check

MIB = 1 << 20
ALLOWED = 64 * MIB  # from 10 to 1,000 views
NOISE = 8 * MIB  # of the allocators, from run to run
WIDTH, HEIGHT = 320, 240
BUDGET = 8  # MiB that may be kept
LIFT = (
    "--set", "lift.isolate=never", "--set", f"lift.memory={BUDGET}",
    "--set", f"lift.backbone.width={WIDTH}", "--set", "lift.geometry.iterations=10",
    "--set", "lift.geometry.init_gaussians=500", "--set", "lift.geometry.densify=false",
    "--set", "lift.features.dim=16",
)  # fmt: skip


def judged(
    outcome: Outcome, figures: dict[str, dict[int, int]], trial: Trial, unit: str = "views"
) -> None:
    """Compare the largest with the smallest of each row, and tell both."""
    told = []
    for what, rises in figures.items():
        few, many = min(rises), max(rises)
        growth = rises[many] - rises[few]
        # A smaller step up is allowed its part, and what allocators do by chance.
        allowed = ALLOWED if trial.whole else ALLOWED * (many - few) // 990 + NOISE
        outcome.cases += len(rises)
        outcome.require(
            growth <= allowed,
            f"{what}: {growth / MIB:.1f} MiB more at {many} {unit} than at {few}, "
            f"{allowed / MIB:.1f} allowed",
        )
        steps = " / ".join(f"{rise / MIB:.1f}" for rise in rises.values())
        told.append(f"{what} {steps} MiB at {' / '.join(map(str, rises))} {unit}")
    outcome.figure = "; ".join(filter(None, [outcome.figure, *told]))


def least(trial: Trial, run: Callable[[int], int]) -> int:
    """The least rise of some runs: chance only adds."""
    return min(run(turn) for turn in range(trial.size(2, 1)))


def sizes(trial: Trial) -> Sequence[int]:
    """How many views."""
    return (10, 100, 1000) if trial.whole else (10, 40)


def world(trial: Trial) -> tuple[Path, dict[int, Path]]:
    """A tiny model, and captures by their number of views."""
    model = write_backbone(trial.folder / "midget", 0)
    room = small_room(trial.folder / "room", WIDTH, HEIGHT, views=trial.size(10, 3))
    (trial.folder / "captures").mkdir()
    captures = {
        views: many_views(room, trial.folder / "captures" / f"hall{views}", views)
        for views in sizes(trial)
    }
    return model, captures


@check(
    "memory-lift",
    area="Resources",
    promise="fit3d lift needs no more memory for more photos",
    goal="10 to 1,000 views: at most 64 MiB more",
)
def memory_lift(trial: Trial) -> Outcome:
    outcome = Outcome()
    model, captures = world(trial)
    # Validation takes up to 32 views: what it needs is the same from some 130 views on.
    aside = () if trial.whole else ("--set", "lift.features.validation=0")
    with measuring() as process:

        def lift(views: int, turn: int, *more: str) -> int:
            place = trial.folder / f"lifted{views}-{turn}{len(more)}"
            return process.command(
                "lift", captures[views], "--workspace", place, "--backbone", model, *LIFT, *more,
                *aside,
            )  # fmt: skip

        rises = {views: least(trial, lambda turn, v=views: lift(v, turn)) for views in captures}
        judged(outcome, {"lift": rises}, trial)
        if trial.whole:
            # The measure must see a lift that keeps everything.
            few, more = sorted(captures)[:2]
            kept = lift(more, 0, "--set", "lift.memory=4096") - rises[few]
            allowed = ALLOWED * (more - few) // 990 + NOISE
            outcome.require(kept > allowed, f"a lift that keeps all shows {kept / MIB:.1f} MiB")
            outcome.figure += f"; one that keeps all {kept / MIB:.1f} MiB more at {more} views"
    return outcome


@check(
    "memory-finetune",
    area="Resources",
    promise="fit3d finetune needs no more memory for more views, scenes or epochs",
    goal="10 to 1,000 views: at most 64 MiB more",
    small=False,  # what starts a process hides what few views add
)
def memory_finetune(trial: Trial) -> Outcome:
    outcome = Outcome()
    model, captures = world(trial)
    place = trial.folder / "out"
    few = min(captures)
    with measuring() as process:
        process.command("lift", captures[few], "--workspace", place, "--backbone", model, *LIFT)
        lifted = place / "scenes" / f"{captures[few].name}.f3d"
        scenes = {
            views: scene_of(lifted, capture, place, f"all{views}", views)
            for views, capture in captures.items()
        }
        others = [
            scene_of(lifted, captures[few], place, f"other{number}", 100 + number)
            for number in range(trial.size(40, 4))
        ]

        def tune(name: str, archives: Sequence[Path], *more: str) -> Callable[[int], int]:
            def once(turn: int) -> int:
                return process.command(
                    "finetune", *archives, "--workspace", place, "--set",
                    f"finetune.name={name}-{turn}", *more,
                )  # fmt: skip

            return once

        def steps(count: int) -> tuple[str, str]:
            return "--set", f"finetune.max_steps={count}"

        pairs = ("--set", "finetune.objectives.smooth_ap=1", *steps(trial.size(40, 6)))
        again = ("--set", "finetune.targets.source=relifted", *steps(trial.size(10, 2)))
        figures = {
            "archive targets and pairs": {
                views: least(trial, tune(f"pairs{views}", [archive], *pairs))
                for views, archive in scenes.items()
            }
        }
        if trial.whole:
            figures["relifted targets"] = {
                views: least(trial, tune(f"relifted{views}", [archive], *again))
                for views, archive in scenes.items()
            }
        judged(outcome, figures, trial)
        counts = (1, len(others))
        of_scenes = {
            count: least(trial, tune(f"scenes{count}", others[:count], *pairs)) for count in counts
        }
        judged(outcome, {"": of_scenes}, trial, "scenes")
        epochs = trial.size(100, 4)
        of_epochs = {
            count: least(trial, tune(f"epochs{count}", [scenes[few]], "--epochs", str(count)))
            for count in (1, epochs)
        }
        judged(outcome, {"": of_epochs}, trial, "epochs")
    return outcome


@check(
    "memory-probe",
    area="Resources",
    promise="fit3d probe needs no more memory for more pictures",
    goal="10 to 1,000 views: at most 64 MiB more",
    small=False,  # what starts a process hides what few views add
)
def memory_probe(trial: Trial) -> Outcome:
    outcome = Outcome()
    model, captures = world(trial)
    with measuring() as process:

        def probe(task: str, views: int, turn: int) -> int:
            place = trial.folder / f"{task}{views}-{turn}"
            return process.command(
                "probe", task, captures[views], "--workspace", place, "--models", "base",
                "--backbone", model, "--set", f"probe.memory={BUDGET}",
                "--set", f"probe.backbone.width={WIDTH}", "--set", "probe.steps=20",
                "--set", "probe.batch=4",  # full from the fewest views on
                "--set", "probe.corr.pairs=20", "--set", "probe.drift_images=0",
            )  # fmt: skip

        figures = {
            task: {
                views: least(trial, lambda turn, t=task, v=views: probe(t, v, turn))
                for views in captures
            }
            for task in ("depth", "corr")
        }
    judged(outcome, figures, trial)
    return outcome


def opened(path: str) -> dict[str, object]:
    """What an archive says of itself, and one small tensor of it."""
    from fit3d_cli.archive import describe
    from fit3d_cli.tensorfile import open_tensors

    with open_tensors(Path(path)) as file:
        cameras = file.read("cam.viewmats")
    return {"gaussians": describe(Path(path))["gaussians"], "cameras": len(cameras)}


def huge_archive(model: Path, folder: Path, size: int) -> tuple[Path, int]:
    """An archive of ``size`` bytes, nearly all of them a hole, and its number of Gaussians."""
    from dataclasses import replace

    from fit3d_cli.archive import read_manifest
    from fit3d_cli.tensorfile import DTYPES, TensorInfo, read_tensors
    from fit3d_cli.tensorfile.header import encode_header

    small = model
    manifest = read_manifest(small)
    tensors, _ = read_tensors(small)
    of_gaussians = {name for name in tensors if name.startswith("g.")}
    count = len(tensors["g.means"])
    per_row = sum(tensors[name][0].nbytes for name in of_gaussians)
    rows = size // per_row
    infos, records, offset = {}, {}, 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        tensor, record = tensors[name], manifest.tensors[name]
        shape = (rows, *tensor.shape[1:]) if name in of_gaussians else tuple(tensor.shape)
        end = offset + tensor.nbytes // (count if name in of_gaussians else 1) * (
            rows if name in of_gaussians else 1
        )
        assert DTYPES[record.dtype] == tensor.dtype
        infos[name] = TensorInfo(record.dtype, shape, offset, end)
        records[name] = replace(record, shape=shape)
        offset = end
    header = encode_header(infos, replace(manifest, tensors=records).to_metadata())
    path = folder / "huge.f3d"
    with path.open("wb") as file:
        file.write(header)
        for name, info in infos.items():
            if name not in of_gaussians:
                file.seek(len(header) + info.begin)
                file.write(tensors[name].contiguous().numpy().tobytes())
        file.truncate(len(header) + offset)
    return path, rows


@check(
    "memory-archive",
    area="Resources",
    promise="Opening an archive reads what is asked for, not the file",
    goal="2 GB: at most 50 MiB more",
)
def memory_archive(trial: Trial) -> Outcome:
    outcome = Outcome()
    backbone = write_backbone(trial.folder / "midget", 0)
    room = small_room(trial.folder / "room", 32, 24, views=4)
    place = trial.folder / "out"
    with measuring() as process:
        process.command(
            "lift", room, "--workspace", place, "--backbone", backbone, *LIFT,
            "--set", "lift.geometry.width=32", "--set", "lift.backbone.width=32",
        )  # fmt: skip
        small = next((place / "scenes").glob("*.f3d"))
        path, rows = huge_archive(small, trial.folder, 2_000_000_000)
        for what, call in (
            ("read a tensor of", lambda p: process.call(
                "tests.reliability.memory:opened", path=str(p))),
            ("fit3d info", lambda p: process.call(
                "tests.reliability._measuring:command", words=["info", str(p), "--json"])),
        ):  # fmt: skip
            base, found = call(small), call(path)
            assert not base["error"] and not found["error"], found["error"] or base["error"]
            more = found["rise"] - base["rise"]
            outcome.cases += 1
            outcome.require(str(rows) in str(found["value"]), f"{what}: {found['value']}")
            outcome.require(more <= 50 * MIB, f"{what}: {more / MIB:.1f} MiB more")
            outcome.figure += f"{what} a {path.stat().st_size / 1e9:.1f} GB archive: " + (
                f"{max(more, 0) / MIB:.1f} MiB more than of a small one; "
            )
    outcome.figure = outcome.figure.rstrip("; ")
    return outcome
