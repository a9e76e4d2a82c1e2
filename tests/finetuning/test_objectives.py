"""Every term against a slow direct formula, its ideal, its gradient and awkward input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fit3d_cli.finetuning.batch import Batch, Pairs
from fit3d_cli.finetuning.objectives.base import (
    OBJECTIVES,
    Outputs,
    active_objectives,
)
from fit3d_cli.settings import FinetuneSettings, ObjectiveSettings

B, H, W, C, P = 4, 3, 5, 6, 7
SETTINGS = FinetuneSettings()
# Terms of patch tokens; the one of class tokens has its own tests below.
NAMES = [name for name in OBJECTIVES.names() if OBJECTIVES.get(name).needs != "class"]
ON_PAIRS = [name for name in NAMES if OBJECTIVES.get(name).needs == "pairs"]


def make_pairs(first: int, second: int, draw: Callable[..., Tensor], count: int = P) -> Pairs:
    points = 3 * draw(count, 3)
    points[1] = points[0] + 0.004  # a positive beside the point itself
    middle = points.median(0).values
    extent = float((points - middle).norm(dim=1).median())
    return Pairs(first, second, draw(count, 2), draw(count, 2), points, extent)


def make(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Batch, Outputs]:
    """Four pictures, two pairs of views with different numbers of points."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=dtype)

    batch = Batch(
        draw(B, 3, 2, 2), draw(B, H, W, C) - 0.5,
        draw(B, H, W) * (draw(B, H, W) > 0.3), draw(B, H, W) * (draw(B, H, W) > 0.2),
        (make_pairs(0, 1, draw), make_pairs(3, 2, draw, P + 4)),
    )  # fmt: skip
    return batch, Outputs(draw(B, H, W, C) - 0.5, draw(B, H, W, C) - 0.5)


def value(
    name: str, batch: Batch, outputs: Outputs, settings: FinetuneSettings = SETTINGS
) -> Tensor:
    """The term as the trainer computes it."""
    term = OBJECTIVES.get(name)
    errors, weights = term.errors(batch, outputs, settings), term.weights(batch)
    assert errors.shape == weights.shape
    assert not weights.requires_grad and (weights >= 0).all()
    return errors.sum() / weights.sum().clamp(min=1e-12)


# --- Slow formulas, one number at a time ------------------------------------------------


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def at(tokens: Tensor, place: Tensor) -> Tensor:
    """Bilinear feature of ``[h, w, C]`` tokens at a place, from torch's own sampler."""
    grid = (2 * place - 1).reshape(1, 1, 1, 2)
    found = torch.nn.functional.grid_sample(
        tokens.permute(2, 0, 1)[None], grid, padding_mode="border", align_corners=False
    )
    return found.flatten()


def over_tokens(weight: Tensor, error: Callable[[int, int, int], float]) -> float:
    total = sum(
        float(weight[b, i, j]) * error(b, i, j)
        for b in range(B) for i in range(H) for j in range(W) if weight[b, i, j] > 0
    )  # fmt: skip
    return total / float(weight.sum())


def slow_l1(batch: Batch, outputs: Outputs) -> float:
    return over_tokens(
        batch.weight,
        lambda b, i, j: sum(
            abs(float(outputs.student[b, i, j, c] - batch.targets[b, i, j, c])) for c in range(C)
        ) / C,
    )  # fmt: skip


def slow_cosine(batch: Batch, outputs: Outputs) -> float:
    return over_tokens(
        batch.weight, lambda b, i, j: 1 - cosine(outputs.student[b, i, j], batch.targets[b, i, j])
    )


def slow_anchor(batch: Batch, outputs: Outputs) -> float:
    assert outputs.base is not None
    return slow_l1(replace(batch, weight=batch.mask, targets=outputs.base), outputs)


