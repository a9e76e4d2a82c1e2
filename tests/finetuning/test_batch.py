"""A batch in pieces: nothing is lost, pairs stay together."""

from __future__ import annotations

import pytest
import torch

from fit3d_cli.finetuning.batch import Batch, Pairs


def batch(count: int, *pairs: tuple[int, int]) -> Batch:
    numbers = torch.arange(float(count))
    points = torch.zeros(5, 3)
    deep, flat = numbers.view(-1, 1, 1, 1), numbers.view(-1, 1, 1).expand(-1, 2, 2)
    return Batch(
        deep.expand(-1, 3, 4, 4), deep.expand(-1, 2, 2, 6), flat, flat,
        tuple(Pairs(a, b, points[:, :2], points[:, :2], points, 1.0) for a, b in pairs),
    )  # fmt: skip


def members(piece: Batch) -> list[int]:
    return [int(x) for x in piece.images[:, 0, 0, 0]]


@pytest.mark.parametrize(
    ("count", "pairs", "most", "expected"),
    [
        (5, [], 2, [[0, 1], [2, 3], [4]]),
        (5, [], 5, [[0, 1, 2, 3, 4]]),
        (1, [], 1, [[0]]),
        (6, [(0, 1), (2, 3), (4, 5)], 4, [[0, 1, 2, 3], [4, 5]]),
        (6, [(0, 1), (2, 3), (4, 5)], 3, [[0, 1], [2, 3], [4, 5]]),
        (5, [(1, 2)], 2, [[0], [1, 2], [3, 4]]),
        (5, [(2, 1)], 1, [[0], [1, 2], [3], [4]]),
        (2, [(0, 1)], 1, [[0, 1]]),
    ],
)
def test_pieces(
    count: int, pairs: list[tuple[int, int]], most: int, expected: list[list[int]]
) -> None:
    pieces = batch(count, *pairs).cut(most)
    assert [members(piece) for piece in pieces] == expected
    found = [
        (members(piece)[p.first], members(piece)[p.second])
        for piece in pieces for p in piece.pairs
    ]  # fmt: skip
    assert found == pairs
    for piece in pieces:
        assert len(piece.targets) == len(piece.weight) == len(piece.mask) == len(piece.images)
