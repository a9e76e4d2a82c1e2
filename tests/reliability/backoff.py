"""Out of memory at every operation: half as much at once, the same result; or a typed error."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fit3d_cli import backoff
from fit3d_cli.backbones.cache import TokenItem, all_tokens
from fit3d_cli.backbones.looking import tokens_of
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.backoff import Backoff
from fit3d_cli.device import seeded
from fit3d_cli.errors import MemoryFault
from fit3d_cli.finetuning.batch import Batch, Pairs
from fit3d_cli.finetuning.distributed import Processes
from fit3d_cli.finetuning.objectives.base import OBJECTIVES
from fit3d_cli.finetuning.prefetch import Step
from fit3d_cli.finetuning.trainer import Trainer
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.probing.exact.frozen import Frozen
from fit3d_cli.settings import FinetuneSettings
from fit3d_cli.splat import memory
from fit3d_cli.splat.rasterize import view_weights
from tests.reliability.base import Outcome, Trial, check

TOLERANCE = 1e-6  # relative to the largest value
SIZE, PATCH = 32, 8
OBJECTIVE = {"l1": 1.0, "anchor": 0.2, "gram": 0.3, "smooth_ap": 0.4, "info_nce": 0.1}

FAILURES: tuple[Callable[[], Exception], ...] = (
    lambda: torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 2.00 GiB"
    ),
    lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] data. DefaultCPUAllocator: can't allocate memory:"
        " you tried to allocate 20971520 bytes. Error code 12 (Cannot allocate memory)"
    ),
    lambda: MemoryError(),
)


class Scarce(TorchDispatchMode):
    """Fails at chosen operations that allocate, forward and backward; counts all of them."""

    def __init__(self, fails: Callable[[int], bool], failure: Callable[[], Exception]) -> None:
        super().__init__()
        self.fails, self.failure, self.count, self.failed = fails, failure, 0, 0
        self.inside = False

    @contextmanager
    def armed(self) -> Iterator[Scarce]:
        """Watch what backs off and nothing before or after it."""

        def watched(honest: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any) -> Any:
                self.inside = True
                try:
                    return honest(*args)
                finally:
                    self.inside = False

            return run

        parts = ((Backoff, "map"), (Trainer, "_gradients"))
        with ExitStack() as stack:
            for owner, name in parts:
                stack.enter_context(mock.patch.object(owner, name, watched(getattr(owner, name))))
            yield stack.enter_context(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.inside:
            return func(*args, **(kwargs or {}))
        # Views and changes in place take no memory; what returns a tensor of its own does.
        if any(v.alias_info is None and "Tensor" in str(v.type) for v in func._schema.returns):
            self.count += 1
            if self.fails(self.count):
                self.failed += 1
                raise self.failure()
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Work:
    """Something that backs off: what it computes, from how many items at once."""

    name: str
    run: Callable[[], list[Tensor]]


def vit(seed: int) -> Backbone:
    """A tiny ViT with random weights."""
    arguments = {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": PATCH,
                 "img_size": SIZE}  # fmt: skip
    with seeded(seed):
        model = import_timm().create_model(
            "vit_tiny_patch16_224", pretrained=False, num_classes=0, dynamic_img_size=True,
            **arguments,
        )  # fmt: skip
    return Backbone("midget", "vit_tiny_patch16_224", model, model_args=arguments).eval()


def tokens(model: Backbone, photos: Tensor) -> list[Tensor]:
    items = [
        TokenItem(str(i), (SIZE, SIZE), lambda photo=photo: photo.permute(1, 2, 0))  # type: ignore[misc]
        for i, photo in enumerate(photos)
    ]
    made = all_tokens(model, items, cache=None, batch=4)
    return [t for one in made for t in (one.patches.float(), one.cls.float())]


def frozen(model: Backbone, photos: Tensor) -> list[Tensor]:
    looking = Frozen({"base": model}, device="cpu", norm=True, batch=4)
    seen = looking.see(list(photos), looking.frame(SIZE, SIZE))
    return [t for one in seen for t in (one.patches["base"], one.cls["base"])]


def shown(model: Backbone, photos: Tensor) -> list[Tensor]:
    pictures = [(p.permute(1, 2, 0) * 255).byte().numpy() for p in photos]
    return list(tokens_of(pictures, model, width=SIZE, batch=4))


def a_step(photos: Tensor) -> Step:
    """Eight pictures, of which two pairs correspond."""
    draw = torch.Generator().manual_seed(3)
    side = SIZE // PATCH

    def pair(first: int) -> Pairs:
        places = torch.rand(2, 40, 2, generator=draw)
        return Pairs(first, first + 1, places[0], places[1],
                     torch.rand(40, 3, generator=draw), 1.0)  # fmt: skip

    count = len(photos)
    batch = Batch(
        photos, torch.randn(count, side, side, 16, generator=draw),
        torch.rand(count, side, side, generator=draw),
        torch.rand(count, side, side, generator=draw).clamp_min(0.5), (pair(0), pair(5)),
    )  # fmt: skip
    weights = torch.stack(
        [OBJECTIVES.get(name).weights(batch).double().sum() for name in sorted(OBJECTIVE)]
    )
    return Step((batch,), weights)


def gradients(base: Backbone, step: Step) -> list[Tensor]:
    settings = FinetuneSettings.model_validate({"objectives": OBJECTIVE, "batch": 8})
    tuned = copy.deepcopy(base)
    trainer = Trainer(tuned, base, [], None, settings, Processes(), torch.device("cpu"), 0)
    stale = [torch.full_like(p, 7.0) for p in tuned.parameters()]
    for parameter, value in zip(tuned.parameters(), stale, strict=True):
        parameter.grad = value  # of the step before
    terms = trainer._gradients(step, step.weights.tolist())
    return [terms, *(p.grad for p in tuned.parameters() if p.grad is not None)]


@contextmanager
def quiet() -> Iterator[list[str]]:
    """What users are told, caught; a process tells each thing once."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(backoff.__name__)
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        with mock.patch.object(backoff, "_told", set()):
            yield told
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def difference(made: list[Tensor], wanted: list[Tensor]) -> float:
    """Largest difference relative to the largest value of its tensor; infinite if shapes differ."""
    if [t.shape for t in made] != [t.shape for t in wanted]:
        return float("inf")
    return max(
        float((a.detach() - b.detach()).abs().max() / b.detach().abs().max().clamp_min(1e-30))
        for a, b in zip(made, wanted, strict=True)
    )


