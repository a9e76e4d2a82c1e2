"""What lifting one capture takes: the sizes that decide it, and the formula of memory and disk.

``--dry-run`` tells these figures, ``lift`` refuses to begin what cannot fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from fit3d_cli.preflight import Needs

if TYPE_CHECKING:
    from fit3d_cli.settings import LiftSettings

LESS = "lower --dim or lift.geometry.max_gaussians"

WEIGHTS_BYTES = 500  # of blending weights per token, with their transposed copy
PIXEL_BYTES = 8  # of a photo as it is fitted: 3 colour, 4 depth, 1 mask
DECODING_BYTES = 40  # per stored pixel, while a photo is decoded and shrunk
BLOCK_TOKENS = 8192  # of blending weights that are built or mapped at once, whatever the budget
FILE_BYTES = 4096  # of a cached file beside its tokens: header, and the rest of its last block
ALLOCATOR = 96 << 20  # buffers that libraries keep for themselves

Sizes = TypeVar("Sizes", bound="LiftSizes")


@dataclass(frozen=True)
class LiftSizes:
    """The sizes that decide what memory and disk lifting one capture takes.

    Attributes:
        views: Photos.
        stored: Pixels of a stored photo.
        fitted: Pixels of a photo as the geometry is fitted to it.
        first: Gaussians at the start.
        gaussians: At the end.
        tokens: Of a view.
        dim: Channels stored per Gaussian, d.
        sh: Colour coefficients per Gaussian.
        budget: Bytes of photos, then of tokens and weights, kept in memory.
        batch: Views per forward pass.
        channels: Of a token, C.
    """

    views: int
    stored: int
    fitted: int
    first: int
    gaussians: int
    tokens: int
    dim: int
    sh: int
    budget: int
    batch: int
    channels: int

    def memory(self) -> int:
        """Bytes at the peak, beyond the libraries and the backbone."""
        # Values, gradients, two moments and the copies of a step; photo, render and its gradient.
        fitting = 6 * 4 * self.gaussians * (11 + self.sh) + 40 * 4 * self.fitted
        photos = min(self.budget, self._photos())
        # The widest of a block is its MLP, four times C; queries, keys, values and copies.
        forward = 4 * 12 * self.batch * self.tokens * self.channels
        held = min(self.budget // 4, self._tokens())
        held += min(self.budget // 2, self._weights()) + min(self.budget // 4, self._codes())
        block = 2 * WEIGHTS_BYTES * min(BLOCK_TOKENS, self.views * self.tokens)
        solving = 6 * 4 * self.gaussians * self.dim + block
        decoding = DECODING_BYTES * self.stored
        peak = max(photos + max(fitting, decoding), held + max(forward + decoding, solving))
        return ALLOCATOR + peak

    def disk(self) -> int:
        """Bytes of the archive, of the caches and, at the peak, of temporary files."""
        archive = self.gaussians * (4 * (11 + self.sh) + 2 * self.dim)
        checkpoint = 3 * 4 * self.gaussians * (11 + self.sh)
        photos = max(0, self._photos() - self.budget)
        spilled = max(0, self._weights() - self.budget // 2)
        spilled += max(0, self._codes() - self.budget // 4)
        files = FILE_BYTES * (self.views + 4)
        return archive + self._tokens() + checkpoint + max(photos, spilled) + files

    def needs(self, *, gpu: bool) -> Needs:
        """What has to be there before the first step."""
        if not gpu:
            return Needs(self.memory(), 0, self.disk())
        fitting = 6 * 4 * self.gaussians * (11 + self.sh) + 40 * 4 * self.fitted
        forward = 4 * 12 * self.batch * self.tokens * self.channels
        solving = 6 * 4 * self.gaussians * self.dim + self._weights() + self._codes()
        held = min(self.budget, self._photos()) + DECODING_BYTES * self.stored
        return Needs(ALLOCATOR + held, max(fitting, forward, solving), self.disk())

    def _photos(self) -> int:
        return PIXEL_BYTES * self.views * self.fitted

    def _tokens(self) -> int:
        return 2 * self.views * (self.tokens + 1) * self.channels

    def _weights(self) -> int:
        return WEIGHTS_BYTES * self.views * self.tokens

    def _codes(self) -> int:
        return 4 * self.views * self.tokens * self.dim


def lift_sizes(
    views: Sequence[tuple[int, int]], settings: LiftSettings, patch_size: int, channels: int
) -> LiftSizes:
    """From the photos' ``(width, height)``, the settings and the backbone's patches and C."""
    geometry, width, height = settings.geometry, *views[0]
    fitted = min(geometry.width, width)
    columns = max(1, round(settings.backbone.width / patch_size))
    rows = max(1, round(columns * height / width))
    # Densification fills most of the budget where there is time for it.
    pixels = fitted * round(fitted * height / width)
    begun = min(geometry.init_gaussians, geometry.max_gaussians)
    if geometry.init not in ("ply", "random"):  # each begins at a pixel of a photo
        begun = min(begun, len(views) * pixels)
    grown = 0.5 * (begun + geometry.max_gaussians)
    long_enough = geometry.densify and geometry.iterations > 2 * geometry.densify_start
    gaussians = min(round(grown) if long_enough else begun, geometry.max_gaussians)
    return LiftSizes(
        views=len(views), stored=max(w * h for w, h in views),
        fitted=pixels, first=begun, gaussians=gaussians,
        tokens=rows * columns, dim=settings.features.dim, sh=3 * (geometry.sh_degree + 1) ** 2,
        budget=settings.memory << 20, batch=settings.backbone.batch, channels=channels,
    )  # fmt: skip
