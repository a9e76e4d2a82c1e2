"""Features, depth and errors as pictures: pure functions on tensors."""

from fit3d_cli.viz.clusters import Clusters, kmeans
from fit3d_cli.viz.colours import depth_to_rgb, distinct_colours, error_to_rgb
from fit3d_cli.viz.panels import Panel, contact_sheet, label_map, side_by_side, to_uint8, upsample
from fit3d_cli.viz.pca import PcaBasis, fit_pca

__all__ = [
    "Clusters",
    "Panel",
    "PcaBasis",
    "contact_sheet",
    "depth_to_rgb",
    "distinct_colours",
    "error_to_rgb",
    "fit_pca",
    "kmeans",
    "label_map",
    "side_by_side",
    "to_uint8",
    "upsample",
]
