from typing import Annotated

import numpy
from numpy.typing import NDArray

emulated: bool = True

architectures: str = "emulated"

class CudaError(RuntimeError):
    code: int = 0

class DeviceInfo:
    @property
    def name(self) -> str: ...
    @property
    def major(self) -> int: ...
    @property
    def minor(self) -> int: ...
    @property
    def driver(self) -> int: ...
    @property
    def runtime(self) -> int: ...
    @property
    def free_bytes(self) -> int: ...
    @property
    def total_bytes(self) -> int: ...
    @property
    def runs(self) -> bool: ...

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
            NDArray[numpy.float32], dict(shape=(None, 16), order="C", device="cpu", writable=False)
        ],
        tile_offsets: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        ids: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        pairs: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        width: int,
        height: int,
    ) -> None: ...

class Weights:
    def __init__(
        self,
        masks: Annotated[
            NDArray[numpy.int16], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        offsets: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        weights: Annotated[
            NDArray[numpy.float32], dict(shape=(None, 32), order="C", device="cpu", writable=False)
        ],
    ) -> None: ...

def device_count() -> int: ...
def device_info(device: int) -> DeviceInfo: ...
def set_order(order: str) -> None: ...
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
    stream: int,
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
    stream: int,
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
    stream: int,
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
    stream: int,
) -> None: ...
def depth_order_bytes(count: int) -> int: ...
def depth_order(
    depths: Annotated[
        NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    radii: Annotated[
        NDArray[numpy.int32], dict(shape=(None, 2), order="C", device="cpu", writable=False)
    ],
    scratch: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu")],
    order: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    stream: int,
) -> int: ...
def bin_count_bytes(visible: int) -> int: ...
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
    splats: Annotated[NDArray[numpy.float32], dict(shape=(None, 16), order="C", device="cpu")],
    pair_offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu")],
    scratch: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu")],
    stream: int,
) -> int: ...
def bin_fill_bytes(pairs: int) -> int: ...
def bin_fill(
    order: Annotated[
        NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    splats: Annotated[
        NDArray[numpy.float32], dict(shape=(None, 16), order="C", device="cpu", writable=False)
    ],
    pair_offsets: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    width: int,
    height: int,
    tile_offsets: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    ids: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    pairs: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    scratch: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu")],
    stream: int,
) -> None: ...
def weights_count_bytes(items: int) -> int: ...
def weights_count(
    lists: Lists,
    masks: Annotated[NDArray[numpy.int16], dict(shape=(None,), order="C", device="cpu")],
    offsets: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    scratch: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu")],
    stream: int,
) -> int: ...
def weights_fill(
    lists: Lists,
    masks: Annotated[NDArray[numpy.int16], dict(shape=(None,), order="C", device="cpu")],
    offsets: Annotated[
        NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    weights: Annotated[NDArray[numpy.float32], dict(shape=(None, 32), order="C", device="cpu")],
    transmittance: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")
    ],
    stream: int,
) -> None: ...
def apply(
    lists: Lists,
    weights: Weights,
    values: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")],
    tensor: bool,
    stream: int,
) -> None: ...
def apply_t_rows(
    lists: Lists,
    weights: Weights,
    maps: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    first: int,
    rows: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")],
    tensor: bool,
    stream: int,
) -> None: ...
def apply_t_atomic(
    lists: Lists,
    weights: Weights,
    maps: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")],
    tensor: bool,
    stream: int,
) -> None: ...
def reduce_pairs(
    order: Annotated[
        NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    pair_offsets: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    rows: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    first: int,
    out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")],
    stream: int,
) -> None: ...
def blend_moments(
    lists: Lists,
    weights: Weights,
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
    moments: Annotated[NDArray[numpy.float32], dict(shape=(None, 8), order="C", device="cpu")],
    stream: int,
) -> None: ...
def reduce_moments(
    order: Annotated[
        NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    pair_offsets: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    moments: Annotated[
        NDArray[numpy.float32], dict(shape=(None, 8), order="C", device="cpu", writable=False)
    ],
    splats: Annotated[
        NDArray[numpy.float32], dict(shape=(None, 16), order="C", device="cpu", writable=False)
    ],
    v_means2d: Annotated[NDArray[numpy.float32], dict(shape=(None, 2), order="C", device="cpu")],
    v_conics: Annotated[NDArray[numpy.float32], dict(shape=(None, 3), order="C", device="cpu")],
    v_opacities: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu")],
    stream: int,
) -> None: ...
def pool_count_bytes(items: int) -> int: ...
def pool_count(
    lists: Lists,
    weights: Weights,
    h: int,
    w: int,
    tent: bool,
    counts: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu")],
    scratch: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu")],
    stream: int,
) -> int: ...
def pool_fill_bytes(entries: int) -> int: ...
def pool_fill(
    lists: Lists,
    weights: Weights,
    h: int,
    w: int,
    tent: bool,
    counts: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    row_offsets: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu")],
    cols: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    vals: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu")],
    scratch: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu")],
    stream: int,
) -> int: ...
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
    stream: int,
) -> None: ...
def csr_transpose_bytes(rows: int, columns: int, entries: int) -> int: ...
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
    scratch: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu")],
    stream: int,
) -> None: ...
