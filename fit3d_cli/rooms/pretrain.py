"""Train the small ViT on generated rooms, without labels, and measure what it learned.

    python -m fit3d_cli.rooms.pretrain --out room_vit.safetensors --minutes 15 --seed 0

A tool for developers: this is how the weights that ship with the package were made. With
``--steps`` instead of ``--minutes`` the same machine gives the same bytes again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from fit3d_cli.device import seeded
from fit3d_cli.rooms.evaluation import LinearProbe, linear_probe
from fit3d_cli.rooms.masked import MaskedAutoencoder, augment
from fit3d_cli.rooms.samples import Samples, load_samples
from fit3d_cli.rooms.vit import GRID, PATCH, RoomViT, architecture
from fit3d_cli.rooms.writing import GENERATOR
from fit3d_cli.tensorfile import write_tensors

# Far from the small seeds that people type, so that demo rooms are unseen.
TRAIN_SEED, FIT_SEED, TEST_SEED = 1_000_000, 2_000_000, 3_000_000
SIZE = {"width": 160, "height": 120}
BATCH = 32
KEEP = (0.2, 0.3, 0.5)
RATE = 2e-3
WARMUP = 100


def train(
    vit: RoomViT,
    samples: Samples,
    generator: torch.Generator,
    progress: Callable[[int], float],
    report: Callable[[int, float], None],
) -> tuple[int, float]:
    """Train the encoder in place by masked prediction.

    Args:
        vit: The encoder.
        samples: Only ``images`` is used.
        generator: Draws batches, crops and masks.
        progress: From the number of finished steps to the share of the budget that is spent.
        report: Told the steps and the mean loss after every hundred steps.

    Returns:
        Steps done, and the mean loss of the last hundred.
    """
    model = MaskedAutoencoder(vit, width=96, keep=KEEP, predict=0.25)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
        lr=RATE, betas=(0.9, 0.95),
    )  # fmt: skip
    losses: list[float] = []
    model.train()
    while (spent := progress(len(losses))) < 1:
        rate = RATE * min(1, (len(losses) + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * spent))
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = torch.randint(len(samples), (BATCH,), generator=generator)
        height, width = GRID[0] * PATCH, GRID[1] * PATCH
        loss = model.loss(augment(samples.images[rows], height, width, generator), generator)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if len(losses) % 100 == 0:
            report(len(losses), sum(losses[-100:]) / 100)
    vit.eval()
    last = losses[-100:]
    return len(losses), sum(last) / max(1, len(last))


def main(arguments: Sequence[str] | None = None) -> None:
    """Render, train, evaluate, write; options as ``--help`` says."""
    parser = argparse.ArgumentParser(
        prog="python -m fit3d_cli.rooms.pretrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="weights file to write")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, default=15.0, help="training time")
    budget.add_argument("--steps", type=int, help="training steps, for an exact repetition")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", type=int, default=240, help="training rooms, 4 views each")
    parser.add_argument("--cache", type=Path, help="folder to keep rendered views in")
    parser.add_argument("--threads", type=int, default=2, help="threads and render processes")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def rendered(name: str, first: int, rooms: int, views: int) -> Samples:
        log(f"rendering {rooms} {name} rooms")
        cache = options.cache / f"{name}.safetensors" if options.cache else None
        seeds = range(first, first + rooms)
        return load_samples(seeds, views=views, cache=cache, workers=options.threads, **SIZE)

    fit, test = rendered("fit", FIT_SEED, 40, 2), rendered("test", TEST_SEED, 20, 2)
    samples = rendered("train", TRAIN_SEED, options.rooms, 4)
    with seeded(options.seed) as generator:
        vit = RoomViT().eval()
        untrained = linear_probe(vit, fit, test, patch=PATCH)
        start = time.monotonic()

        def progress(done: int) -> float:
            if options.steps is not None:
                return float(done / options.steps) if options.steps > 0 else 1.0
            return float((time.monotonic() - start) / (60 * options.minutes))

        def save(steps: int, loss: float, scores: dict[str, object]) -> dict[str, object]:
            training = {
                "script": "fit3d_cli.rooms.pretrain", "generator": GENERATOR,
                "method": "masked prediction of patches, no labels", "rooms": options.rooms,
                "views": 4, **SIZE, "steps": steps, "batch": BATCH, "keep": KEEP, "rate": RATE,
                "seed": options.seed, "loss": round(loss, 5), **scores,
            }  # fmt: skip
            _write(options.out, vit, training)
            return training

        def report(steps: int, loss: float) -> None:
            log(f"step {steps}: loss {loss:.4f}, {progress(steps):.0%} done")
            if steps % 500 == 0:
                save(steps, loss, {"unfinished": True})

        steps, loss = train(vit, samples, generator, progress, report)
    trained = linear_probe(vit, fit, test, patch=PATCH)
    scores = {"trained": _rounded(trained), "untrained": _rounded(untrained)}
    print(json.dumps(save(steps, loss, {"linear_probe": scores}), indent=1, sort_keys=True))


def _write(path: Path, vit: RoomViT, training: dict[str, object]) -> None:
    """Write half-precision weights with what a loader and a reader must know."""
    tensors = {name: tensor.to(torch.float16) for name, tensor in vit.state_dict().items()}
    metadata = {
        "format": "pt",
        "architecture": json.dumps(architecture(), sort_keys=True),
        "training": json.dumps(training, sort_keys=True),
    }
    write_tensors(path, tensors, metadata)


def _rounded(probe: LinearProbe) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(probe).items()}


if __name__ == "__main__":
    main()