def one_failure(work: Work, at: int, failure: Callable[[], Exception]) -> list[Tensor]:
    with Scarce(lambda n: n == at, failure).armed():
        return work.run()


def works() -> list[Work]:
    photos = torch.rand(7, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    model = vit(1)
    step = a_step(torch.cat([photos, photos[:1].flip(-1)]))
    return [
        Work("tokens", lambda: tokens(model, photos)),
        Work("probe features", lambda: frozen(model, photos)),
        Work("pictures for compare", lambda: shown(model, photos)),
        Work("finetune gradients", lambda: gradients(model, step)),
    ]


def at_every_site(trial: Trial, outcome: Outcome) -> tuple[int, float, int]:
    """One failure, everywhere: how many sites, the worst difference, how many were bit-equal."""
    sites, worst, equal = 0, 0.0, 0
    for work in works():
        with Scarce(lambda n: False, MemoryError).armed() as counted:
            wanted = work.run()
        places = list(range(1, counted.count + 1))
        if not trial.whole:
            places = sorted(trial.draw(work.name).sample(places, min(8, len(places))))
        for at in places:
            failure = FAILURES[at % len(FAILURES)]
            with quiet() as told:
                try:
                    made = one_failure(work, at, failure)
                except Exception as error:
                    outcome.require(False, f"{work.name}, operation {at}: {error!r}")
                    continue
            outcome.require(len(told) == 1 and "->" in told[0], f"{work.name}: told {told}")
            off = difference(made, wanted)
            outcome.require(off <= TOLERANCE, f"{work.name}, operation {at}: differs by {off:.1e}")
            sites, worst, equal = sites + 1, max(worst, off), equal + (off == 0)
        for_good(work, outcome)
    return sites, worst, equal


def for_good(work: Work, outcome: Outcome) -> None:
    """Memory that never suffices ends in a typed error after three halvings; a bug stays one."""
    for failure in FAILURES:
        with quiet() as told:
            try:
                with Scarce(lambda n: True, failure).armed() as scarce:
                    work.run()
                outcome.require(False, f"{work.name}: went on without memory")
            except MemoryFault as fault:
                outcome.require(fault.exit_code == 3 and bool(fault.hint), f"{work.name}: {fault}")
                outcome.require("free" in fault.what, f"{work.name}: no have in {fault}")
                if not isinstance(failure(), MemoryError):
                    outcome.require("21 MB" in fault.what, f"{work.name}: no need in {fault}")
            except Exception as error:
                outcome.require(False, f"{work.name}: {error!r} instead of a typed error")
        outcome.require(len(told) <= backoff.HALVINGS and scarce.failed <= backoff.HALVINGS + 1,
                        f"{work.name}: {scarce.failed} attempts")  # fmt: skip
    try:
        one_failure(work, 5, lambda: RuntimeError("shapes do not match"))
        outcome.require(False, f"{work.name}: a bug was swallowed")
    except RuntimeError as error:
        outcome.require("shapes do not match" in str(error), f"{work.name}: {error!r}")


def scarce_kernels(outcome: Outcome) -> int:
    """Sums over pixels in fewer channels at once, as much as the machine has room for."""
    draw = torch.Generator().manual_seed(5)
    count, dim = 200, 48
    scene = Gaussians(
        torch.rand(count, 3, generator=draw) * 2 - 1 + torch.tensor([0.0, 0, 4]),
        torch.nn.functional.normalize(torch.randn(count, 4, generator=draw), dim=1),
        torch.full((count, 3), 0.1), torch.full((count,), 0.5), torch.zeros(count, 1, 3),
    )  # fmt: skip
    K = torch.tensor([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
    maps = torch.rand(48, 64, dim, generator=draw)

    def gathered() -> Tensor:
        return view_weights(scene, torch.eye(4), K, 64, 48).apply_t(maps)

    wanted, honest, pairs = gathered(), memory.Spare.take, [0]

    def learn(spare: Any, name: str, rows: int, *row: int, **kind: Any) -> Tensor:
        pairs[0] = rows // 40 if name == "partials" else pairs[0]
        return honest(spare, name, rows, *row, **kind)

    with mock.patch.object(memory.Spare, "take", learn):
        gathered()
    budgets = (40, 20, 10, 5, 3)
    for fits in budgets:

        def take(
            spare: Any, name: str, rows: int, *row: int, fits: int = fits, **kind: Any
        ) -> Tensor:
            if name == "partials" and rows > pairs[0] * fits:
                raise MemoryFault("one view needs more", where="an array", hint="use fewer")
            return honest(spare, name, rows, *row, **kind)

        with quiet() as told, mock.patch.object(memory.Spare, "take", take):
            try:
                made = gathered()
                outcome.require(fits >= 5 and torch.equal(made, wanted), f"kernel, {fits} channels")
                outcome.require(len(told) == (40 // fits).bit_length() - 1, f"kernel: {told}")
            except MemoryFault as fault:
                outcome.require(fits < 5, f"kernel, {fits} channels: {fault}")
    return len(budgets)


def planted(outcome: Outcome) -> None:
    """The check sees a step that is redone on top of what the failed attempt left."""
    work = works()[-1]
    wanted = work.run()
    with Scarce(lambda n: False, MemoryError).armed() as counted:
        work.run()
    late = counted.count * 9 // 10
    with quiet(), mock.patch.object(torch.optim.AdamW, "zero_grad", lambda *_, **__: None):
        made = one_failure(work, late, FAILURES[0])
    outcome.require(difference(made, wanted) > TOLERANCE, "a step redone without care looks right")


@check(
    "backoff",
    area="Resources",
    promise="Out of memory is answered with half as much at once, at most three times, and gives"
    " the same result; then a typed error says what was needed and what there is",
    goal="every operation, <= 3 halvings, difference <= 1e-6",
)
def run(trial: Trial) -> Outcome:
    outcome = Outcome()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sites, worst, equal = at_every_site(trial, outcome)
        kernels = scarce_kernels(outcome)
        planted(outcome)
    finally:
        torch.set_num_threads(threads)
    outcome.cases = sites + kernels
    outcome.figure = (
        f"{sites} operations failed once each: {equal} results bit-equal, worst relative"
        f" difference {worst:.1e}; {kernels} kernel budgets; 12 runs without any memory: typed"
        f" errors after <= {backoff.HALVINGS} halvings"
    )
    return outcome
