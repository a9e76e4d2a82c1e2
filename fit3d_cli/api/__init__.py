"""The public Python interface: ``import fit3d_cli as f3d``.

Everything here is also an attribute of ``fit3d_cli`` itself, and is loaded (with torch) when it is
first used:

- ``open_scene(path)``: a ``LiftedScene``, which answers for points, rays and views;
- ``load_backbone(name_or_directory)``: a 2D backbone, base or tuned;
- ``dense_features(image, backbone)``: its tokens of one picture, preprocessing inside.

Whoever only wants the numbers of a ``.f3d`` needs none of this: it is a safetensors file, which
``safetensors.numpy.load_file`` opens without torch; ``docs/f3d-format.md`` names its tensors.
"""

from fit3d_cli.api.pictures import dense_features, load_backbone
from fit3d_cli.api.queries import PointAnswers, RayAnswers
from fit3d_cli.api.scenes import LiftedScene, open_scene

__all__ = [
    "LiftedScene",
    "PointAnswers",
    "RayAnswers",
    "dense_features",
    "load_backbone",
    "open_scene",
]
