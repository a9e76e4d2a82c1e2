"""Train the small ViT on generated rooms, without labels, and measure what it learned.

    python -m fit3d_cli.rooms.pretrain --out room_vit.safetensors --minutes 15 --seed 0

A tool for developers: this is how the weights that ship with the package were made. First
masked prediction, then a short contrast of patches. With ``--steps`` instead of ``--minutes``
the same machine gives the same bytes again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fit3d_cli.device import seeded
from fit3d_cli.rooms.contrast import PatchContrast
from fit3d_cli.rooms.evaluation import LinearProbe, linear_probe
from fit3d_cli.rooms.masked import MaskedAutoencoder
from fit3d_cli.rooms.samples import Samples, load_samples
from fit3d_cli.rooms.vit import PATCH, RoomViT, architecture
from fit3d_cli.rooms.writing import GENERATOR
from fit3d_cli.tensorfile import read_tensors, write_tensors

# Far from the small seeds that people type, so that demo rooms are unseen.
TRAIN_SEED, FIT_SEED, TEST_SEED = 1_000_000, 2_000_000, 3_000_000
SIZE = {"width": 160, "height": 120}
WARMUP = 100


@dataclass(frozen=True)
class Stage:
    """One part of the training.

    Attributes:
        name: What it is called in the log and in the weights' metadata.
        build: Puts the encoder into a model with a loss.
        share: Of the training time.
        batch: Pictures per step.
        rate: Highest learning rate.
    """

    name: str
    build: Callable[[RoomViT], MaskedAutoencoder | PatchContrast]
    share: float
    batch: int
    rate: float


STAGES = (
    Stage(
        "masked",
        lambda vit: MaskedAutoencoder(vit, width=96, keep=(0.2, 0.3, 0.5), predict=0.25),
        share=0.7, batch=32, rate=2e-3,
    ),
    Stage(
        "contrast",
        lambda vit: PatchContrast(vit, keep=0.6, anchors=12, temperature=0.1),
        share=0.3, batch=16, rate=1e-3,
    ),
)  # fmt: skip


def train(
    model: MaskedAutoencoder | PatchContrast,
    stage: Stage,
    samples: Samples,
    generator: torch.Generator,
    progress: Callable[[int], float],
    report: Callable[[int, float], None],
) -> tuple[int, float]:
    """Train a model, and with it the encoder inside, in place.

    Args:
        model: What gives the loss.
        stage: How to train.
        samples: Only ``images`` is used.
        generator: Draws batches, crops and masks.
        progress: From the number of finished steps to the share of the budget that is spent.
        report: Told the steps and the mean loss after every hundred steps.

    Returns:
        Steps done, and the mean loss of the last hundred.
    """
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
        lr=stage.rate, betas=(0.9, 0.95),
    )  # fmt: skip
    losses: list[float] = []
    model.train()
    while (spent := progress(len(losses))) < 1:
        warmth = min(1, (len(losses) + 1) / WARMUP)
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * warmth * 0.5 * (1 + math.cos(math.pi * spent))
        rows = torch.randint(len(samples), (stage.batch,), generator=generator)
        loss = model.loss(samples.images[rows], generator)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if len(losses) % 100 == 0:
            report(len(losses), sum(losses[-100:]) / 100)
    model.eval()
    last = losses[-100:]
    return len(losses), sum(last) / max(1, len(last))


def main(arguments: Sequence[str] | None = None) -> None:
    """Render, train, evaluate, write; options as ``--help`` says."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    fit = _rendered("fit", FIT_SEED, 40, 2, options)
    test = _rendered("test", TEST_SEED, 20, 2, options)
    samples = _rendered("train", TRAIN_SEED, options.rooms, 4, options)
    training: dict[str, Any] = {
        "script": "fit3d_cli.rooms.pretrain", "generator": GENERATOR, "rooms": options.rooms,
        "views": 4, **SIZE, "seed": options.seed, "labels": "none", "stages": [],
    }  # fmt: skip
    with seeded(options.seed):
        vit = RoomViT().eval()
        untrained = linear_probe(vit, fit, test, patch=PATCH)
        if options.start is not None:
            tensors, metadata = read_tensors(options.start)
            vit.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
            training["start"] = json.loads(metadata["training"])
        for number, stage in enumerate(STAGES):
            if number == 0 and options.start is not None:
                continue
            model = stage.build(vit)
            progress = _progress(stage, number, options)

            def report(steps: int, loss: float, stage: Stage = stage) -> None:
                _log(f"{stage.name}: step {steps}, loss {loss:.4f}")
                if steps % 500 == 0:
                    _write(options.out, vit, {**training, "unfinished": stage.name})

            generator = torch.Generator().manual_seed(options.seed + number)
            steps, loss = train(model, stage, samples, generator, progress, report)
            training["stages"].append({
                "name": stage.name, "steps": steps, "batch": stage.batch, "rate": stage.rate,
                "loss": round(loss, 4),
            })  # fmt: skip
            _log(f"{stage.name}: {_rounded(linear_probe(vit, fit, test, patch=PATCH))}")
    trained = linear_probe(vit, fit, test, patch=PATCH)
    training["linear_probe"] = {"trained": _rounded(trained), "untrained": _rounded(untrained)}
    _write(options.out, vit, training)
    print(json.dumps(training, indent=1, sort_keys=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fit3d_cli.rooms.pretrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="weights file to write")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, default=15.0, help="training time of all stages")
    budget.add_argument(
        "--steps", type=int, nargs=len(STAGES), metavar=tuple(s.name.upper() for s in STAGES),
        help="training steps per stage, for an exact repetition",
    )  # fmt: skip
    parser.add_argument("--start", type=Path, help="weights to use in place of the first stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", type=int, default=240, help="training rooms, 4 views each")
    parser.add_argument("--cache", type=Path, help="folder to keep rendered views in")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads and render processes; at most free cores"
    )
    return parser


def _rendered(
    name: str, first: int, rooms: int, views: int, options: argparse.Namespace
) -> Samples:
    _log(f"rendering {rooms} {name} rooms")
    cache = options.cache / f"{name}.safetensors" if options.cache else None
    seeds = range(first, first + rooms)
    return load_samples(seeds, views=views, cache=cache, workers=options.threads, **SIZE)


def _progress(stage: Stage, number: int, options: argparse.Namespace) -> Callable[[int], float]:
    """How much of a stage's steps, or of its share of the time, is spent."""
    if options.steps is not None:
        total = options.steps[number]
        return lambda done: done / total if total > 0 else 1.0
    start, seconds = time.monotonic(), 60 * options.minutes * stage.share
    return lambda done: (time.monotonic() - start) / seconds


def _write(path: Path, vit: RoomViT, training: Mapping[str, Any]) -> None:
    """Write half-precision weights with what a loader and a reader must know."""
    tensors = {name: tensor.to(torch.float16) for name, tensor in vit.state_dict().items()}
    metadata = {
        "format": "pt",
        "architecture": json.dumps(architecture(), sort_keys=True),
        "training": json.dumps(training, sort_keys=True),
    }
    write_tensors(path, tensors, metadata)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _rounded(probe: LinearProbe) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(probe).items()}


if __name__ == "__main__":
    main()
