"""What the tokens are pulled to: maps per view, made once, read view by view.

Gaussians are in memory only while the maps of their scene are made. Afterwards a scene is a few
cache files with small maps per view, so training needs memory for a batch, however many scenes
there are.
"""

from fit3d_cli.finetuning.batch import Sample
from fit3d_cli.finetuning.targets.depths import check_depths
from fit3d_cli.finetuning.targets.find import SceneTargets, find_targets
from fit3d_cli.finetuning.targets.lifted_maps import relift
from fit3d_cli.finetuning.targets.load import DepthView, load_depth, load_sample
from fit3d_cli.finetuning.targets.prepare import check_targets, prepare_targets

__all__ = [
    "DepthView",
    "Sample",
    "SceneTargets",
    "check_depths",
    "check_targets",
    "find_targets",
    "load_depth",
    "load_sample",
    "prepare_targets",
    "relift",
]
