"""Steps and pull from validation views: the search space against solving anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fit3d_cli.lifting import choose as module
from fit3d_cli.lifting.choose import DAMPINGS, Choice, _decoded, _Space, choose
from fit3d_cli.lifting.solve import (
    Search,
    conjugate_gradients,
    inverse_diagonal,
    weighted_average,
)
from fit3d_cli.lifting.solving import decide
from fit3d_cli.lifting.stacked import Preconditioner
from fit3d_cli.progress import ignore
from fit3d_cli.settings import FeatureSettings
from fit3d_cli.tensorfile.overflow import Overflow

Make = Callable[..., Any]
GRID = (4, 5)


@pytest.mark.parametrize("kind", ["column", "row-sum", "jacobi"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_one_run_serves_every_pull(make_problem: Make, kind: Preconditioner, steps: int) -> None:
    """What the space renders for a pull is what CG with that pull renders, on unseen tokens too."""
    problem = make_problem(views=6, count=50, dim=4)
    a, codes = problem.a, problem.codes
    fit = torch.ones(a.tokens, 1)
    fit[40:60] = 0
    start = weighted_average(a, codes, fit)
    inverse = inverse_diagonal(a, kind, fit)
    rows = torch.arange(30, 60)
    space = _Space(Search(a, codes, start, inverse, fit, 0.0, watched=rows), Overflow())
    for _ in range(steps):
        space.grow()
    for damping in (0.003, 0.1, 1.0):
        x = conjugate_gradients(
            a, codes, start.clone(), iterations=steps, damping=damping, preconditioner=kind,
            trust=fit,
        )  # fmt: skip
        # Two ways of the same steps in single precision.
        torch.testing.assert_close(space.rendered(damping), a.apply(x)[rows], rtol=0, atol=1e-4)
    assert (space.rendered(0.003) - space.rendered(1.0)).abs().max() > 0.02


def test_a_space_that_is_exhausted_stays_finite(make_problem: Make) -> None:
    """Twelve Gaussians, thirty steps: the directions run out."""
    problem = make_problem()
    a, codes = problem.a, problem.codes
    ones, start = torch.ones(a.tokens, 1), weighted_average(problem.a, problem.codes)
    inverse = inverse_diagonal(problem.a, "column", ones)
    everything = torch.arange(a.tokens)
    space = _Space(Search(a, codes, start, inverse, ones, 0.0, watched=everything), Overflow())
    for _ in range(30):
        space.grow()
    x = conjugate_gradients(a, codes, start.clone(), iterations=30, damping=0.1)
    torch.testing.assert_close(space.rendered(0.1), a.apply(x), rtol=0, atol=1e-4)


def made(make_problem: Make, noise: float) -> tuple[Any, torch.Tensor]:
    """Codes that a field renders to, with noise of each view's own."""
    problem = make_problem(views=24, count=60, dim=3)
    generator = torch.Generator().manual_seed(3)
    truth = torch.randn(60, 3, generator=generator)
    clean = problem.a.apply(truth)
    return problem.a, clean + noise * torch.randn(clean.shape, generator=generator)


def pick(make_problem: Make, noise: float) -> Choice:
    a, codes = made(make_problem, noise)
    aside = [3, 9, 15, 21]
    learnt = [i for i in range(24) if i not in aside]
    return choose(a, codes, GRID, learnt, aside, "column", 0.1)


def test_clean_views_are_solved_far_and_noisy_ones_are_not(make_problem: Make) -> None:
    clean, noisy, noise = (pick(make_problem, n) for n in (0.0, 0.3, 3.0))
    assert clean.iterations >= 8 and clean.damping == DAMPINGS[0]
    assert clean.cosine > 0.99 > clean.average_cosine
    assert clean.cosine > noisy.cosine > noise.cosine
    assert clean.error < noisy.error < noise.error
    assert clean.damping <= noisy.damping <= noise.damping
    assert noise.damping >= 0.03, "views that agree on nothing"
    assert noise.cosine >= noise.average_cosine
    assert (clean.views, noise.views) == (4, 4)


def test_the_choice_learns_nothing_from_the_validation_views(
    make_problem: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, codes = made(make_problem, 0.3)
    seen: list[torch.Tensor] = []

    def spy(maps: torch.Tensor, target: torch.Tensor, shown: int, ridge: float) -> Any:
        seen.append(maps)
        return _decoded(maps, target, shown, ridge)

    monkeypatch.setattr(module, "_decoded", spy)
    learnt = [i for i in range(24) if i != 5]
    choose(a, codes, GRID, learnt, [5], "column", 0.1)
    first, seen[:] = seen[:], []
    changed = codes.clone()
    changed[5 * 20 : 6 * 20] += 7
    choose(a, changed, GRID, learnt, [5], "column", 0.1)
    for before, after in zip(first, seen, strict=False):
        assert torch.equal(before, after)


def test_the_error_is_what_the_best_filter_leaves() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(4, 12, 12, 2, generator=generator)
    cosine, error = _decoded(2 * target + 1, target, 3, 1e-6)
    assert cosine == pytest.approx(1) and error < 1e-6
    cosine, error = _decoded(torch.randn(4, 12, 12, 2, generator=generator), target, 3, 1e-6)
    assert abs(cosine) < 0.3 and 0.9 < error < 1.3, "noise explains nothing"


def test_the_settings_decide_who_chooses(make_problem: Make) -> None:
    a, codes = made(make_problem, 0.1)
    trust = torch.ones(a.tokens, 1)

    def decided(trust: torch.Tensor = trust, **changes: object) -> Choice:
        settings = FeatureSettings.model_validate({"dim": 3, **changes})
        return decide(a, codes, trust, GRID, settings, ignore, "")

    assert decided().views == 3  # an eighth
    assert decided(validation=0.25).views == 6
    fixed = decided(validation=0, cg_iterations=5, cg_lambda=0.2)
    assert (fixed.damping, fixed.iterations, fixed.views) == (0.2, 5, 0)
    assert decided(solver="average").iterations == 0
    few = trust.clone()
    few[7 * 20 :] = 0
    assert decided(few).views == 0, "seven views are too few to put one aside"
    assert set(decided().figures()) - set(fixed.figures()) == {
        "validation_views", "validation_cosine", "validation_cosine_average", "validation_error"
    }  # fmt: skip
