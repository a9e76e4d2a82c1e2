"""The solvers against dense linear algebra in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fit3d_cli.errors import WeightsError
from fit3d_cli.lifting.basis import fit_basis
from fit3d_cli.lifting.solve import conjugate_gradients, inverse_diagonal, weighted_average
from fit3d_cli.lifting.stacked import Preconditioner, Stacked
from fit3d_cli.splat.weights import TokenWeights

Make = Callable[..., Any]
KINDS: tuple[Preconditioner, ...] = ("column", "row-sum", "jacobi")


def maps(views: int = 3, h: int = 4, w: int = 5, channels: int = 6, seed: int = 1) -> list[Tensor]:
    """Correlated tokens with a mean, so that the components are well apart."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=generator) * 0.6 ** torch.arange(channels)
    return [torch.randn(h, w, channels, generator=generator) @ mixing.T + 2.0 for _ in range(views)]


def regularised(
    problem: Any,
    start: Tensor,
    damping: float,
    kind: Preconditioner = "column",
    trust: Tensor | None = None,
) -> Tensor:
    """Dense minimiser of ``|A f - Y|^2_trust + damping |f - start|^2_M``; unseen keep ``start``."""
    A, Y = problem.dense, problem.stacked
    B = A if trust is None else A * trust.double()
    M = dense_diagonal(problem, kind, trust)
    lhs = B.T @ A + damping * torch.diag(M)
    rhs = B.T @ Y + damping * M[:, None] * start.double()
    solution = start.double().clone()
    seen = [i for i in range(A.shape[1]) if i not in problem.unseen]
    solution[seen] = torch.linalg.solve(lhs[seen][:, seen], rhs[seen])
    return solution


def dense_diagonal(problem: Any, kind: Preconditioner, trust: Tensor | None = None) -> Tensor:
    A = problem.dense
    B = A if trust is None else A * trust.double()
    return {"column": B.sum(0), "row-sum": B.T @ A.sum(1), "jacobi": (B * A).sum(0)}[kind]


def objective(problem: Any, x: Tensor, start: Tensor, damping: float) -> float:
    residual = problem.dense @ x.double() - problem.stacked
    pull = problem.dense.sum(0)[:, None] * (x.double() - start.double()).square()
    return float(residual.square().sum() + damping * pull.sum())


def average(problem: Any) -> Tensor:
    return weighted_average(problem.a, problem.codes)


def cg(problem: Any, start: Tensor, **options: Any) -> Tensor:
    return conjugate_gradients(problem.a, problem.codes, start.clone(), **options)


def some_trust(problem: Any) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return 0.1 + 0.9 * torch.rand(problem.a.tokens, 1, generator=generator)