def slow_norm_angle(batch: Batch, outputs: Outputs) -> float:
    base = outputs.base
    assert base is not None

    def error(b: int, i: int, j: int) -> float:
        ours, theirs = outputs.student[b, i, j], base[b, i, j]
        return abs(float(ours.norm() / theirs.norm()) - 1) + 1 - cosine(ours, theirs)

    return over_tokens(batch.mask, error)


def slow_gram(batch: Batch, outputs: Outputs) -> float:
    assert outputs.base is not None
    total, weights = 0.0, 0.0
    for b in range(B):
        student, base = outputs.student[b].flatten(0, 1), outputs.base[b].flatten(0, 1)
        mask = batch.mask[b].flatten()
        squares = sum(
            float(mask[i] * mask[j])
            * (cosine(student[i], student[j]) - cosine(base[i], base[j])) ** 2
            for i in range(H * W) for j in range(H * W)
        )  # fmt: skip
        share = float(mask.mean())
        total += share * squares / float(mask.sum()) ** 2
        weights += share
    return total / weights


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, x / 0.01))))


def slow_smooth_ap(batch: Batch, outputs: Outputs) -> float:
    losses = []
    for pairs in batch.pairs:
        count = len(pairs.points)
        ours = [at(outputs.student[pairs.first], p) for p in pairs.places_first]
        theirs = [at(outputs.student[pairs.second], p) for p in pairs.places_second]
        s = [[cosine(a, b) for b in theirs] for a in ours]
        for i in range(count):
            far = [float((pairs.points[i] - p).norm()) / pairs.extent for p in pairs.points]
            negatives = [k for k in range(count) if far[k] > 0.3]
            for j in range(count):
                if far[j] > 0.015:
                    continue
                top = sigmoid(s[i][j] - 1) + 1
                one = top / (top + sum(sigmoid(s[i][k] - 1) for k in negatives))
                top = sigmoid(1 - s[i][j]) + 1
                two = top / (top + sum(sigmoid(s[i][k] - s[i][j]) for k in negatives))
                losses.append(1 - (one + two) / 2)
    return sum(losses) / len(losses)


def close(a: Tensor, b: Tensor) -> bool:
    dx, dy = abs(float(a[0] - b[0])) * W, abs(float(a[1] - b[1])) * H
    return dx < 1 and dy < 1


def slow_info_nce(batch: Batch, outputs: Outputs) -> float:
    losses = []
    for pairs in batch.pairs:
        count = len(pairs.points)
        ours = [at(outputs.student[pairs.first], p) for p in pairs.places_first]
        theirs = [at(outputs.student[pairs.second], p) for p in pairs.places_second]
        for i in range(count):
            others = [
                j for j in range(count)
                if j == i or not (close(pairs.places_first[i], pairs.places_first[j])
                                  or close(pairs.places_second[i], pairs.places_second[j]))
            ]  # fmt: skip
            for mine, all_of_them in ((ours[i], theirs), (theirs[i], ours)):
                scores = {j: math.exp(cosine(mine, all_of_them[j]) / 0.05) for j in others}
                losses.append(-math.log(scores[i] / sum(scores.values())))
    return sum(losses) / len(losses)


def slow_location(batch: Batch, outputs: Outputs) -> float:
    losses = []
    for pairs in batch.pairs:
        for source, target, start, end in (
            (pairs.first, pairs.second, pairs.places_first, pairs.places_second),
            (pairs.second, pairs.first, pairs.places_second, pairs.places_first),
        ):
            for place, goal in zip(start, end, strict=True):
                query = at(outputs.student[source], place)
                scores, x, y = 0.0, 0.0, 0.0
                for i in range(H):
                    for j in range(W):
                        score = math.exp(cosine(query, outputs.student[target, i, j]) / 0.02)
                        scores += score
                        x += score * (2 * (j + 0.5) / W - 1)
                        y += score * (2 * (i + 0.5) / H - 1)
                gx = min(max(2 * float(goal[0]) - 1, 1 / W - 1), 1 - 1 / W)
                gy = min(max(2 * float(goal[1]) - 1, 1 / H - 1), 1 - 1 / H)
                losses.append((abs(x / scores - gx) + abs(y / scores - gy)) / 2)
    return sum(losses) / len(losses)


