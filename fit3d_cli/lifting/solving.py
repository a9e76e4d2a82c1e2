"""From the settings to the features: which solver, how far, and how robust."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from fit3d_cli.lifting.choose import STEPS, Choice, choose
from fit3d_cli.lifting.solve import CHANNELS, conjugate_gradients, weighted_average
from fit3d_cli.lifting.stacked import Rows, Stacked
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.settings import FeatureSettings
from fit3d_cli.tensorfile.overflow import Overflow

_FEWEST_VIEWS = 8  # with fewer, a view put aside costs more than it tells


class Clock:
    """Wall time of consecutive stages.

    Attributes:
        seconds: By stage.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """The stage that ends now."""
        now = time.perf_counter()
        self.seconds[stage], self._last = now - self._last, now


def decide(
    a: Stacked,
    codes: Rows,
    trust: Tensor,
    grid: tuple[int, int],
    settings: FeatureSettings,
    on_event: OnEvent,
    stage: str,
    overflow: Overflow | None = None,
) -> Choice:
    """Steps and pull: from the validation views, or as set.

    Args:
        a: The weights.
        codes: ``[T, d]``.
        trust: ``[T, 1]`` 1 for tokens to learn from, else 0.
        grid: ``(h, w)`` of every view.
        settings: Solver and validation.
        on_event: Told about the steps.
        stage: Name of the stage in events.
        overflow: Where what is tried out lies; None keeps it in memory.
    """
    if settings.solver != "cg":
        return Choice(0.0, 0)
    per_view = grid[0] * grid[1]
    views = (trust.view(-1, per_view)[:, 0] > 0).nonzero()[:, 0].tolist()
    count = round(settings.validation * len(views))
    if count == 0 or len(views) < _FEWEST_VIEWS:
        return Choice(settings.cg_lambda, settings.cg_iterations)
    # Evenly spread, none at an end: like the views that a scene is asked for later.
    aside = {views[(2 * i + 1) * len(views) // (2 * count)] for i in range(count)}
    choice = choose(
        a, codes, grid, [i for i in views if i not in aside], sorted(aside),
        settings.preconditioner, settings.ridge,
        on_step=lambda done: on_event(Progress(stage, done, STEPS[-1])), overflow=overflow,
    )  # fmt: skip
    note = (
        f"{choice.iterations} steps, pull {choice.damping:g}: cosine {choice.cosine:.3f}, "
        f"average {choice.average_cosine:.3f}"
    )
    on_event(Progress(stage, STEPS[-1], STEPS[-1], note))
    return choice


def solve(
    a: Stacked,
    codes: Rows,
    trust: Tensor,
    choice: Choice,
    settings: FeatureSettings,
    on_event: OnEvent,
    stage: str,
) -> tuple[Tensor, Tensor]:
    """The features, and how far each token was trusted in the end.

    ``robust = huber`` is iteratively reweighted least squares with Huber's weights: a token whose
    residual is longer than ``cut`` medians counts ``cut * median / residual``.

    Args:
        a: The weights.
        codes: ``[T, d]``.
        trust: ``[T, 1]`` 1 for tokens to learn from, else 0.
        choice: Steps and pull.
        settings: Preconditioner and robustness.
        on_event: Told about the steps.
        stage: Name of the stage in events.

    Returns:
        ``[N, d]`` and ``[T, 1]``.
    """
    rounds = 1 + (settings.robust_rounds if settings.robust == "huber" else 0)
    learnt = trust > 0
    steps = choice.iterations * -(-codes.shape[1] // CHANNELS)

    def once(trust: Tensor, turn: int) -> Tensor:
        def tell(done: int) -> None:
            on_event(Progress(stage, turn * steps + done, steps * rounds))

        return conjugate_gradients(
            a, codes, weighted_average(a, codes, trust),
            iterations=choice.iterations, damping=choice.damping,
            preconditioner=settings.preconditioner, trust=trust, on_step=tell,
        )  # fmt: skip

    features = once(trust, 0)
    for turn in range(1, rounds):
        residual = torch.cat([
            (codes[begin:end] - block.apply(features).view(end - begin, -1)).norm(
                dim=1, keepdim=True
            )
            for block, begin, end in a.spans()
        ])  # fmt: skip
        del features
        cut = settings.robust_cut * residual[learnt].median()
        trust = (cut / residual.clamp_min(1e-30)).clamp_max(1) * learnt
        features = once(trust, turn)
    return features, trust
