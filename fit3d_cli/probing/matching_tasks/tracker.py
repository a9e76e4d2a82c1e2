"""A zero-shot tracker: nearest neighbours of features, as DINO-Tracker infers without training.

After Tumanyan et al., "DINO-Tracker" (2024), sections 3.2 and 3.4, in the form in which
3DCorrEnhance evaluates frozen features:

- *Place*: cosine of the query's bilinear feature to all tokens of the other frame; expectation
  over the tokens within ``radius`` of the arg-max, weighted by the softmax of their cosines
  (negative ones as zero).
- *Visibility*: ``c(t)`` is the cosine between the features at the track's places in the query's
  frame and in frame t. Frames with ``c >= anchor`` are anchors (the query's own always is one).
  From every place ``x(t)`` the point is tracked to every anchor a; ``m(t)`` is the median over
  anchors of the distance to ``x(a)``. A frame is occluded if ``m(t)`` exceeds the largest m of the
  anchors, or if ``c(t) < visible``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fit3d_cli.geometry.grids import interpolate
from fit3d_cli.probing.matching_tasks.track_scores import Tracks

_CHUNK_VALUES = 32_000_000


@dataclass(frozen=True)
class TrackerRules:
    """How the tracker decides.

    Attributes:
        radius: Of the soft arg-max, as a fraction of the picture's width.
        temperature: Of the softmax over cosines.
        anchor: Cosine from which on a frame is an anchor.
        visible: Cosine below which a point is occluded.
    """

    radius: float
    temperature: float
    anchor: float
    visible: float


class Tracker:
    """Tracks points through a video by its features.

    Args:
        features: ``[T, h, w, C]`` float32 tokens of the frames.
        aspect: Height of a frame divided by its width.
        rules: How places and visibility are decided.
    """

    def __init__(self, features: Tensor, aspect: float, rules: TrackerRules) -> None:
        self.features, self.rules = features, rules
        self.unit = normalize(features.flatten(1, 2), dim=-1)
        height, width = features.shape[1:3]
        # Distances are measured in widths of the picture.
        self.metric = features.new_tensor([1.0, aspect])
        pitch = (aspect / height, 1 / width)
        reach = [min(n, int(rules.radius / step)) for n, step in zip((height, width), pitch,
                                                                     strict=True)]  # fmt: skip
        # The disc is the same set of steps from every token, so it is found once.
        self.disc = torch.tensor(
            [
                (i, j)
                for i in range(-reach[0], reach[0] + 1)
                for j in range(-reach[1], reach[1] + 1)
                if math.hypot(i * pitch[0], j * pitch[1]) <= rules.radius
            ],
            device=features.device,
        )

    def track(self, places: Tensor, frames: Tensor) -> Tracks:
        """Follow points through all frames.

        Args:
            places: ``[Q, 2]`` x, y in 0..1.
            frames: ``[Q]`` frame in which each point is given.

        Returns:
            Places and visibility in every frame, on the CPU.
        """
        places = places.to(self.features)
        queries = torch.zeros(len(places), self.features.shape[-1]).to(self.features)
        for frame in sorted(set(frames.tolist())):
            mine = (frames == frame).to(places.device)
            queries[mine] = interpolate(self.features[frame], places[mine])
        count = len(self.features)
        found = torch.stack([self.find(queries, frame) for frame in range(count)], dim=1)
        along = torch.stack(
            [interpolate(self.features[frame], found[:, frame]) for frame in range(count)], dim=1
        )
        along = normalize(along, dim=-1)
        each = torch.arange(len(along), device=along.device)
        own = along[each, frames.to(along.device)]
        cosine = (along * own[:, None]).sum(-1)
        occluded = self._unsteady(found, along, cosine) | (cosine < self.rules.visible)
        return Tracks(found.cpu(), occluded.cpu())

    def find(self, queries: Tensor, frame: int) -> Tensor:
        """``[Q, 2]`` places in a frame of ``[Q, C]`` features of any length."""
        tokens = self.unit[frame]
        step = max(1, _CHUNK_VALUES // len(tokens))
        unit = normalize(queries, dim=-1)
        parts = [self._place(unit[i : i + step], tokens) for i in range(0, len(unit), step)]
        return torch.cat(parts) if parts else queries.new_zeros(0, 2)

    def _place(self, queries: Tensor, tokens: Tensor) -> Tensor:
        height, width = self.features.shape[1:3]
        heat = queries @ tokens.T
        peak = heat.argmax(dim=1)
        i = (peak // width)[:, None] + self.disc[:, 0]
        j = (peak % width)[:, None] + self.disc[:, 1]
        outside = (i < 0) | (i >= height) | (j < 0) | (j >= width)
        index = i.clamp(0, height - 1) * width + j.clamp(0, width - 1)
        near = heat.gather(1, index).clamp(min=0) / self.rules.temperature
        weights = near.masked_fill(outside, -torch.inf).softmax(dim=1)
        x, y = (weights * (j + 0.5)).sum(1) / width, (weights * (i + 0.5)).sum(1) / height
        return torch.stack([x, y], dim=1)

    def _unsteady(self, found: Tensor, along: Tensor, cosine: Tensor) -> Tensor:
        """``[Q, T]`` frames from which the track does not lead back to the anchors."""
        queries, count = cosine.shape
        anchors = cosine >= self.rules.anchor
        distance = found.new_full((queries, count, count), torch.nan)  # query, anchor, from
        for frame in range(count):
            mine = torch.nonzero(anchors[:, frame]).flatten()
            if len(mine):
                back = self.find(along[mine].flatten(0, 1), frame).reshape(-1, count, 2)
                away = (back - found[mine, frame][:, None]) * self.metric
                distance[mine, frame] = away.norm(dim=-1)
        # The lower median over the anchors of each query; other frames are NaN and left out.
        middle = distance.nanmedian(dim=1).values
        limit = middle.masked_fill(~anchors, -torch.inf).amax(dim=1, keepdim=True)
        return middle > limit