SLOW = {
    "l1": slow_l1, "cosine": slow_cosine, "anchor": slow_anchor, "norm_angle": slow_norm_angle,
    "gram": slow_gram, "smooth_ap": slow_smooth_ap, "info_nce": slow_info_nce,
    "location": slow_location,
}  # fmt: skip


# --- What every term must do ------------------------------------------------------------


def test_every_term_has_a_weight_a_source_and_a_slow_formula() -> None:
    settings = set(ObjectiveSettings.model_fields) - {"temperature"}
    assert settings == set(OBJECTIVES.names()) == {*SLOW, "class_anchor"}
    assert all(len(OBJECTIVES.get(name).source) > 5 for name in settings)
    assert active_objectives(SETTINGS) == {"l1": 1.0}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_slow_formula(name: str, seed: int) -> None:
    batch, outputs = make(seed)
    expected = SLOW[name](batch, outputs)
    assert expected > 1e-3
    assert float(value(name, batch, outputs)) == pytest.approx(expected, rel=1e-9)
    assert outputs.base is not None
    pairs = tuple(
        replace(p, places_first=p.places_first.float(), places_second=p.places_second.float())
        for p in batch.pairs
    )
    fields = (batch.images, batch.targets, batch.weight, batch.mask)
    narrow = Batch(*(field.float() for field in fields), pairs)
    low = value(name, narrow, Outputs(outputs.student.float(), outputs.base.float()))
    assert float(low) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_gradient(name: str) -> None:
    batch, outputs = make(3)
    student = outputs.student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: OBJECTIVES.get(name).errors(batch, Outputs(s, outputs.base), SETTINGS),
        (student,),
        fast_mode=True,
    )
    value(name, batch, outputs).backward()
    assert student.grad is not None and student.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_four_is_two_of_two(name: str) -> None:
    batch, outputs = make(4)
    assert outputs.base is not None
    term = OBJECTIVES.get(name)
    errors, weights = torch.zeros(()).double(), torch.zeros(()).double()
    for start, pairs in ((0, batch.pairs[0]), (2, batch.pairs[1])):
        part = slice(start, start + 2)
        moved = replace(pairs, first=pairs.first - start, second=pairs.second - start)
        half = Batch(batch.images[part], batch.targets[part], batch.weight[part],
                     batch.mask[part], (moved,))  # fmt: skip
        tokens = Outputs(outputs.student[part], outputs.base[part])
        errors += term.errors(half, tokens, SETTINGS).sum()
        weights += term.weights(half).sum()
    torch.testing.assert_close(errors / weights, value(name, batch, outputs))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["zero", "zero_base", "huge", "tiny", "masked", "same"])
def test_awkward_tokens_give_finite_gradients(name: str, case: str) -> None:
    batch, outputs = make(5, torch.float32)
    student, base = outputs.student, outputs.base
    assert base is not None
    if case == "zero":
        student = torch.zeros_like(student)
    elif case == "zero_base":
        base, batch = torch.zeros_like(base), replace(batch, targets=0 * batch.targets)
    elif case in ("huge", "tiny"):
        student = student * (1e12 if case == "huge" else 1e-12)
    elif case == "masked":
        batch = replace(batch, weight=0 * batch.weight, mask=0 * batch.mask)
    else:
        student = torch.ones_like(student)
    student = student.clone().requires_grad_()
    result = value(name, batch, Outputs(student, base))
    result.backward()
    result = result.detach()
    assert result.isfinite() and student.grad is not None and student.grad.isfinite().all()
    if case == "masked" and name not in ON_PAIRS:
        assert float(result) == 0 and (student.grad == 0).all()


