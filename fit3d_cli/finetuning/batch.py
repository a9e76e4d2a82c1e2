"""What an optimisation step sees: pictures, targets and correspondences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from fit3d_cli.shapes import check_dims


@dataclass(frozen=True)
class Sample:
    """One view to learn from.

    Attributes:
        image: ``[3, H, W]`` in 0..1.
        target: ``[h, w, C]`` tokens to reach.
        weight: ``[h, w]`` in 0..1, how far the target is trusted: mean alpha of the token's patch
            times the share of its usable pixels, zero below ``finetune.min_alpha``.
        mask: ``[h, w]`` in 0..1, share of usable pixels of the token's patch.
        flip: Whether the sample is mirrored.
    """

    image: Tensor
    target: Tensor
    weight: Tensor
    mask: Tensor
    flip: bool = False

    def __post_init__(self) -> None:
        check_dims(
            image=(self.image, "3 H W"), target=(self.target, "h w C"),
            weight=(self.weight, "h w"), mask=(self.mask, "h w"),
        )  # fmt: skip

    def flipped(self) -> Sample:
        """Mirrored left to right, after decoding: a 3x3 convolution does not commute with it."""
        return replace(
            self, image=self.image.flip(2), target=self.target.flip(1),
            weight=self.weight.flip(1), mask=self.mask.flip(1), flip=not self.flip,
        )  # fmt: skip


@dataclass(frozen=True)
class Pairs:
    """Points that two pictures of a batch both see.

    Attributes:
        first: Index in the batch of the one picture.
        second: Index of the other.
        places_first: ``[P, 2]`` x and y in 0..1 of the width and height of the first picture.
        places_second: ``[P, 2]`` the same points in the second picture.
        points: ``[P, 3]`` in the scene's world frame.
        extent: Size of what the two views see, in world units: the median distance of the points
            from their median. Distances are judged relative to it.
    """

    first: int
    second: int
    places_first: Tensor
    places_second: Tensor
    points: Tensor
    extent: float

    def __post_init__(self) -> None:
        check_dims(
            places_first=(self.places_first, "P 2"), places_second=(self.places_second, "P 2"),
            points=(self.points, "P 3"),
        )  # fmt: skip

    def to(self, device: torch.device | str) -> Pairs:
        """The same on another device."""
        return replace(
            self,
            places_first=self.places_first.to(device),
            places_second=self.places_second.to(device),
            points=self.points.to(device),
        )


@dataclass(frozen=True)
class Batch:
    """Pictures of one forward pass, on the training device.

    Attributes:
        images: ``[B, 3, H, W]`` in 0..1.
        targets: ``[B, h, w, C]``.
        weight: ``[B, h, w]``, see ``Sample``.
        mask: ``[B, h, w]``, see ``Sample``.
        pairs: Correspondences between elements; empty when no objective asks for them.
    """

    images: Tensor
    targets: Tensor
    weight: Tensor
    mask: Tensor
    pairs: tuple[Pairs, ...] = ()

    @staticmethod
    def of(samples: list[Sample], pairs: list[Pairs], device: torch.device | str) -> Batch:
        """Stack samples of one size."""

        def stack(name: str) -> Tensor:
            return torch.stack([getattr(s, name) for s in samples]).to(device)

        return Batch(
            stack("image"), stack("target"), stack("weight"), stack("mask"),
            tuple(p.to(device) for p in pairs),
        )  # fmt: skip

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device."""
        return Batch(
            self.images.to(device), self.targets.to(device), self.weight.to(device),
            self.mask.to(device), tuple(p.to(device) for p in self.pairs),
        )  # fmt: skip

    def cut(self, most: int) -> list[Batch]:
        """Pieces of at most ``most`` pictures, in their order; the two of a pair stay together.

        The objective of a step is a sum over its items, so the pieces' gradients add up to that
        of the whole (``objectives/base.py``).
        """
        count = len(self.images)
        if count <= most:
            return [self]
        # A cut before picture i is possible unless a pair lies across it.
        across = {
            i for p in self.pairs
            for i in range(min(p.first, p.second) + 1, max(p.first, p.second) + 1)
        }  # fmt: skip
        cuts = [i for i in range(1, count) if i not in across]
        pieces, begin = [], 0
        for cut, following in pairwise([*cuts, count]):
            if following - begin > most:
                pieces.append((begin, cut))
                begin = cut
        pieces.append((begin, count))
        return [self._slice(begin, end) for begin, end in pieces]

    def _slice(self, begin: int, end: int) -> Batch:
        return Batch(
            self.images[begin:end], self.targets[begin:end],
            self.weight[begin:end], self.mask[begin:end],
            tuple(
                replace(p, first=p.first - begin, second=p.second - begin)
                for p in self.pairs if begin <= p.first < end
            ),
        )  # fmt: skip
