import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d_cli.decoders import Decoder, solve_decoder, unfold3x3


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthonormal(rows: int, columns: int, seed: int = 5) -> Tensor:
    return torch.linalg.qr(random(rows, columns, seed=seed))[0]


def by_loops(decoder: Decoder, maps: Tensor) -> Tensor:
    """The convolution written out, border replicated."""
    h, w, _ = maps.shape
    out = decoder.bias.repeat(h, w, 1)
    for row in range(h):
        for column in range(w):
            for i in range(3):
                for j in range(3):
                    y, x = min(max(row + i - 1, 0), h - 1), min(max(column + j - 1, 0), w - 1)
                    out[row, column] += decoder.weight[:, :, i, j] @ maps[y, x]
    return out


def test_decoder_is_the_convolution_with_replicated_border() -> None:
    decoder = Decoder(random(4, 3, 3, 3), random(4, seed=1))
    maps = random(2, 5, 4, 3, seed=2)
    expected = torch.stack([by_loops(decoder, m) for m in maps])
    torch.testing.assert_close(decoder(maps), expected)
    assert (decoder.in_dim, decoder.out_dim) == (3, 4)


def test_constant_maps_decode_to_constant_tokens() -> None:
    decoder = Decoder(random(4, 3, 3, 3), random(4, seed=1))
    tokens = decoder(random(3, seed=3).expand(1, 4, 6, 3))
    # Zero padding would make the border different.
    torch.testing.assert_close(tokens, tokens[:, :1, :1].expand_as(tokens))


def test_unfold_matches_the_decoder() -> None:
    decoder = Decoder(random(4, 3, 3, 3), torch.zeros(4))
    maps = random(2, 5, 4, 3, seed=2)
    rows = unfold3x3(maps)
    assert rows.shape == (2 * 5 * 4, 9 * 3)
    torch.testing.assert_close(
        (rows @ decoder.weight.reshape(4, -1).T).reshape(2, 5, 4, 4), decoder(maps)
    )


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="bias"):
        Decoder(torch.zeros(4, 3, 3, 3), torch.zeros(3))
    with pytest.raises(ValueError, match="weight"):
        Decoder(torch.zeros(4, 3, 5, 5), torch.zeros(4))
    with pytest.raises(ValueError, match="maps"):
        Decoder(torch.zeros(4, 3, 3, 3), torch.zeros(4))(torch.zeros(1, 2, 2, 4))


def test_solving_recovers_a_known_decoder() -> None:
    truth = Decoder(random(5, 3, 3, 3), random(5, seed=1))
    pairs = [(m := random(1, 8, 9, 3, seed=s), truth(m), None) for s in range(10, 16)]
    found = solve_decoder(pairs, orthonormal(5, 3), random(5, seed=7), ridge=1e-9)
    # 432 rows for 28 unknowns: what is left is float32 rounding of weights of order 1.
    torch.testing.assert_close(found.weight, truth.weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.bias, truth.bias, rtol=0, atol=1e-5)


def test_without_data_it_is_the_pca_reconstruction() -> None:
    basis, mean = orthonormal(6, 2), random(6, seed=1)
    codes = random(1, 4, 5, 2, seed=2)
    decoder = solve_decoder([], basis, mean, ridge=1e-3)
    torch.testing.assert_close(decoder(codes), codes @ basis.T + mean)
    # The same when everything has weight zero, and in the limit of an infinite ridge.
    nonsense = [(codes, 100 * random(1, 4, 5, 6, seed=3), torch.zeros(1, 4, 5))]
    torch.testing.assert_close(solve_decoder(nonsense, basis, mean, ridge=1e-3)(codes),
                               codes @ basis.T + mean)  # fmt: skip
    target = (codes @ basis.T + mean) * 1.5 - 0.5 * mean
    stiff = solve_decoder([(codes, target, None)], basis, mean, ridge=1e9)
    centre = torch.zeros(6, 2, 3, 3)
    centre[:, :, 1, 1] = basis
    torch.testing.assert_close(stiff.weight, centre, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_solution_is_that_of_the_augmented_least_squares(weighted: bool) -> None:
    maps, tokens = random(2, 4, 5, 2), random(2, 4, 5, 3, seed=1)
    weights = random(2, 4, 5, seed=2).abs() if weighted else None
    basis, mean, ridge = orthonormal(3, 2), random(3, seed=4), 0.3
    found = solve_decoder([(maps, tokens, weights)], basis, mean, ridge=ridge)
    # Independently: numpy's lstsq on rows sqrt(w) [X 1], and the ridge as rows of its own.
    X = np.zeros((40, 2, 3, 3))
    padded = np.pad(maps.numpy().astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    for n, (b, row, column) in enumerate(np.ndindex(2, 4, 5)):
        X[n] = padded[b, row : row + 3, column : column + 3].transpose(2, 0, 1)
    X = X.reshape(40, 18)
    w = np.ones(40) if weights is None else weights.numpy().astype(np.float64).reshape(40)
    strength = ridge * np.mean((w[:, None] * X * X).sum(0))
    prior = np.zeros((3, 2, 3, 3))
    prior[:, :, 1, 1] = basis.numpy()
    design = np.vstack([
        np.sqrt(w)[:, None] * np.hstack([X, np.ones((40, 1))]),
        np.sqrt(strength) * np.eye(18, 19),
    ])  # fmt: skip
    goal = np.vstack([
        np.sqrt(w)[:, None] * tokens.numpy().reshape(40, 3),
        np.sqrt(strength) * prior.reshape(3, 18).T,
    ])  # fmt: skip
    solution = np.linalg.lstsq(design, goal, rcond=None)[0]
    np.testing.assert_allclose(found.weight.numpy().reshape(3, 18), solution[:18].T, atol=1e-5)
    np.testing.assert_allclose(found.bias.numpy(), solution[18], atol=1e-5)


def test_rows_of_weight_zero_have_no_influence() -> None:
    maps, tokens = random(1, 6, 6, 2), random(1, 6, 6, 3, seed=1)
    weights = torch.ones(1, 6, 6)
    weights[0, 2, 3] = 0
    corrupt = tokens.clone()
    corrupt[0, 2, 3] = 1e4
    basis, mean = orthonormal(3, 2), torch.zeros(3)
    clean = solve_decoder([(maps, tokens, weights)], basis, mean, ridge=1e-3)
    other = solve_decoder([(maps, corrupt, weights)], basis, mean, ridge=1e-3)
    assert torch.equal(clean.weight, other.weight)
    assert torch.equal(clean.bias, other.bias)


def test_streaming_equals_one_batch() -> None:
    maps, tokens = random(4, 5, 6, 3), random(4, 5, 6, 4, seed=1)
    weights = random(4, 5, 6, seed=2).abs()
    basis, mean = orthonormal(4, 3), random(4, seed=3)
    whole = solve_decoder([(maps, tokens, weights)], basis, mean, ridge=1e-2)
    views = ((maps[i : i + 1], tokens[i : i + 1], weights[i : i + 1]) for i in range(4))
    streamed = solve_decoder(views, basis, mean, ridge=1e-2)
    # Sums in float64: the order shows in the last bits of float32 at most.
    torch.testing.assert_close(streamed.weight, whole.weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(streamed.bias, whole.bias, rtol=0, atol=1e-6)