@pytest.mark.parametrize("name", ON_PAIRS)
@pytest.mark.parametrize("case", ["one point", "one place", "far away", "corners"])
def test_awkward_pairs_give_finite_gradients(name: str, case: str) -> None:
    batch, outputs = make(6, torch.float32)
    pairs = batch.pairs[0]
    if case == "one point":
        pairs = Pairs(0, 1, pairs.places_first[:1], pairs.places_second[:1], pairs.points[:1], 0.0)
    elif case == "one place":  # all positives, no negatives
        pairs = replace(pairs, places_first=0 * pairs.places_first + 0.5,
                        points=0 * pairs.points + 1, extent=0.0)  # fmt: skip
    elif case == "far away":
        pairs = replace(pairs, points=pairs.points.double() + 1e8)
    else:
        pairs = replace(pairs, places_first=pairs.places_first.round(),
                        places_second=pairs.places_second.round())  # fmt: skip
    student = outputs.student.clone().requires_grad_()
    result = value(name, replace(batch, pairs=(pairs,)), Outputs(student))
    result.backward()
    result = result.detach()
    assert result.isfinite() and student.grad is not None and student.grad.isfinite().all()
    if case == "one point" and name != "location":
        assert float(result) == pytest.approx(0, abs=1e-6)  # there is nothing to confuse it with
    if case == "far away" and name == "smooth_ap":
        near = value(name, replace(batch, pairs=batch.pairs[:1]), Outputs(student.detach()))
        assert float(result) == pytest.approx(float(near), rel=1e-5)


@pytest.mark.parametrize("name", ON_PAIRS)
def test_a_batch_without_pairs_costs_nothing(name: str) -> None:
    batch, outputs = make(7)
    student = outputs.student.requires_grad_()
    term = OBJECTIVES.get(name)
    nothing = replace(batch, pairs=())
    errors = term.errors(nothing, Outputs(student), SETTINGS)
    assert errors.shape == term.weights(nothing).shape == (0,)
    errors.sum().backward()
    assert student.grad is not None and (student.grad == 0).all()


@pytest.mark.parametrize("name", [n for n in NAMES if OBJECTIVES.get(n).needs == "base"])
def test_a_term_on_the_base_needs_it_and_leaves_it_alone(name: str) -> None:
    batch, outputs = make(8)
    base = torch.zeros_like(outputs.student).copy_(outputs.base).requires_grad_()
    student = outputs.student.requires_grad_()
    value(name, batch, Outputs(student, base)).backward()
    assert base.grad is None
    with pytest.raises(ValueError, match="base"):
        value(name, batch, Outputs(student))


# --- Ideals and known answers -----------------------------------------------------------


@pytest.mark.parametrize("name", ["l1", "cosine", "anchor", "norm_angle", "gram"])
def test_zero_where_nothing_is_wrong(name: str) -> None:
    batch, outputs = make(9)
    same = Outputs(outputs.student, outputs.student.clone())
    assert float(value(name, replace(batch, targets=outputs.student), same)) < 1e-12


def test_l1_is_the_published_ratio() -> None:
    """Two pictures, weights 1 and 0.5, differences 2 and 4: (1 * 2 + 0.5 * 4) / 1.5."""
    targets = torch.tensor([2.0, -4.0]).reshape(2, 1, 1, 1).expand(2, 1, 1, 5)
    weight = torch.tensor([1, 0.5]).reshape(2, 1, 1)
    batch = Batch(torch.zeros(2, 3, 1, 1), targets, weight, torch.ones(2, 1, 1))
    outputs = Outputs(torch.zeros(2, 1, 1, 5))
    assert float(value("l1", batch, outputs)) == pytest.approx(4 / 1.5)


def test_directions_and_lengths() -> None:
    """Opposite and twice as long: a cosine of -1, a ratio of 2."""
    batch, outputs = make(10)
    batch = replace(batch, targets=-2 * outputs.student)
    assert float(value("cosine", batch, outputs)) == pytest.approx(2)
    far = Outputs(outputs.student, -0.5 * outputs.student)
    assert float(value("norm_angle", batch, far)) == pytest.approx(1 + 2)
    longer = Outputs(outputs.student, 0.5 * outputs.student)
    assert float(value("norm_angle", batch, longer)) == pytest.approx(1)
    assert float(value("gram", batch, longer)) == pytest.approx(0, abs=1e-12)


