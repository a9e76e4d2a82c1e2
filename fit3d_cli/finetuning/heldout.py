"""Base and tuned model on the views that took no part in the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fit3d_cli.backbones.model import Backbone
from fit3d_cli.finetuning.batch import Batch
from fit3d_cli.finetuning.distributed import Processes
from fit3d_cli.finetuning.objectives.base import OBJECTIVES, Outputs
from fit3d_cli.finetuning.targets import SceneTargets, load_sample
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.settings import FinetuneSettings

# Enough for a curve; the figures at the end are over all of them.
CURVE_VIEWS = 12


@dataclass(frozen=True)
class Drift:
    """How far the tuned tokens went from the base's.

    Attributes:
        cosine: Mean cosine between them.
        norm_ratio: Mean ratio of their lengths.
    """

    cosine: float
    norm_ratio: float


@dataclass(frozen=True)
class HeldOut:
    """Means over the held-out views of all scenes.

    Attributes:
        base: L1 of the base's tokens to the targets.
        tuned: The same of the tuned model.
        drift: Of the tuned model.
    """

    base: float
    tuned: float
    drift: Drift


@torch.no_grad()
def measure_heldout(
    base: Backbone,
    tuned: Backbone,
    scenes: Sequence[SceneTargets],
    settings: FinetuneSettings,
    processes: Processes,
    on_event: OnEvent,
) -> HeldOut | None:
    """Compare the model that is kept with its base, in float32; None without held-out views.

    Raises:
        Fit3dError: A photo or a map cannot be read any more.
    """
    views = [(scene, view) for scene in scenes for view in scene.heldout]
    if not views:
        return None
    own = processes.share(views)
    device = processes.device

    def sums() -> torch.Tensor:
        total = torch.zeros(4, dtype=torch.float64)
        for done, (scene, view) in enumerate(own):
            on_event(Progress("held-out views", done, len(own)))
            batch = Batch.of([load_sample(scene, view)], [], device)
            before, after = base.tokens(batch.images), tuned.tokens(batch.images)
            cosine = torch.nn.functional.cosine_similarity(after, before, dim=-1).mean()
            ratio = (after.norm(dim=-1) / before.norm(dim=-1).clamp_min(1e-12)).mean()
            figures = [_l1(batch, before, settings), _l1(batch, after, settings), cosine, ratio]
            total += torch.tensor([float(figure) for figure in figures], dtype=torch.float64)
        return total

    means = processes.sum(processes.together(sums)) / len(views)
    before, after, cosine, ratio = means.tolist()
    return HeldOut(before, after, Drift(cosine, ratio))


@torch.no_grad()
def curve_point(
    model: Backbone,
    scenes: Sequence[SceneTargets],
    settings: FinetuneSettings,
    processes: Processes,
) -> float | None:
    """L1 to the targets over at most ``CURVE_VIEWS`` held-out views; None without any.

    Raises:
        Fit3dError: A photo or a map cannot be read any more.
    """
    views = [(scene, view) for scene in scenes for view in scene.heldout]
    if len(views) > CURVE_VIEWS:
        picks = [(2 * i + 1) * len(views) // (2 * CURVE_VIEWS) for i in range(CURVE_VIEWS)]
        views = [views[pick] for pick in picks]
    if not views:
        return None

    def summed() -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for scene, view in processes.share(views):
            batch = Batch.of([load_sample(scene, view)], [], processes.device)
            total += _l1(batch, model.tokens(batch.images), settings)
        return total

    return float(processes.sum(processes.together(summed))) / len(views)


def _l1(batch: Batch, tokens: torch.Tensor, settings: FinetuneSettings) -> float:
    objective = OBJECTIVES.get("l1")
    weight = float(objective.weights(batch).sum())
    error = float(objective.errors(batch, Outputs(tokens), settings).sum())
    return error / weight if weight > 0 else 0.0
