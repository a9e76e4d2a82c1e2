"""Features, depth and errors as pictures: pure functions on tensors."""

from fit3d_cli.viz.clusters import Clusters, kmeans
from fit3d_cli.viz.colours import depth_to_rgb, distinct_colours, error_to_rgb, heat_to_rgb
from fit3d_cli.viz.enlarging import enlarge_labels, enlarge_values
from fit3d_cli.viz.foreground import Foreground, find_foreground
from fit3d_cli.viz.panels import Panel, contact_sheet, label_map, side_by_side, to_uint8, upsample
from fit3d_cli.viz.pca import PcaBasis, fit_pca

__all__ = [
    "Clusters",
    "Foreground",
    "Panel",
    "PcaBasis",
    "contact_sheet",
    "depth_to_rgb",
    "distinct_colours",
    "enlarge_labels",
    "enlarge_values",
    "error_to_rgb",
    "find_foreground",
    "fit_pca",
    "heat_to_rgb",
    "kmeans",
    "label_map",
    "side_by_side",
    "to_uint8",
    "upsample",
]