def test_gram_sees_relations_only() -> None:
    batch, outputs = make(11)
    turn = torch.linalg.qr(torch.rand(C, C, generator=torch.Generator().manual_seed(0)).double())[0]
    assert float(value("gram", batch, Outputs(outputs.student, outputs.student @ turn))) < 1e-12
    # Two tokens, equal in the student and orthogonal in the base: half the entries differ by 1.
    flat = Batch(
        torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2), torch.ones(1, 1, 2)
    )
    student, base = torch.tensor([[[[1.0, 0], [1, 0]]]]), torch.tensor([[[[1.0, 0], [0, 1]]]])
    assert float(value("gram", flat, Outputs(student, base))) == pytest.approx(0.5)


def grid_batch() -> tuple[Batch, Tensor]:
    """Two pictures of 2 x 2 patches, each token a direction of its own; points at the centres."""
    tokens = torch.eye(4).reshape(1, 2, 2, 4).repeat(2, 1, 1, 1).double()
    places = torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]).double()
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]).double()
    pairs = Pairs(0, 1, places, places, points, 0.7)
    blank = torch.ones(2, 2, 2).double()
    return Batch(torch.zeros(2, 3, 4, 4), torch.zeros_like(tokens), blank, blank, (pairs,)), tokens


@pytest.mark.parametrize("name", ON_PAIRS)
def test_zero_at_perfect_matches_and_worse_when_swapped(name: str) -> None:
    batch, tokens = grid_batch()
    assert float(value(name, batch, Outputs(tokens))) < 1e-6
    swapped = tokens.clone()
    swapped[1] = tokens[1].flip(1)
    assert float(value(name, batch, Outputs(swapped))) > 0.3


def test_known_ranking() -> None:
    """All features equal: s = 1 everywhere, g(0) = 1/2, three negatives each.

    AP1 = AP2 = 1.5 / (1.5 + 3 * 0.5) = 1/2.
    """
    batch, tokens = grid_batch()
    assert float(value("smooth_ap", batch, Outputs(torch.ones_like(tokens)))) == pytest.approx(0.5)


def test_known_contrast() -> None:
    """All features equal: four candidates, log 4; fewer where points are too near to tell."""
    batch, tokens = grid_batch()
    same = Outputs(torch.ones_like(tokens))
    assert float(value("info_nce", batch, same)) == pytest.approx(math.log(4))
    pairs = batch.pairs[0]
    moved = pairs.places_second.clone()
    moved[1] = moved[0] + torch.tensor([0.1, -0.1])  # a fifth of a patch beside point 0
    near = replace(batch, pairs=(replace(pairs, places_second=moved),))
    expected = (2 * math.log(3) + 2 * math.log(4)) / 4
    assert float(value("info_nce", near, same)) == pytest.approx(expected)
    warm = FinetuneSettings(objectives=ObjectiveSettings(temperature=1.0))
    assert float(value("info_nce", batch, Outputs(tokens), warm)) == pytest.approx(
        math.log(math.e + 3) - 1
    )


def test_known_location() -> None:
    """All features equal: the average of all centres is the middle, half a side from each."""
    batch, tokens = grid_batch()
    same = Outputs(torch.ones_like(tokens))
    assert float(value("location", batch, same)) == pytest.approx(0.5)
    # A true place outside the centres counts as on them.
    pairs = batch.pairs[0]
    corners = pairs.places_second.round()
    outer = replace(batch, pairs=(replace(pairs, places_second=corners),))
    assert float(value("location", outer, Outputs(tokens))) < 1e-6


