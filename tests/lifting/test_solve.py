"""The solvers against dense linear algebra in float64."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from fit3d_cli.lifting.solve import conjugate_gradients, fit_basis, weighted_average


def maps(views: int = 3, h: int = 4, w: int = 5, channels: int = 6, seed: int = 1) -> list[Tensor]:
    """Correlated tokens with a mean, so that the components are well apart."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=generator) * 0.6 ** torch.arange(channels)
    return [torch.randn(h, w, channels, generator=generator) @ mixing.T + 2.0 for _ in range(views)]


def regularised(problem: Any, start: Tensor, damping: float) -> Tensor:
    """Dense minimiser of ``|A f - Y|^2 + damping |f - start|^2_D``; unseen ones keep ``start``."""
    A, Y = problem.dense, problem.stacked
    D = A.sum(0)
    lhs = A.T @ A + damping * torch.diag(D)
    rhs = A.T @ Y + damping * D[:, None] * start.double()
    solution = start.double().clone()
    seen = [i for i in range(A.shape[1]) if i not in problem.unseen]
    solution[seen] = torch.linalg.solve(lhs[seen][:, seen], rhs[seen])
    return solution


def objective(problem: Any, x: Tensor, start: Tensor, damping: float) -> float:
    residual = problem.dense @ x.double() - problem.stacked
    pull = problem.dense.sum(0)[:, None] * (x.double() - start.double()).square()
    return float(residual.square().sum() + damping * pull.sum())


def test_weighted_average_is_the_dense_formula(problem: Any) -> None:
    average = weighted_average(problem.weights, problem.codes)
    D = problem.dense.sum(0)
    expected = (problem.dense.T @ problem.stacked) / D.clamp_min(1e-9)[:, None]
    # Sums of some 25 float32 products each.
    torch.testing.assert_close(average.double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(average[problem.unseen], torch.zeros(2, 3))


def test_average_of_constant_codes_is_the_constant(problem: Any) -> None:
    constant = [torch.full_like(y, 1.75) for y in problem.codes]
    average = weighted_average(problem.weights, constant)
    seen = [i for i in range(12) if i not in problem.unseen]
    torch.testing.assert_close(average[seen], torch.full((10, 3), 1.75))


@pytest.mark.parametrize("damping", [0.05, 1.0])
def test_cg_converges_to_the_dense_solution(problem: Any, damping: float) -> None:
    start = weighted_average(problem.weights, problem.codes)
    x = conjugate_gradients(problem.weights, problem.codes, start, iterations=40, damping=damping)
    # Float32 CG stalls at about epsilon (6e-8) times the condition number, here below 100.
    torch.testing.assert_close(x.double(), regularised(problem, start, damping), rtol=0, atol=2e-5)
    assert (x - start).abs().max() > 0.05, "the average is no test of the solver"


def test_cg_converges_from_any_start(problem: Any) -> None:
    start = torch.randn(12, 3, generator=torch.Generator().manual_seed(9))
    x = conjugate_gradients(problem.weights, problem.codes, start, iterations=40, damping=0.3)
    torch.testing.assert_close(x.double(), regularised(problem, start, 0.3), rtol=0, atol=2e-5)


def test_no_iterations_return_the_start(problem: Any) -> None:
    start = torch.randn(12, 3)
    x = conjugate_gradients(problem.weights, problem.codes, start, iterations=0, damping=1.0)
    assert torch.equal(x, start)


def test_every_cg_step_lowers_the_objective(problem: Any) -> None:
    start = weighted_average(problem.weights, problem.codes)
    values = [
        objective(
            problem,
            conjugate_gradients(problem.weights, problem.codes, start, iterations=k, damping=0.05),
            start,
            0.05,
        )
        for k in range(7)
    ]
    best = objective(problem, regularised(problem, start, 0.05), start, 0.05)
    gaps = [value - best for value in values]
    assert all(b < a for a, b in itertools.pairwise(gaps) if a > 1e-6 * values[0])
    assert gaps[2] < 0.1 * gaps[0], "two steps, the default, should do most of it"


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_cg_is_optimal_in_its_krylov_space(problem: Any, steps: int) -> None:
    """The k-th iterate minimises the objective over k preconditioned gradients: CG's definition."""
    damping = 0.05
    start = weighted_average(problem.weights, problem.codes)
    x = conjugate_gradients(
        problem.weights, problem.codes, start, iterations=steps, damping=damping
    )
    seen = [i for i in range(12) if i not in problem.unseen]
    A = problem.dense[:, seen]
    D = A.sum(0)
    normal = A.T @ A + damping * torch.diag(D)
    begun = start[seen].double()
    for channel in range(3):
        residual = A.T @ (problem.stacked[:, channel] - A @ begun[:, channel])
        space = [residual / D]
        for _ in range(steps - 1):
            space.append(normal @ space[-1] / D)
        basis = torch.linalg.qr(torch.stack(space, 1))[0]
        best = basis @ torch.linalg.solve(basis.T @ normal @ basis, basis.T @ residual)
        torch.testing.assert_close(
            x[seen, channel].double(), begun[:, channel] + best, rtol=0, atol=1e-5
        )


def test_cg_reports_a_falling_residual(problem: Any) -> None:
    seen: list[tuple[int, float]] = []
    start = weighted_average(problem.weights, problem.codes)
    conjugate_gradients(
        problem.weights, problem.codes, start, iterations=5, damping=0.5,
        on_step=lambda step, residual: seen.append((step, residual)),
    )  # fmt: skip
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5]
    assert seen[-1][1] < 1e-3 * seen[0][1]


