"""Features on frozen geometry, in closed form.

With frozen geometry the rendered token map of view v is linear in the features: ``A_v f``, where
``A_v`` holds the blending weights pooled over each token's patch. Lifting is the least-squares
problem ``min_f sum_v |A_v f - Y_v|^2`` for the codes ``Y_v = (tokens_v - mean) basis``; nothing
here needs a learning rate.

Conjugate gradients run in token space. With a preconditioner M that is also the metric of the pull
to the start f0, every iterate is ``f0 + M^-1 A^T v`` for token vectors v, so the solver keeps its
vectors there, where they are a third as long as the Gaussians', and one product with
``A M^-1 A^T`` per step is all it asks of the weights (Paige and Saunders 1982 for the
equivalence; in image reconstruction the same map is SIRT's).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fit3d_cli.lifting.stacked import UNSEEN, Preconditioner, Stacked, dots
from fit3d_cli.shapes import check_dims

CHANNELS = 32  # solved at a time: one pass of the sparse kernels serves that many
_CONVERGED = 1e-12  # of the first squared gradient; below, float32 has only noise


def weighted_average(a: Stacked, codes: Tensor, trust: Tensor | None = None) -> Tensor:
    """Each Gaussian takes the mean of the codes that it contributes to: ``D^-1 A^T Y``.

    This is the first step of a Richardson iteration on the least-squares problem from zero
    (SIRT in tomography; LUDVIG and Occam's LGS use it as is). Gaussians that no view sees get
    zero, which decodes to the mean token.

    Args:
        a: The weights of all views.
        codes: ``[T, d]``.
        trust: ``[T, 1]`` weight of each token; None trusts all alike.

    Returns:
        ``[N, d]``.
    """
    check_dims(codes=(codes, f"{a.tokens} *"))
    trust = torch.ones_like(codes[:, :1]) if trust is None else trust
    out = a.apply_t(codes * trust, codes.new_empty(a.count, codes.shape[1]))
    column = a.column(trust)
    return out.mul_(_inverse(column, column))


def conjugate_gradients(
    a: Stacked,
    codes: Tensor,
    start: Tensor,
    *,
    iterations: int,
    damping: float,
    preconditioner: Preconditioner = "column",
    trust: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """A few preconditioned CG steps on ``|A f - Y|^2_trust + damping |f - start|^2_M``.

    M is the preconditioner, so that the pull to the start is as strong, relative to the data, for
    a Gaussian seen once as for one seen often. Few iterations are themselves a regulariser: views
    disagree, and solving exactly fits their disagreement.

    Args:
        a: The weights of all views.
        codes: ``[T, d]``.
        start: ``[N, d]`` the weighted average; overwritten by the result.
        iterations: CG steps; 0 leaves ``start`` as it is.
        damping: Relative strength of the pull to ``start``.
        preconditioner: See ``Stacked.diagonal``.
        trust: ``[T, 1]`` weight of each token; None trusts all alike.
        on_step: Called with the number of steps done, over all blocks of channels.

    Returns:
        ``start``; Gaussians that no view sees keep their value.
    """
    check_dims(codes=(codes, f"{a.tokens} d"), start=(start, f"{a.count} d"))
    trust = torch.ones_like(codes[:, :1]) if trust is None else trust
    if iterations == 0:
        return start
    inverse = inverse_diagonal(a, preconditioner, trust)
    done = 0
    for begin in range(0, codes.shape[1], CHANNELS):
        some = slice(begin, begin + CHANNELS)
        search = Search(
            a, codes[:, some] - a.apply(start[:, some].contiguous()), inverse, trust, damping
        )
        for step in range(iterations):
            search.step(last=step == iterations - 1)
            done += 1
            if on_step is not None:
                on_step(done)
        start[:, some] += search.solution()
    return start


def inverse_diagonal(a: Stacked, preconditioner: Preconditioner, trust: Tensor) -> Tensor:
    """``[N, 1]`` ``M^-1``, zero for Gaussians that no trusted token sees."""
    column = a.column(trust)
    same = preconditioner == "column"
    return _inverse(column if same else a.diagonal(preconditioner, trust), column)


class Search:
    """Conjugate gradients for one block of channels, each a system of its own.

    With ``B = sqrt(trust) A`` and ``K = B M^-1 B^T`` the iterate is ``f = start + M^-1 B^T v``,
    the negative gradient ``B^T w`` with ``w = B-residual - K v - damping v``, and the direction
    ``M^-1 B^T p``; the products ``K w`` and ``K p`` follow from one pass per step.

    Args:
        a: The weights.
        residual: ``[T, c]``: ``Y - A start``.
        inverse: ``[N, 1]``: ``M^-1``, zero where a Gaussian is unseen.
        trust: ``[T, 1]``.
        damping: Strength of the pull to the start.

    Attributes:
        rendered: ``[T, c]`` ``A (f - start)``, tokens without trust included.
        squared_gradient: ``[c]`` float64, the gradient's squared M^-1-norm.
        gradient_render: ``[T, c]``: the preconditioned gradient, rendered.
        alpha: ``[c]`` float64, the last step's length.
        beta: ``[c]`` float64, how much of the last direction the next one keeps.
    """

    def __init__(
        self, a: Stacked, residual: Tensor, inverse: Tensor, trust: Tensor, damping: float
    ) -> None:
        self._a, self._inverse, self._damping = a, inverse, damping
        self._root = trust.sqrt()
        self._w = residual * self._root
        self._v = torch.zeros_like(residual)
        self._scratch = residual.new_empty(a.count, residual.shape[1])
        self.rendered = torch.zeros_like(residual)
        self.squared_gradient, self.gradient_render = self._product()
        self._first = self.squared_gradient
        self._p, self._kp = self._w.clone(), self.gradient_render.clone()
        self.alpha = self.beta = torch.zeros_like(self._first)

    def step(self, *, last: bool = False) -> None:
        """One step; ``last`` leaves out the pass that only the next one would need."""
        rho = self.squared_gradient
        kp = self._kp * self._root
        curvature = dots(kp, kp) + self._damping * dots(self._p, kp)
        going = (curvature > 0) & (rho > _CONVERGED * self._first)
        self.alpha = torch.where(going, rho / curvature.clamp_min(1e-300), 0.0)
        alpha = self.alpha.float()
        self._v.addcmul_(self._p, alpha)
        self.rendered.addcmul_(self._kp, alpha)
        self._w.addcmul_(kp.add_(self._p, alpha=self._damping), -alpha)
        if last:
            return
        self.squared_gradient, self.gradient_render = self._product()
        self.beta = torch.where(going, self.squared_gradient / rho.clamp_min(1e-300), 0.0)
        beta = self.beta.float()
        self._p.mul_(beta).add_(self._w)
        self._kp.mul_(beta).add_(self.gradient_render)

    def solution(self) -> Tensor:
        """``[N, c]``: ``f - start``; valid until the next step."""
        return self._a.apply_t(self._v * self._root, self._scratch).mul_(self._inverse)

    def _product(self) -> tuple[Tensor, Tensor]:
        gradient = self._a.apply_t(self._w * self._root, self._scratch)
        squared = dots(gradient, gradient, self._inverse)
        return squared, self._a.apply(gradient.mul_(self._inverse))


def _inverse(diagonal: Tensor, column: Tensor) -> Tensor:
    seen = (column > UNSEEN) & (diagonal > 0)
    return torch.where(seen, 1 / diagonal.clamp_min(1e-30), torch.zeros_like(diagonal))