def test_weighted_average_is_the_dense_formula(problem: Any) -> None:
    D = problem.dense.sum(0)
    expected = (problem.dense.T @ problem.stacked) / D.clamp_min(1e-9)[:, None]
    # Sums of some 25 float32 products each.
    torch.testing.assert_close(average(problem).double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(average(problem)[problem.unseen], torch.zeros(2, 3))
    trust = some_trust(problem)
    B = problem.dense * trust.double()
    expected = (B.T @ problem.stacked) / B.sum(0).clamp_min(1e-9)[:, None]
    weighted = weighted_average(problem.a, problem.codes, trust)
    torch.testing.assert_close(weighted.double(), expected, rtol=0, atol=1e-6)


def test_average_of_constant_codes_is_the_constant(problem: Any) -> None:
    constant = weighted_average(problem.a, torch.full_like(problem.codes, 1.75))
    seen = [i for i in range(12) if i not in problem.unseen]
    torch.testing.assert_close(constant[seen], torch.full((10, 3), 1.75))


@pytest.mark.parametrize("kind", KINDS)
def test_diagonals_are_the_dense_ones(problem: Any, kind: Preconditioner) -> None:
    trust = some_trust(problem)
    found = problem.a.diagonal(kind, trust)[:, 0]
    expected = dense_diagonal(problem, kind, trust)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


def test_row_sums_dominate_the_normal_matrix(make_problem: Make) -> None:
    """``D' - A^T A`` is a graph Laplacian: no negative eigenvalue, and zero row sums."""
    problem = make_problem(count=50, views=4)
    A = problem.dense
    ones = torch.ones(problem.a.tokens, 1)
    excess = torch.diag(problem.a.diagonal("row-sum", ones)[:, 0].double()) - A.T @ A
    # The diagonal is a float32 sum of order one.
    assert float(torch.linalg.eigvalsh(excess).min()) > -1e-6
    torch.testing.assert_close(excess.sum(1), torch.zeros(50).double(), rtol=0, atol=1e-6)
    assert float(torch.linalg.eigvalsh(excess).max()) > 0.1
    # Of the true diagonal that is not so, which is why it is no step length.
    jacobi = torch.diag(problem.a.diagonal("jacobi", ones)[:, 0].double()) - A.T @ A
    assert float(torch.linalg.eigvalsh(jacobi).min()) < -0.1


@pytest.mark.parametrize("kind", ["column", "row-sum"])
def test_richardson_never_increases_the_error(make_problem: Make, kind: Preconditioner) -> None:
    """``f <- f + M^-1 A^T (Y - A f)`` with unit steps; the first from zero is the average."""
    problem = make_problem(count=50, views=4)
    a, codes = problem.a, problem.codes
    ones = torch.ones(a.tokens, 1)
    inverse = inverse_diagonal(a, kind, ones)
    f = torch.zeros(50, 3)
    errors = [float(codes.square().sum())]
    for step in range(30):
        f = f + inverse * a.apply_t(codes - a.apply(f), torch.empty(50, 3))
        errors.append(float((codes - a.apply(f)).square().sum()))
        if step == 0 and kind == "column":
            torch.testing.assert_close(f, weighted_average(a, codes), rtol=0, atol=1e-6)
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("damping", [0.05, 1.0])
def test_cg_converges_to_the_dense_solution(
    make_problem: Make, kind: Preconditioner, trusted: bool, damping: float
) -> None:
    """Also with 35 channels, which take two blocks."""
    problem = make_problem(count=50, views=4, dim=35)
    trust = some_trust(problem) if trusted else None
    start = average(problem)
    x = cg(problem, start, iterations=60, damping=damping, preconditioner=kind, trust=trust)
    expected = regularised(problem, start, damping, kind, trust)
    # Float32 CG stalls at about epsilon (6e-8) times the condition number, here some 100, times
    # the largest value, here some 10.
    torch.testing.assert_close(x.double(), expected, rtol=0, atol=1e-4)
    assert (x - start).abs().max() > 0.05, "the average is no test of the solver"


def test_cg_converges_from_any_start(problem: Any) -> None:
    start = torch.randn(12, 3, generator=torch.Generator().manual_seed(9))
    x = cg(problem, start, iterations=40, damping=0.3)
    torch.testing.assert_close(x.double(), regularised(problem, start, 0.3), rtol=0, atol=2e-5)


def test_no_iterations_return_the_start(problem: Any) -> None:
    start = torch.randn(12, 3)
    assert torch.equal(cg(problem, start, iterations=0, damping=1.0), start)


def test_every_cg_step_lowers_the_objective(problem: Any) -> None:
    start = average(problem)
    values = [
        objective(problem, cg(problem, start, iterations=k, damping=0.05), start, 0.05)
        for k in range(7)
    ]
    best = objective(problem, regularised(problem, start, 0.05), start, 0.05)
    gaps = [value - best for value in values]
    assert all(b < a for a, b in itertools.pairwise(gaps) if a > 1e-6 * values[0])
    assert gaps[2] < 0.1 * gaps[0], "two steps should do most of it"


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_cg_is_optimal_in_its_krylov_space(problem: Any, kind: Preconditioner, steps: int) -> None:
    """The k-th iterate minimises the objective over k preconditioned gradients: CG's definition."""
    damping = 0.05
    start = average(problem)
    x = cg(problem, start, iterations=steps, damping=damping, preconditioner=kind)
    seen = [i for i in range(12) if i not in problem.unseen]
    A = problem.dense[:, seen]
    M = dense_diagonal(problem, kind)[seen]
    normal = A.T @ A + damping * torch.diag(M)
    begun = start[seen].double()
    for channel in range(3):
        residual = A.T @ (problem.stacked[:, channel] - A @ begun[:, channel])
        space = [residual / M]
        for _ in range(steps - 1):
            space.append(normal @ space[-1] / M)
        basis = torch.linalg.qr(torch.stack(space, 1))[0]
        best = basis @ torch.linalg.solve(basis.T @ normal @ basis, basis.T @ residual)
        torch.testing.assert_close(
            x[seen, channel].double(), begun[:, channel] + best, rtol=0, atol=1e-5
        )


def test_cg_counts_its_steps(problem: Any) -> None:
    seen: list[int] = []
    cg(problem, average(problem), iterations=5, damping=0.5, on_step=seen.append)
    assert seen == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", KINDS)
def test_unseen_gaussians_stay_as_they_are(problem: Any, kind: Preconditioner) -> None:
    start = torch.randn(12, 3, generator=torch.Generator().manual_seed(2))
    for damping in (0.0, 1.0):
        x = cg(problem, start, iterations=100, damping=damping, preconditioner=kind)
        assert torch.isfinite(x).all()
        assert torch.equal(x[problem.unseen], start[problem.unseen])
        assert not torch.equal(x, start)


def test_undamped_cg_reaches_the_least_error_and_stays_there(problem: Any) -> None:
    """Far beyond convergence the steps must not turn rounding into motion."""
    seen = [i for i in range(12) if i not in problem.unseen]
    expected = torch.linalg.lstsq(problem.dense[:, seen], problem.stacked).solution
    x = cg(problem, average(problem), iterations=200, damping=0.0)
    torch.testing.assert_close(x[seen].double(), expected, rtol=0, atol=1e-4)


def test_views_that_cover_nothing_leave_the_start() -> None:
    nothing = TokenWeights(
        2, 3, 4, torch.zeros(7, dtype=torch.int64), torch.empty(0, dtype=torch.int32),
        torch.empty(0),
    )  # fmt: skip
    a, codes = Stacked([nothing, nothing]), torch.randn(12, 2)
    start = weighted_average(a, codes)
    assert torch.equal(start, torch.zeros(4, 2))
    for kind in KINDS:
        x = conjugate_gradients(
            a, codes, start.clone(), iterations=5, damping=0.0, preconditioner=kind
        )
        assert torch.equal(x, start)


def test_one_gaussian_seen_in_one_token() -> None:
    one = TokenWeights(
        1, 1, 1, torch.tensor([0, 1]), torch.tensor([0], dtype=torch.int32), torch.tensor([0.25])
    )
    a, codes = Stacked([one]), torch.tensor([[2.0, -1.0]])
    start = weighted_average(a, codes)
    assert torch.equal(start, codes)
    x = conjugate_gradients(a, codes, start, iterations=3, damping=0.0)
    torch.testing.assert_close(x, codes * 4)  # 0.25 x = Y


def test_codes_that_do_not_fit_are_refused(problem: Any) -> None:
    with pytest.raises(ValueError, match="no views"):
        Stacked([])
    with pytest.raises(ValueError, match="codes"):
        weighted_average(problem.a, problem.codes[:-1])
    with pytest.raises(ValueError, match="start"):
        cg(problem, torch.zeros(11, 3), iterations=1, damping=1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_threads_gives_the_same_bits(
    make_problem: Make, kind: Preconditioner
) -> None:
    problem = make_problem(views=3, h=30, w=20, count=5000, dim=40, density=0.01)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            start = average(problem)
            results.append(cg(problem, start, iterations=3, damping=0.1, preconditioner=kind))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_basis_is_torchs_svd() -> None:
    tokens = maps()
    basis = fit_basis(tokens, 3)
    rows = torch.cat([t.reshape(-1, 6) for t in tokens]).double()
    _, singular, vt = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    torch.testing.assert_close(basis.mean.double(), rows.mean(0), rtol=0, atol=1e-6)
    alignment = (vt[:3] @ basis.basis.double()).abs()
    torch.testing.assert_close(alignment, torch.eye(3).double(), rtol=0, atol=1e-5)
    share = float(singular[:3].square().sum() / singular.square().sum())
    # Products of some 60 rows in single precision, summed in double.
    assert basis.explained == pytest.approx(share, abs=1e-8)
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
    rows = torch.cat([t.reshape(-1, 6) for t in tokens])
    seen = [i for i in range(12) if i not in problem.unseen]
    a = problem.a
    of_codes = weighted_average(a, basis.encode(rows))
    of_tokens = basis.encode(weighted_average(a, rows))
    torch.testing.assert_close(of_codes[seen], of_tokens[seen], rtol=0, atol=1e-5)
    # Also the regularised solution: it is linear in the data and exact on constants.
    shifted = rows - basis.mean
    start = weighted_average(a, shifted)
    narrow = conjugate_gradients(
        a, basis.encode(rows), start @ basis.basis, iterations=40, damping=0.3
    )
    wide = conjugate_gradients(a, shifted, start, iterations=40, damping=0.3)
    torch.testing.assert_close(narrow, wide @ basis.basis, rtol=0, atol=5e-5)


def test_tokens_that_are_not_finite_are_refused() -> None:
    tokens = maps()
    for bad in (float("nan"), float("inf")):
        tokens[1][2, 3, 4] = bad
        with pytest.raises(WeightsError, match=r"tokens of view 1 hold numbers that are not fin"):
            fit_basis(tokens, 3)
    with pytest.raises(ValueError, match="no views"):
        fit_basis([], 3)