def test_unseen_gaussians_stay_as_they_are(problem: Any) -> None:
    start = torch.randn(12, 3, generator=torch.Generator().manual_seed(2))
    for damping in (0.0, 1.0):
        x = conjugate_gradients(
            problem.weights, problem.codes, start, iterations=60, damping=damping
        )
        assert torch.isfinite(x).all()
        assert torch.equal(x[problem.unseen], start[problem.unseen])
        assert not torch.equal(x, start)


def test_codes_that_do_not_fit_are_refused(problem: Any) -> None:
    with pytest.raises(ValueError, match="3 views of weights for 2"):
        weighted_average(problem.weights, problem.codes[:2])
    with pytest.raises(ValueError, match="no views"):
        weighted_average([], [])
    with pytest.raises(ValueError, match="codes"):
        weighted_average(problem.weights, [y[0] for y in problem.codes])


def test_basis_is_torchs_svd() -> None:
    tokens = maps()
    basis = fit_basis(tokens, 3)
    rows = torch.cat([t.reshape(-1, 6) for t in tokens]).double()
    _, singular, vt = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    torch.testing.assert_close(basis.mean.double(), rows.mean(0), rtol=0, atol=1e-6)
    alignment = (vt[:3] @ basis.basis.double()).abs()
    torch.testing.assert_close(alignment, torch.eye(3).double(), rtol=0, atol=1e-5)
    share = float(singular[:3].square().sum() / singular.square().sum())
    assert basis.explained == pytest.approx(share, abs=1e-9)
    # The best rank-3 reconstruction: its error is exactly the variance that is left out.
    error = sum(float((basis.decode(basis.encode(t)) - t).square().sum()) for t in tokens)
    assert error == pytest.approx(float(singular[3:].square().sum()), rel=1e-4)


def test_signs_do_not_depend_on_the_order_or_the_sign_of_the_data() -> None:
    tokens = maps()
    basis = fit_basis(tokens, 6).basis
    assert (basis.gather(0, basis.abs().argmax(0, keepdim=True)) > 0).all()
    torch.testing.assert_close(fit_basis(tokens[::-1], 6).basis, basis, rtol=0, atol=1e-5)
    mirrored = fit_basis([-t for t in tokens], 6)
    torch.testing.assert_close(mirrored.basis, basis, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        fit_basis([t.half() for t in tokens], 2).basis, basis[:, :2], rtol=0, atol=2e-3
    )


def test_more_components_than_channels_are_padded_with_zeros() -> None:
    tokens = maps()
    basis = fit_basis(tokens, 9)
    assert basis.basis.shape == (6, 9)
    assert torch.equal(basis.basis[:, 6:], torch.zeros(6, 3))
    torch.testing.assert_close(basis.basis @ basis.basis.T, torch.eye(6), rtol=0, atol=1e-6)
    torch.testing.assert_close(basis.decode(basis.encode(tokens[0])), tokens[0])
    assert basis.explained == pytest.approx(1)


def test_equal_tokens_are_explained_by_their_mean() -> None:
    basis = fit_basis([torch.full((2, 3, 4), 0.5)], 2)
    assert basis.explained == 1.0
    torch.testing.assert_close(basis.decode(torch.zeros(1, 2)), torch.full((1, 4), 0.5))


def test_pca_commutes_with_lifting(problem: Any) -> None:
    tokens = maps()
    basis = fit_basis(tokens, 2)
    seen = [i for i in range(12) if i not in problem.unseen]
    of_codes = weighted_average(problem.weights, [basis.encode(t) for t in tokens])
    of_tokens = basis.encode(weighted_average(problem.weights, tokens))
    torch.testing.assert_close(of_codes[seen], of_tokens[seen], rtol=0, atol=1e-5)
    # Also the regularised solution: it is linear in the data and exact on constants.
    shifted = [t - basis.mean for t in tokens]
    start = weighted_average(problem.weights, shifted)
    wide = conjugate_gradients(problem.weights, shifted, start, iterations=40, damping=0.3)
    narrow = conjugate_gradients(
        problem.weights, [basis.encode(t) for t in tokens], start @ basis.basis,
        iterations=40, damping=0.3,
    )  # fmt: skip
    torch.testing.assert_close(narrow, wide @ basis.basis, rtol=0, atol=5e-5)
