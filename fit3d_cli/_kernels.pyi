from typing import Annotated

import numpy
from numpy.typing import NDArray

def isa() -> str: ...
def use_baseline(baseline: bool) -> None: ...
def huge_pages(
    bytes: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu")],
) -> None: ...

class Camera:
    def __init__(
        self,
        viewmat: Annotated[
            NDArray[numpy.float32], dict(shape=(4, 4), order="C", device="cpu", writable=False)
        ],
        K: Annotated[
            NDArray[numpy.float32], dict(shape=(3, 3), order="C", device="cpu", writable=False)
        ],
        width: int,
        height: int,
        near_plane: float,
        far_plane: float,
        eps2d: float,
    ) -> None: ...

class Lists:
    def __init__(
        self,
        splats: Annotated[
            NDArray[numpy.float32],
            dict(shape=(None, None), order="C", device="cpu", writable=False),
        ],
        tile_offsets: Annotated[
            NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        tile_counts: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
        tile_ids: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
        tile_pairs: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
        width: int,
        height: int,
    ) -> None: ...

class Weights:
    def __init__(
        self,
        group_offsets: Annotated[
            NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        group_counts: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        slots: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        weights: Annotated[
            NDArray[numpy.float32],
            dict(shape=(None, None), order="C", device="cpu", writable=False),
        ],
    ) -> None: ...

def project_forward(
    means: Annotated[
        NDArray[numpy.float32], dict(shape=(None, 3), order="C", device="cpu", writable=False)
    ],
    quats: Annotated[
        NDArray[numpy.float32], dict(shape=(None, 4), order="C", device="cpu", writable=False)
    ],
    scales: Annotated[
        NDArray[numpy.float32], dict(shape=(None, 3), order="C", device="cpu", writable=False)
    ],
    opacities: Annotated[
        NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    camera: Camera,
    means2d: Annotated[NDArray[numpy.float32], dict(shape=(None, 2), order="C", device="cpu")],
    conics: Annotated[NDArray[numpy.float32], dict(shape=(None, 3), order="C", device="cpu")],
    depths: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu")],
    radii: Annotated[NDArray[numpy.int32], dict(shape=(None, 2), order="C", device="cpu")],
    threads: int,
) -> None: ...
def project_backward(
    means: Annotated[
        NDArray[numpy.float32], dict(shape=(None, 3), order="C", device="cpu", writable=False)
    ],
    quats: Annotated[
        NDArray[numpy.float32], dict(shape=(None, 4), order="C", device="cpu", writable=False)
    ],
    scales: Annotated[
        NDArray[numpy.float32], dict(shape=(None, 3), order="C", device="cpu", writable=False)
    ],
    opacities: Annotated[
        NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    camera: Camera,
    radii: Annotated[
        NDArray[numpy.int32], dict(shape=(None, 2), order="C", device="cpu", writable=False)
    ],
    v_means2d: Annotated[
        NDArray[numpy.float32], dict(shape=(None, 2), order="C", device="cpu", writable=False)
    ],
    v_conics: Annotated[
        NDArray[numpy.float32], dict(shape=(None, 3), order="C", device="cpu", writable=False)
    ],
    v_depths: Annotated[
        NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    v_means: Annotated[NDArray[numpy.float32], dict(shape=(None, 3), order="C", device="cpu")],
    v_quats: Annotated[NDArray[numpy.float32], dict(shape=(None, 4), order="C", device="cpu")],
    v_scales: Annotated[NDArray[numpy.float32], dict(shape=(None, 3), order="C", device="cpu")],
    threads: int,
) -> None: ...
def harmonics_forward(
    means: Annotated[
        NDArray[numpy.float32], dict(shape=(None, 3), order="C", device="cpu", writable=False)
    ],
    center: Annotated[
        NDArray[numpy.float32], dict(shape=(3), order="C", device="cpu", writable=False)
    ],
    sh: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None, 3), order="C", device="cpu", writable=False)
    ],
    radii: Annotated[
        NDArray[numpy.int32], dict(shape=(None, 2), order="C", device="cpu", writable=False)
    ],
    degree: int,
    colors: Annotated[NDArray[numpy.float32], dict(shape=(None, 3), order="C", device="cpu")],
    threads: int,
) -> None: ...
def harmonics_backward(
    means: Annotated[
        NDArray[numpy.float32], dict(shape=(None, 3), order="C", device="cpu", writable=False)
    ],
    center: Annotated[
        NDArray[numpy.float32], dict(shape=(3), order="C", device="cpu", writable=False)
    ],
    radii: Annotated[
        NDArray[numpy.int32], dict(shape=(None, 2), order="C", device="cpu", writable=False)
    ],
    degree: int,
    v_colors: Annotated[
        NDArray[numpy.float32], dict(shape=(None, 3), order="C", device="cpu", writable=False)
    ],
    v_sh: Annotated[NDArray[numpy.float32], dict(shape=(None, None, 3), order="C", device="cpu")],
    threads: int,
) -> None: ...
def depth_order(
    depths: Annotated[
        NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    radii: Annotated[
        NDArray[numpy.int32], dict(shape=(None, 2), order="C", device="cpu", writable=False)
    ],
    scratch: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    order: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
) -> int: ...
def bin_count(
    order: Annotated[
        NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    means2d: Annotated[
        NDArray[numpy.float32], dict(shape=(None, 2), order="C", device="cpu", writable=False)
    ],
    conics: Annotated[
        NDArray[numpy.float32], dict(shape=(None, 3), order="C", device="cpu", writable=False)
    ],
    opacities: Annotated[
        NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    width: int,
    height: int,
    splats: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")],
    pair_offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu")],
    threads: int,
) -> int: ...

BIN_PARTS: int = 16

def bin_fill(
    order: Annotated[
        NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    pair_offsets: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    lists: Lists,
    pair_tiles: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    pair_masks: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    histograms: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    tile_offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu")],
    masks: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    entry_offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu")],
    threads: int,
) -> int: ...
def weights_fill(
    lists: Lists,
    masks: Annotated[
        NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    entry_offsets: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    pair_used: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu")],
    group_offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu")],
    group_counts: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    slots: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    weights: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")],
    transmittance: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")
    ],
    scratch: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")],
    threads: int,
) -> None: ...
def apply(
    lists: Lists,
    weights: Weights,
    values: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")],
    scratch: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")],
    threads: int,
) -> None: ...
def apply_t(
    lists: Lists,
    weights: Weights,
    order: Annotated[
        NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    pair_offsets: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    pair_used: Annotated[
        NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    maps: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    partials: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu")],
    chunk: int,
    out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")],
    scratch: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")],
    threads: int,
) -> None: ...
def apply_t_unordered(
    lists: Lists,
    weights: Weights,
    maps: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")],
    scratch: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")],
    threads: int,
) -> None: ...
def blend_backward(
    lists: Lists,
    weights: Weights,
    order: Annotated[
        NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    pair_offsets: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    pair_used: Annotated[
        NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    values: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    v_out: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    v_alphas: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    transmittance: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    partials: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")],
    scratch: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")],
    v_means2d: Annotated[NDArray[numpy.float32], dict(shape=(None, 2), order="C", device="cpu")],
    v_conics: Annotated[NDArray[numpy.float32], dict(shape=(None, 3), order="C", device="cpu")],
    v_opacities: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu")],
    v_values: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")]
    | None,
    threads: int,
) -> None: ...
def pool_count(
    lists: Lists,
    weights: Weights,
    h: int,
    w: int,
    tent: bool,
    stamps: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order="C", device="cpu")],
    row_sizes: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu")],
    threads: int,
) -> None: ...
def pool_fill(
    lists: Lists,
    weights: Weights,
    h: int,
    w: int,
    tent: bool,
    stamps: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order="C", device="cpu")],
    sums: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")],
    row_offsets: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    cols: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    vals: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu")],
    threads: int,
) -> None: ...

MOST_TOKENS: int = 16

def most_tokens(width: int, height: int, h: int, w: int, tent: bool) -> int: ...
def token_pieces(
    lists: Lists,
    masks: Annotated[
        NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    h: int,
    w: int,
    tent: bool,
    most: int,
    piece_counts: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    piece_ids: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    piece_sums: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu")],
    row_bounds: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu")],
    scratch: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")],
    threads: int,
) -> int: ...
def token_merge(
    lists: Lists,
    h: int,
    w: int,
    tent: bool,
    most: int,
    piece_counts: Annotated[
        NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    piece_ids: Annotated[
        NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    piece_sums: Annotated[
        NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    row_bounds: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    count: int,
    merged: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu")],
    row_sizes: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu")],
    threads: int,
) -> None: ...
def token_pack(
    row_bounds: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    row_offsets: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    merged: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    cols: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    vals: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu")],
    threads: int,
) -> None: ...
def csr_apply(
    offsets: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    cols: Annotated[
        NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    vals: Annotated[
        NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    x: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    add: bool,
    out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")],
    threads: int,
) -> None: ...
def csr_transpose(
    offsets: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    cols: Annotated[
        NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    vals: Annotated[
        NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    t_offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu")],
    t_rows: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    t_vals: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu")],
) -> None: ...
def ssim(
    x: Annotated[
        NDArray[numpy.float32],
        dict(shape=(None, None, None), order="C", device="cpu", writable=False),
    ],
    y: Annotated[
        NDArray[numpy.float32],
        dict(shape=(None, None, None), order="C", device="cpu", writable=False),
    ],
    weights: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    taps: Annotated[
        NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    scratch: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu")],
    row_sums: Annotated[NDArray[numpy.float64], dict(shape=(None,), order="C", device="cpu")],
    v_x: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None), order="C", device="cpu")]
    | None,
    threads: int,
) -> None: ...
