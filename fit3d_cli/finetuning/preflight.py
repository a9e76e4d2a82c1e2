"""What a fine-tuning takes of memory and disk: ``--dry-run`` tells it, ``finetune`` checks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fit3d_cli.preflight import Needs

if TYPE_CHECKING:
    from fit3d_cli.backbones.model import Backbone
    from fit3d_cli.finetuning.targets import SceneTargets
    from fit3d_cli.settings import FinetuneSettings

LESS = "name fewer scenes or give finetune.train.part = lora"

# Floats that the backward pass of one block keeps per token and channel: two norms, queries,
# keys, values, attention, the MLP of four times the width before and after its activation.
ACTIVATIONS = 20
ALLOCATOR = 96 << 20  # buffers that libraries keep for themselves
_CHECKPOINTS = 3  # two are kept while the next is written
_TRAINED = {"full": 1.0, "lora": 0.05, "adapter": 0.05, "swin": 0.1}  # share of the weights


@dataclass(frozen=True)
class FinetuneSizes:
    """The sizes that decide what a fine-tuning takes.

    Attributes:
        params: Weights of the backbone.
        trained: Those that are trained.
        channels: Of a token, C.
        depth: Blocks.
        tokens: Of a view, at most.
        views: Photos and rendered views of all scenes.
        dim: Channels of a target, at most.
        archive: Bytes of the largest archive.
        batch: Views at once in memory.
        averages: Copies of the trained weights that are averaged over time.
    """

    params: int
    trained: int
    channels: int
    depth: int
    tokens: int
    views: int
    dim: int
    archive: int
    batch: int
    averages: int

    def memory(self, batch: int = 0) -> int:
        """Bytes at the peak, beyond the libraries and the backbone.

        Args:
            batch: Views at once, instead of those that the settings say.
        """
        # The base, gradients and two moments, averages, a step's temporary; at the end the copies
        # that are written.
        weights = 4 * (2 * self.params + (4 + self.averages) * self.trained)
        per_view = 4 * self.tokens * self.channels * (ACTIVATIONS * self.depth + 8)
        training = weights + (batch or self.batch) * per_view
        preparing = 3 * self.archive
        return ALLOCATOR + max(training, preparing)

    def disk(self) -> int:
        """Bytes of targets, checkpoints and the model."""
        targets = 2 * self.views * self.tokens * (self.dim + 1)
        checkpoint = 4 * (3 + self.averages) * self.trained
        return targets + _CHECKPOINTS * checkpoint + 4 * self.params

    def least(self) -> Needs:
        """What has to be there: a step may still be cut into views (``Backoff``)."""
        return Needs(memory=self.memory(batch=max(1, self.batch // 8)), disk=self.disk())


def finetune_sizes(
    scenes: Sequence[SceneTargets], settings: FinetuneSettings, backbone: Backbone, *, paired: bool
) -> FinetuneSizes:
    """From scenes that were found and the backbone that was loaded."""
    params = sum(p.numel() for p in backbone.parameters())
    views = sum(len(s.views) + settings.targets.novel_views for s in scenes)
    whole = settings.targets.source != "archive"
    depth = len(getattr(backbone.model, "blocks", ()))
    return FinetuneSizes(
        params=params, trained=trained_of(settings, params),
        channels=backbone.dim, depth=depth,
        tokens=max(s.source.grid[0] * s.source.grid[1] for s in scenes),
        views=views * (2 if paired else 1), dim=backbone.dim if whole else 64,
        archive=max(s.archive.stat().st_size for s in scenes),
        batch=settings.micro_batch or settings.batch, averages=averages_of(settings),
    )  # fmt: skip


def trained_of(settings: FinetuneSettings, params: int) -> int:
    """Weights that are trained, roughly."""
    return round(params * _TRAINED[settings.train.part])


def averages_of(settings: FinetuneSettings) -> int:
    """Copies of the trained weights that are kept beside them."""
    relifts = settings.targets.source == "relifted" and settings.targets.relift_every > 0
    return bool(settings.ema) + 2 * relifts
