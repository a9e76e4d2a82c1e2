"""Feature maps as colours by PCA, with one basis for everything that is shown together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.shapes import check_dims

_MAX_ROWS = 60_000


@dataclass(frozen=True)
class PcaBasis:
    """Projection to ``k`` components and the range that is shown of each.

    Attributes:
        mean: ``[C]`` origin of the projection.
        components: ``[C, k]`` orthonormal columns, largest variance first.
        low: ``[k]`` projection that becomes 0.
        high: ``[k]`` projection that becomes 1.
    """

    mean: Tensor
    components: Tensor
    low: Tensor
    high: Tensor

    def __post_init__(self) -> None:
        check_dims(
            mean=(self.mean, "C"),
            components=(self.components, "C k"),
            low=(self.low, "k"),
            high=(self.high, "k"),
        )

    def project(self, features: Tensor) -> Tensor:
        """``[..., C]`` features to ``[..., k]`` components."""
        return (features.to(self.mean) - self.mean) @ self.components

    def __call__(self, features: Tensor) -> Tensor:
        """``[..., C]`` features to ``[..., k]`` colours in 0..1.

        Equal features give equal colours, whichever map they come from.
        """
        shown = (self.project(features) - self.low) / (self.high - self.low).clamp(min=1e-12)
        return shown.clamp(0, 1)


def fit_pca(
    groups: Sequence[Tensor] | Tensor,
    *,
    k: int = 3,
    seed: int = 0,
    percentiles: tuple[float, float] = (0.01, 0.99),
) -> PcaBasis:
    """Fit one basis to all features that are going to be looked at together.

    Each group (all maps of one model) is centred on its own middle to find the components: the
    colours then show what varies *within* the pictures, and a constant offset between two models
    cannot take a component for itself. The projection has one common origin and range, so an
    offset is still seen as what it is, a change of tint. Rows far from the middle
    (the few high-norm artefact tokens of plain ViTs) are shortened to twice the median distance.

    Channels must correspond between the groups, as they do for a backbone and its tuned copy.

    Args:
        groups: One tensor ``[..., C]``, or one per model.
        k: Components.
        seed: Chooses the rows that are used when there are more than enough.
        percentiles: Quantiles of the projections that become 0 and 1.

    Returns:
        The basis; the sign of each component is fixed by its channels, so that the same features
        always get the same colours.

    Raises:
        ValueError: No finite features, or different numbers of channels.
    """
    rows = [_rows(group, seed) for group in ([groups] if isinstance(groups, Tensor) else groups)]
    if not rows or not all(len(group) for group in rows):
        raise ValueError("fit_pca needs at least one finite feature in every group")
    channels = rows[0].shape[1]
    check_dims(**{f"group{i}": (group, f"* {channels}") for i, group in enumerate(rows)})
    centred = torch.cat([_centred(group) for group in rows])
    scatter = centred.T @ centred / len(centred)
    components = torch.linalg.eigh(scatter).eigenvectors.flip(1)[:, :k]
    if components.shape[1] < k:
        components = torch.nn.functional.pad(components, (0, k - components.shape[1]))
    # An eigenvector's sign is arbitrary: let its heaviest channels be positive.
    signs = (components**3).sum(0).sign()
    components = components * torch.where(signs == 0, 1.0, signs)
    mean = torch.stack([group.mean(0) for group in rows]).mean(0)
    projected = ((torch.cat(rows) - mean) @ components).sort(0).values
    last = len(projected) - 1
    low, high = (projected[round(p * last)] for p in percentiles)
    return PcaBasis(mean.float(), components.float(), low.float(), high.float())


def _rows(group: Tensor, seed: int) -> Tensor:
    """``[M, C]`` float64 finite rows of a group, at most ``_MAX_ROWS``."""
    rows = group.detach().reshape(-1, group.shape[-1])
    if len(rows) > _MAX_ROWS:
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        rows = rows[chosen[:_MAX_ROWS].sort().values.to(rows.device)]
    rows = rows.double().cpu()
    return rows[torch.isfinite(rows).all(1)]


def _centred(rows: Tensor) -> Tensor:
    """Rows around their middle, outliers shortened to twice the median distance."""
    # One giant token moves a mean as far as it likes, but not a median.
    centred = rows - rows.median(0).values
    lengths = centred.norm(dim=1, keepdim=True)
    limit = 2 * lengths.median()
    shortened: Tensor = centred * (limit / lengths.clamp(min=1e-12)).clamp(max=1)
    return shortened - shortened.mean(0)
