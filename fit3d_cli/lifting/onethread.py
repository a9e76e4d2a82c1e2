"""Dense algebra whose bits must not depend on the number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Run a block with a single thread of torch's on the CPU.

    BLAS and LAPACK split single-precision products, eigenvectors and solutions by thread count, and
    with it their rounding. What runs here is short beside the sparse kernels, which do not.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
