"""Named-dimension checks: the shape in a docstring, proved at run time."""

from __future__ import annotations

from typing import Protocol


class Shaped(Protocol):
    """Anything with a ``shape``: tensors and arrays."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions."""
        ...


def check_dims(**checks: tuple[Shaped, str]) -> dict[str, int]:
    """Check shapes that share named dimensions.

    Args:
        **checks: ``name=(tensor, "N 3")``. A dimension is a number, ``*`` (any), or a
            name that must have the same size in every tensor of the call.

    Returns:
        The size bound to each name.

    Raises:
        ValueError: A shape does not fit; the message names the argument.
    """
    sizes: dict[str, int] = {}
    for name, (tensor, pattern) in checks.items():
        shape = tuple(tensor.shape)
        dims = pattern.split()
        fits = len(shape) == len(dims)
        if fits:
            for size, dim in zip(shape, dims, strict=True):
                if dim == "*":
                    continue
                expected = int(dim) if dim.isdigit() else sizes.setdefault(dim, size)
                fits = fits and size == expected
        if not fits:
            bound = ", ".join(f"{key}={value}" for key, value in sizes.items())
            raise ValueError(f"{name} has shape {shape}, expected [{pattern}] with {bound or '-'}")
    return sizes
