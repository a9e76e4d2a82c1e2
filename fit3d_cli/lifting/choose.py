"""How long and how freely to solve: decided on training views that the solver does not see.

One run of conjugate gradients without damping spans the search space of every damping, because
the pull is measured in the preconditioner's own metric: ``M^-1 A^T A + damping`` has the same
Krylov space for all of them (shifted systems, Frommer 2003). The run's coefficients are the
tridiagonal matrix of the problem in that space, so a candidate costs one small solve per channel
and no pass over the weights.

Candidates are compared after a decoder: it sharpens what the average blurs and trusts what was
fitted to its own views, so that the better codes are not always the better tokens. A small one, on
some channels of some views, ranks them as the whole one does. They are compared by cosine, as the
tokens are in the end: squared errors would listen to the few tokens that only one view saw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fit3d_cli.lifting.onethread import one_thread
from fit3d_cli.lifting.solve import Search, inverse_diagonal, weighted_average
from fit3d_cli.lifting.stacked import Columns, Preconditioner, Rows, Stacked
from fit3d_cli.tensorfile.overflow import Kept, Overflow

DAMPINGS = (0.003, 0.01, 0.03, 0.1, 0.3)
STEPS = (1, 2, 4, 8, 16)
_CHANNELS = 16
_VIEWS = 16  # at most, of either kind
_TOGETHER = 4  # channels whose filters are found at a time
_PROGRESS = 3e-3  # of what the cosine lacks; less is not worth twice the steps


@dataclass(frozen=True)
class Choice:
    """How the features are solved.

    Attributes:
        damping: Strength of the pull to the average.
        iterations: CG steps; 0 is the average itself.
        cosine: Mean cosine of decoded channels to the codes of the validation views; NaN if
            nothing was validated.
        average_cosine: The same of the average.
        error: Their squared error, relative to the codes' square.
        views: How many validation views there were.
    """

    damping: float
    iterations: int
    cosine: float = float("nan")
    average_cosine: float = float("nan")
    error: float = float("nan")
    views: int = 0

    def figures(self) -> dict[str, float]:
        """What an archive records of it."""
        used = {"cg_iterations": float(self.iterations), "cg_lambda": self.damping}
        if self.views == 0:
            return used
        return used | {
            "validation_views": float(self.views),
            "validation_cosine": self.cosine,
            "validation_cosine_average": self.average_cosine,
            "validation_error": self.error,
        }


def choose(
    a: Stacked,
    codes: Rows,
    grid: tuple[int, int],
    learnt: Sequence[int],
    validation: Sequence[int],
    preconditioner: Preconditioner,
    ridge: float,
    on_step: Callable[[int], None] | None = None,
    overflow: Overflow | None = None,
) -> Choice:
    """Solve on some views, look at the others.

    Args:
        a: The weights.
        codes: ``[T, d]``, the leading channels first.
        grid: ``(h, w)`` of every view.
        learnt: Positions of the views to learn from, in the order of the rows.
        validation: Positions of the views to measure on.
        preconditioner: See ``Stacked.diagonal``.
        ridge: Of the decoder.
        on_step: Called with the number of steps done.
        overflow: Where the search space lies; None keeps it in memory.
    """
    tokens = grid[0] * grid[1]
    codes = Columns(codes, slice(0, codes.shape[1], -(-codes.shape[1] // _CHANNELS)))
    fit = torch.zeros(a.tokens // tokens, tokens, device=a.device)
    fit[list(learnt)] = 1
    fit = fit.view(-1, 1)
    shown, asked = _some(learnt), _some(validation)
    looked = sorted(shown + asked)
    order = [looked.index(view) for view in shown + asked]
    rows = torch.cat([torch.arange(view * tokens, (view + 1) * tokens) for view in looked])
    search = Search(
        a, codes, weighted_average(a, codes, fit), inverse_diagonal(a, preconditioner, fit), fit,
        damping=0.0, watched=rows,
    )  # fmt: skip
    space = _Space(search, overflow or Overflow(budget=1 << 40))
    target = a.pick(codes, rows).view(len(looked), *grid, -1)[order]

    def score(iterations: int, damping: float) -> Choice:
        maps = space.rendered(damping).view(len(looked), *grid, -1)[order]
        cosine, error = _decoded(maps, target, len(shown), ridge)
        return Choice(damping, iterations, cosine, error=error, views=len(validation))

    best = average = score(0, 0.0)
    for step in range(1, STEPS[-1] + 1):
        space.grow()
        if on_step is not None:
            on_step(step)
        if step not in STEPS:
            continue
        found = max((score(step, damping) for damping in DAMPINGS), key=lambda c: c.cosine)
        if 1 - found.cosine >= (1 - best.cosine) * (1 - _PROGRESS):
            break
        best = found
    return replace(best, average_cosine=average.cosine)


class _Space:
    """The search space so far, rendered on some tokens.

    Args:
        search: Undamped conjugate gradients at their start, watching these tokens.
        overflow: Where the directions lie.
    """

    def __init__(self, search: Search, overflow: Overflow) -> None:
        self._search, self._overflow = search, overflow
        self._first = search.squared_gradient.sqrt().cpu()
        self._directions: list[Kept] = []  # unit length, [R, c] each
        channels = len(self._first)
        self._matrix = torch.zeros(channels, 0, 0, dtype=torch.float64)
        self._carry = torch.zeros(channels, dtype=torch.float64)
        self._side = torch.zeros(channels, dtype=torch.float64)

    def grow(self) -> None:
        """Take the present gradient into the space and go on to the next one.

        The gradients of CG are the Lanczos vectors with alternating signs, and its coefficients
        give their tridiagonal matrix (Golub and Van Loan, Matrix Computations, 11.3).
        """
        search, size = self._search, len(self._directions)
        length = search.squared_gradient.sqrt()
        scale = torch.where(length > 0, (-1) ** size / length.clamp_min(1e-150), 0.0)
        search.step()
        self._directions.append(self._overflow.keep(search.gradient_render * scale.float()))
        alpha, beta = search.alpha.cpu(), search.beta.cpu()
        alive = alpha > 0
        # A channel that has converged gets a huge pivot: the new direction has no part in it.
        pivot = torch.where(alive, 1 / alpha.clamp_min(1e-300), 1e30)
        grown = torch.zeros(len(alpha), size + 1, size + 1, dtype=torch.float64)
        grown[:, :size, :size] = self._matrix
        grown[:, size, size] = pivot + self._carry
        if size:
            grown[:, size, size - 1] = grown[:, size - 1, size] = self._side
        self._matrix = grown
        self._carry = torch.where(alive, beta * pivot, 0.0)
        self._side = torch.where(alive, beta.sqrt() * pivot, 0.0)

    @one_thread()
    def rendered(self, damping: float) -> Tensor:
        """``[R, c]``: what the minimiser within the space renders to."""
        out = self._search.start_render.clone()
        size = len(self._directions)
        if size == 0:
            return out
        right = torch.zeros(len(self._first), size, dtype=torch.float64)
        right[:, 0] = self._first
        shifted = self._matrix + damping * torch.eye(size, dtype=torch.float64)
        lengths = torch.linalg.solve(shifted, right).float().to(out.device)
        for index, direction in enumerate(self._directions):
            out.addcmul_(direction.get(), lengths[:, index])
        return out


@one_thread()
def _decoded(maps: Tensor, target: Tensor, shown: int, ridge: float) -> tuple[float, float]:
    """Mean cosine, and relative squared error, on the views after the first ``shown``.

    Principal components hardly correlate, so the decoder here is one 3x3 filter with a bias per
    channel: ridge regression on the first ``shown`` views, towards the identity.
    """
    channels = maps.shape[-1]
    padded = torch.nn.functional.pad(maps.permute(3, 0, 1, 2), (1, 1, 1, 1), mode="replicate")
    h, w = maps.shape[1:3]

    def columns(some: slice, views: slice) -> Tensor:
        """``[c, views * h * w, 10]``: the neighbours of each token, and one."""
        part = padded[some, views]
        taps = [part[..., y : y + h, x : x + w] for y in range(3) for x in range(3)]
        return torch.stack([*taps, torch.ones_like(taps[0])], -1).reshape(len(part), -1, 10)

    missing = (target - maps).permute(3, 0, 1, 2)
    parts = [slice(first, first + _TOGETHER) for first in range(0, channels, _TOGETHER)]
    learnt, asked = slice(0, shown), slice(shown, len(maps))
    gram, cross = padded.new_zeros(channels, 10, 10), padded.new_zeros(channels, 10, 1)
    for some in parts:
        rows = columns(some, learnt)
        gram[some] = rows.transpose(1, 2) @ rows
        left = missing[some, learnt].reshape(len(rows), -1, 1)
        cross[some] = rows.transpose(1, 2) @ left
    gram, cross = gram.double(), cross.double()
    strength = ridge * gram.diagonal(dim1=1, dim2=2)[:, :-1].mean()
    penalty = torch.full((10,), float(strength.clamp_min(1e-12)), dtype=torch.float64)
    penalty[-1] = 1e-9 * max(shown * h * w, 1)
    filters = torch.linalg.solve(gram + torch.diag(penalty).to(gram), cross).float()
    wrong = missing[:, asked].reshape(channels, -1).clone()
    for some in parts:
        wrong[some] -= (columns(some, asked) @ filters[some])[..., 0]
    wanted = target[shown:].reshape(-1, channels)
    cosine = torch.nn.functional.cosine_similarity(wanted - wrong.T, wanted, dim=-1)
    scale = float(wanted.square().sum()) or 1.0
    return float(cosine.mean()), float(wrong.square().sum()) / scale


def _some(views: Sequence[int]) -> list[int]:
    """At most ``_VIEWS``, evenly spread."""
    count = min(_VIEWS, len(views))
    return [views[(2 * i + 1) * len(views) // (2 * count)] for i in range(count)]