def test_ranking_takes_the_first_picture_as_queries() -> None:
    """As published, one-sided: swapping the pictures gives another number."""
    batch, outputs = make(12)
    swapped = tuple(
        Pairs(p.second, p.first, p.places_second, p.places_first, p.points, p.extent)
        for p in batch.pairs
    )
    one = float(value("smooth_ap", batch, outputs))
    other = float(value("smooth_ap", replace(batch, pairs=swapped), outputs))
    assert abs(one - other) > 1e-6
    for name in ("info_nce", "location"):
        there = float(value(name, batch, outputs))
        assert float(value(name, replace(batch, pairs=swapped), outputs)) == pytest.approx(there)


def test_ranking_counts_near_points_as_positives_and_skips_the_rest() -> None:
    """Points 0.01, 0.1 and 1 extents from the first: a positive, neither, a negative."""
    batch, tokens = grid_batch()
    points = torch.tensor([[0.0, 0, 0], [0.01, 0, 0], [0.1, 0, 0], [1.0, 0, 0]]).double()
    pairs = replace(batch.pairs[0], points=points, extent=1.0)
    batch = replace(batch, pairs=(pairs,))
    assert OBJECTIVES.get("smooth_ap").weights(batch).tolist() == [4 + 2]
    tokens[1, 0, 1] = tokens[1, 0, 0]  # point 2's feature is point 1's: no harm, it is no negative
    tokens[1, 1, 0] = tokens[1, 0, 0]
    outputs = Outputs(tokens)
    errors = float(OBJECTIVES.get("smooth_ap").errors(batch, outputs, SETTINGS))
    # (0,0), (0,1) are right; (1,1), (1,0), (2,2) rank 0 against one negative of cosine 0.
    zero = 1 - (1 + 2 / (2 + 0.5)) / 2
    assert errors == pytest.approx(3 * zero, rel=1e-6)


# --- The class token --------------------------------------------------------------------


def with_class(seed: int) -> tuple[Batch, Outputs]:
    batch, outputs = make(seed)
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = torch.randn(2, B, C, generator=generator, dtype=torch.float64)
    return batch, replace(outputs, student_class=ours, base_class=theirs)


def test_class_anchor_is_the_mean_distance_whatever_the_patches() -> None:
    batch, outputs = with_class(0)
    assert outputs.student_class is not None and outputs.base_class is not None
    pairs = zip(outputs.student_class.flatten().tolist(), outputs.base_class.flatten().tolist(),
                strict=True)  # fmt: skip
    wanted = sum(abs(a - b) for a, b in pairs) / (B * C)
    assert float(value("class_anchor", batch, outputs)) == pytest.approx(wanted)
    moved = replace(outputs, student=outputs.student + 1)
    assert float(value("class_anchor", batch, moved)) == pytest.approx(wanted)
    same = replace(outputs, student_class=outputs.base_class)
    assert float(value("class_anchor", batch, same)) == 0


def test_class_anchor_pulls_the_student_only_and_splits() -> None:
    batch, outputs = with_class(1)
    assert outputs.student_class is not None and outputs.base_class is not None
    ours, theirs = (t.requires_grad_() for t in (outputs.student_class, outputs.base_class))
    whole = value("class_anchor", batch, outputs)
    whole.backward()
    assert ours.grad is not None and (ours.grad.sign() == (ours - theirs).sign()).all()
    assert theirs.grad is None
    parts = [
        float(
            value(
                "class_anchor",
                replace(batch, images=batch.images[part], pairs=()),
                replace(outputs, student_class=ours[part], base_class=theirs[part]),
            ).detach()
        )
        for part in (slice(0, 1), slice(1, 4))
    ]
    assert float(whole.detach()) == pytest.approx((parts[0] + 3 * parts[1]) / 4)


def test_class_anchor_without_class_tokens_is_a_bug() -> None:
    batch, outputs = make(2)
    with pytest.raises(ValueError, match="class tokens"):
        value("class_anchor", batch, outputs)
