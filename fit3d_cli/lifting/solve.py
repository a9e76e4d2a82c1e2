"""Features on frozen geometry, in closed form.

With frozen geometry the rendered token map of view v is linear in the features: ``A_v f``, where
``A_v`` holds the blending weights pooled over each token's patch. Lifting is the least-squares
problem ``min_f sum_v |A_v f - Y_v|^2`` for the codes ``Y_v = (tokens_v - mean) basis``; nothing
here needs a learning rate.

Everything is kept per Gaussian, never per token: a pass over the weights renders a block of views,
compares, and pulls the difference back before the next block is looked at. So memory grows with
the Gaussians alone, however many views there are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fit3d_cli.lifting.stacked import UNSEEN, Columns, Preconditioner, Rows, Stacked, dots
from fit3d_cli.shapes import check_dims

CHANNELS = 32  # solved at a time: one pass of the sparse kernels serves that many
_CONVERGED = 1e-12  # of the first squared gradient; below, float32 has only noise


def weighted_average(a: Stacked, codes: Rows, trust: Tensor | None = None) -> Tensor:
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
    _check_rows(a, codes)
    trust = torch.ones(a.tokens, 1, device=a.device) if trust is None else trust
    out = torch.zeros(a.count, codes.shape[1], device=a.device)
    for block, begin, end in a.spans():
        block.apply_t((codes[begin:end] * trust[begin:end]).view(block.h, block.w, -1), out=out)
    column = a.column(trust)
    return out.mul_(_inverse(column, column))


def conjugate_gradients(
    a: Stacked,
    codes: Rows,
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
    _check_rows(a, codes)
    check_dims(start=(start, f"{a.count} {codes.shape[1]}"))
    if iterations == 0:
        return start
    trust = torch.ones(a.tokens, 1, device=a.device) if trust is None else trust
    inverse = inverse_diagonal(a, preconditioner, trust)
    done = 0
    for begin in range(0, codes.shape[1], CHANNELS):
        some = slice(begin, min(begin + CHANNELS, codes.shape[1]))
        search = Search(
            a, Columns(codes, some), start[:, some].contiguous(), inverse, trust, damping
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

    Solves ``(A^T trust A + damping M) (f - start) = A^T trust (Y - A start)`` preconditioned by M.
    The direction is kept as ``s = M p``, so that M itself, which has no inverse for the Gaussians
    that nobody sees, is never needed.

    Args:
        a: The weights.
        codes: ``[T, c]`` Y.
        start: ``[N, c]``.
        inverse: ``[N, 1]``: ``M^-1``, zero where a Gaussian is unseen.
        trust: ``[T, 1]``.
        damping: Strength of the pull to the start.
        watched: ``[R]`` int64 on the CPU, ascending: tokens to render; None is no token.

    Attributes:
        start_render: ``[R, c]``: the start, rendered.
        squared_gradient: ``[c]`` float64, the gradient's squared M^-1-norm.
        gradient_render: ``[R, c]``: the preconditioned gradient that the last step began with,
            rendered.
        alpha: ``[c]`` float64, the last step's length.
        beta: ``[c]`` float64, how much of the last direction the next one keeps.
    """

    def __init__(
        self,
        a: Stacked,
        codes: Rows,
        start: Tensor,
        inverse: Tensor,
        trust: Tensor,
        damping: float,
        watched: Tensor | None = None,
    ) -> None:
        self._a, self._inverse, self._trust = a, inverse, trust
        self._damping, self._watched = damping, watched
        self._r = torch.empty_like(start)
        self.start_render = a.gradient(codes, start, trust, self._r, watched)
        self._s, self._v = self._r.clone(), torch.zeros_like(start)
        self._p, self._q = torch.empty_like(start), torch.empty_like(start)
        self.squared_gradient = self._first = dots(self._r, self._r, inverse)
        self._direction_render = torch.zeros_like(self.start_render)
        self.gradient_render = self._direction_render
        self.alpha = self.beta = torch.zeros_like(self._first)

    def step(self, *, last: bool = False) -> None:
        """One step; ``last`` leaves out what only the next one would need."""
        rho = self.squared_gradient
        torch.mul(self._s, self._inverse, out=self._p)
        rendered = self._a.normal(self._p, self._trust, self._q, self._watched)
        # p = M^-1 gradient + beta (the p before), and A is linear.
        self.gradient_render = rendered - self._direction_render * self.beta.float()
        self._direction_render = rendered
        if self._damping:
            self._q.add_(self._s, alpha=self._damping)
        curvature = dots(self._p, self._q)
        going = (curvature > 0) & (rho > _CONVERGED * self._first)
        self.alpha = torch.where(going, rho / curvature.clamp_min(1e-300), 0.0)
        alpha = self.alpha.float()
        self._v.addcmul_(self._s, alpha)
        if last:
            return
        self._r.addcmul_(self._q, -alpha)
        self.squared_gradient = dots(self._r, self._r, self._inverse)
        self.beta = torch.where(going, self.squared_gradient / rho.clamp_min(1e-300), 0.0)
        self._s.mul_(self.beta.float()).add_(self._r)

    def solution(self) -> Tensor:
        """``[N, c]``: ``f - start``."""
        return self._v * self._inverse


def _check_rows(a: Stacked, codes: Rows) -> None:
    if codes.shape[0] != a.tokens:
        raise ValueError(f"codes of {codes.shape[0]} tokens for weights of {a.tokens}")


def _inverse(diagonal: Tensor, column: Tensor) -> Tensor:
    seen = (column > UNSEEN) & (diagonal > 0)
    return torch.where(seen, 1 / diagonal.clamp_min(1e-30), torch.zeros_like(diagonal))
