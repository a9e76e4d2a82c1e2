"""A session: layers, clicks, thresholds; the look as a command."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fit3d_cli.errors import SettingsError
from fit3d_cli.scene import Scene
from fit3d_cli.viewer.cameras import choose_start, viewmat_of
from fit3d_cli.viewer.layers import LAYERS
from fit3d_cli.viewer.look import Look, facts, parse_layer, parse_points, plain
from fit3d_cli.viewer.session import Session

RED, BLUE = torch.tensor([-0.7, 0.0, 3.0]), torch.tensor([0.7, 0.0, 4.0])
ORIGIN = torch.zeros(3)


def halves(colours: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    half = len(colours) // 2
    return colours[:half].mean(0), colours[half:].mean(0)


def test_layers(scene: Scene) -> None:
    session = Session(scene, Look(), most=10**6)
    seen = {}
    for layer in LAYERS:
        session.look.layer = layer
        colours = session.colours(torch.eye(4))
        assert colours.shape == (len(scene.gaussians), 3)
        assert float(colours.min()) >= 0 and float(colours.max()) <= 1
        seen[layer] = halves(colours)
    assert torch.allclose(seen["rgb"][0], torch.tensor([0.9, 0.2, 0.1]), atol=1e-5)
    for layer in ("pca", "kmeans", "depth"):
        assert float((seen[layer][0] - seen[layer][1]).abs().max()) > 0.2, layer
    # Nothing is looked for yet.
    assert torch.equal(seen["similarity"][0], seen["rgb"][0])
    # Near is bright: the red wall is nearer, and from behind the blue one is.
    assert float(seen["depth"][0].sum()) > float(seen["depth"][1].sum())
    session.look.layer = "depth"
    near, far = halves(session.colours(viewmat_of(torch.tensor([0.0, 0, 9]), ORIGIN,
                                                  torch.tensor([0.0, 1, 0]))))  # fmt: skip
    assert float(far.sum()) > float(near.sum())


def test_two_groups(scene: Scene) -> None:
    session = Session(scene, Look("kmeans", clusters=2), most=10**6)
    colours = session.colours(torch.eye(4))
    half = len(colours) // 2
    assert len(colours[:half].unique(dim=0)) == len(colours[half:].unique(dim=0)) == 1
    assert len(colours.unique(dim=0)) == 2


def test_clicks(scene: Scene) -> None:
    session = Session(scene, Look(), most=10**6)
    assert session.scores() is None
    assert session.click(ORIGIN, torch.tensor([0.0, 0, -1])) is None
    assert session.look == Look()
    hit = session.click(ORIGIN, RED)
    assert hit is not None and session.look.layer == "similarity"
    assert hit.gaussian < len(scene.gaussians) // 2
    red, blue = halves(session.colours(torch.eye(4)))
    assert float(red.sum()) > float(blue.sum()) + 0.5
    assert session.click(ORIGIN, BLUE, mode="add") is not None
    scores = session.scores()
    assert scores is not None
    assert (
        float((scores[: len(scores) // 2].mean() - scores[len(scores) // 2 :].mean()).abs()) < 0.05
    )
    session.click(ORIGIN, RED, mode="subtract")
    red, blue = halves(session.colours(torch.eye(4)))
    assert float(blue.sum()) > float(red.sum()) + 0.5
    assert (len(session.look.positives), len(session.look.negatives)) == (2, 1)
    session.click(ORIGIN, BLUE)
    assert (len(session.look.positives), len(session.look.negatives)) == (1, 0)
    session.clear()
    assert session.scores() is None


def test_hidden_gaussians_cannot_be_clicked(scene: Scene) -> None:
    half = len(scene.gaussians) // 2
    front = scene.gaussians.means.clone()
    front[:half, 0] *= -1  # the red wall now stands before the blue one
    opacities = torch.full((len(front),), 0.95)
    opacities[:half] = 0.7
    stacked = replace(scene, gaussians=replace(scene.gaussians, means=front, opacities=opacities))
    session = Session(stacked, Look(), most=10**6)
    hit = session.click(ORIGIN, BLUE)
    assert hit is not None and hit.gaussian < half
    session.look.opacity = 0.8
    hit = session.click(ORIGIN, BLUE)
    assert hit is not None and float(hit.point[2]) > 3.7
    assert int((session.opacities() == 0).sum()) == half


def test_thinned_display_queries_all(scene: Scene) -> None:
    session = Session(scene, Look(), most=50)
    assert len(session.drawn) == 50
    session.click(ORIGIN, RED)
    scores = session.scores()
    assert scores is not None and len(scores) == len(scene.gaussians)
    assert session.colours(torch.eye(4)).shape == (50, 3)
    assert "Queries use all" in facts(scene, 50)
    assert "Queries" not in facts(scene, len(scene.gaussians))


def test_command_shows_the_same_again(scene: Scene) -> None:
    session = Session(scene, Look(opacity=0.2), most=10**6)
    session.click(ORIGIN, RED)
    session.click(ORIGIN, BLUE, mode="subtract")
    words = shlex.split(session.look.command(Path("my scenes/a.f3d"), " --workspace w"))
    assert words[:3] == ["fit3d", "viz", "my scenes/a.f3d"]
    assert words[words.index("--layer") + 1] == "similarity"
    found = [word.partition("=")[2] for word in words if word.startswith("--find=")]
    unlike = [word.partition("=")[2] for word in words if word.startswith("--unlike=")]
    again = Session(
        scene,
        Look("similarity", 6, 0.2, parse_points(found, "--find"), parse_points(unlike, "--unlike")),
        most=10**6,
    )
    first, second = session.scores(), again.scores()
    assert first is not None and second is not None
    assert torch.allclose(first, second, atol=1e-4)


@pytest.mark.parametrize("text", ["1,2", "a,b,c", "1,2,nan", "1,2,3,4", ""])
def test_bad_points(text: str) -> None:
    with pytest.raises(SettingsError, match=r"--find=0\.5,-1,2"):
        parse_points([text], "--find")


def test_bad_layer() -> None:
    with pytest.raises(SettingsError, match="rgb, pca, kmeans"):
        parse_layer("rainbow")


def test_facts_hold_figures_and_no_markup(scene: Scene) -> None:
    evil = replace(scene, name="![x](/etc/passwd)<script>|`$")
    text = facts(evil, 10)
    assert "21.50 dB" in text and "0.875" in text
    assert "![" not in text and "<script" not in text.replace("\\<", "")
    assert plain("a\nb*c") == "ab\\*c"


def test_start_sees_the_scene(scene: Scene) -> None:
    start = choose_start(scene)
    assert start.view in scene.views(heldout=False)
    assert torch.allclose(start.up, torch.tensor([0.0, -1, 0], dtype=torch.float64), atol=1e-6)
    assert 2.9 < start.distance < 4.1
    matrix = viewmat_of(start.position, start.look_at, start.up)
    assert torch.allclose(matrix, scene.cameras.viewmats[start.view], atol=1e-6)
