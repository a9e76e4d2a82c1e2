"""Cosines of decoded features for every Gaussian at once, without decoding one of them.

The decoder of a scene is a 3x3 convolution on token maps. What a Gaussian stands for is the token
of a place where everything around looks the same, a constant map: the taps add up, and the token
is an affine function ``t = A [f; 1]`` of the stored feature f. With ``A = Q R``, Q orthonormal,
dot products of tokens are those of ``R [f; 1]``: d + 1 numbers instead of C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.decoders import Decoder
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.geometry.rotations import quats_to_matrices
from fit3d_cli.shapes import check_dims

_CHUNK = 262_144
_NEAREST = 8  # Gaussians that speak for a point outside all of them


def affine(decoder: Decoder) -> Tensor:
    """``[C, d + 1]`` float64 matrix A: tokens of constant maps are ``A [f; 1]``."""
    taps = decoder.weight.double().sum((2, 3))
    return torch.cat([taps, decoder.bias.double()[:, None]], dim=1)


@dataclass(frozen=True)
class Codes:
    """Directions of all decoded features.

    Attributes:
        rows: ``[N, r]`` float32 of unit length: cosines of tokens are dot products of rows.
        factor: ``[r, d + 1]`` float64: the rows are ``factor [f; 1]``, scaled.
    """

    rows: Tensor
    factor: Tensor

    def encode(self, features: Tensor) -> Tensor:
        """``[M, d]`` stored features to ``[M, r]`` unit rows."""
        return _unit_rows(features, self.factor)

    def cosines(self, code: Tensor) -> Tensor:
        """``[N]`` cosines with one code ``[r]``."""
        return (self.rows @ code.to(self.rows)).clamp(-1, 1)


def make_codes(features: Tensor, decoder: Decoder) -> Codes:
    """The codes of ``[N, d]`` stored features."""
    check_dims(features=(features, f"N {decoder.in_dim}"))
    factor = torch.linalg.qr(affine(decoder), mode="r").R
    return Codes(_unit_rows(features, factor), factor)


def _unit_rows(features: Tensor, factor: Tensor) -> Tensor:
    parts = []
    linear, constant = factor[:, :-1].T.to(features), factor[:, -1].to(features)
    for start in range(0, len(features), _CHUNK):
        rows = features[start : start + _CHUNK] @ linear + constant
        parts.append(rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12))
    return torch.cat(parts) if parts else features.new_zeros(0, len(factor))


def feature_at(gaussians: Gaussians, features: Tensor, point: Tensor) -> Tensor:
    """``[d]`` stored feature at a point: the mean of the Gaussians there, weighted by density.

    Args:
        gaussians: N Gaussians, at least one.
        features: ``[N, d]``.
        point: ``[3]`` in the world.
    """
    offsets = gaussians.means.double() - point.double()
    distances = offsets.norm(dim=1)
    near = distances < 3 * gaussians.scales.amax(1)
    index = near.nonzero()[:, 0]
    if not len(index):
        index = distances.argsort(stable=True)[:_NEAREST]
    rotations = quats_to_matrices(gaussians.quats[index].double())
    local = torch.einsum("nij,ni->nj", rotations, offsets[index])
    squared = (local / gaussians.scales[index].double().clamp(min=1e-15)).square().sum(1)
    # Relative to the strongest, so that far points keep weights that are not all zero.
    logs = gaussians.opacities[index].double().clamp(min=1e-6).log() - squared / 2
    weights = torch.softmax(logs, 0)
    return (weights @ features[index].double()).to(features)


def point_scores(codes: Codes, positives: Sequence[Tensor], negatives: Sequence[Tensor]) -> Tensor:
    """``[N]``: the best cosine with a positive, less the best with a negative if there is one.

    Args:
        codes: Of the scene.
        positives: Codes ``[r]``; none counts as a cosine of zero.
        negatives: Codes ``[r]``.
    """
    scores = codes.rows.new_zeros(len(codes.rows))
    if positives:
        scores = torch.stack([codes.cosines(code) for code in positives]).amax(0)
    if negatives:
        scores = scores - torch.stack([codes.cosines(code) for code in negatives]).amax(0)
    return scores
