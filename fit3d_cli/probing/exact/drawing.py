"""Random draws of the training pipelines: pure functions of the seed, the step and the place."""

from __future__ import annotations

import hashlib

import torch


class Draws:
    """Draws for one training picture.

    Args:
        key: Numbers and words that name the picture's place in the training; equal keys draw
            equally, whatever was drawn before.
    """

    def __init__(self, *key: int | str) -> None:
        digest = hashlib.sha256(repr(key).encode()).digest()
        self._generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def uniform(self, low: float, high: float) -> float:
        """A number between the two."""
        return low + (high - low) * float(
            torch.rand((), generator=self._generator, dtype=torch.float64)
        )

    def whole(self, low: int, high: int) -> int:
        """A whole number of ``low .. high - 1``."""
        return int(torch.randint(low, high, (), generator=self._generator))

    def happens(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform(0.0, 1.0) < probability

    def order(self, count: int) -> list[int]:
        """``0 .. count - 1`` in a random order."""
        return torch.randperm(count, generator=self._generator).tolist()


def batch_members(seed: int, step: int, batch: int, count: int) -> list[int]:
    """Pictures of a step: every epoch goes through all of them in another order.

    Args:
        seed: Of the training.
        step: From 0.
        batch: Pictures per step; an epoch may end in the middle of a step.
        count: Pictures of the training split.
    """
    places = range(step * batch, (step + 1) * batch)
    epochs = {place // count for place in places}
    orders = {epoch: Draws("order", seed, epoch).order(count) for epoch in epochs}
    return [orders[place // count][place % count] for place in places]
