"""Whether a token cache has room for what is going to be put into it."""

from __future__ import annotations

from collections.abc import Sequence

from fit3d_cli.backbones.cache import TokenCache, TokenItem, TokenModel
from fit3d_cli.preflight import Needs, free_disk, require

_ENTRY = 4096  # bytes of a file beside its tokens: header, and the rest of its last block


def require_cache_room(model: TokenModel, items: Sequence[TokenItem], cache: TokenCache) -> None:
    """Refuse to begin filling a cache that would fill the disk before.

    Args:
        model: A backbone; of other models nothing is known beforehand.
        items: Pictures whose tokens are wanted; those that are cached need no room.
        cache: Where they go.

    Raises:
        StorageError: There is no room.
    """
    channels, patch = getattr(model, "dim", 0), getattr(model, "patch_size", 0)
    if not channels or not patch:
        return

    def size(item: TokenItem) -> int:
        columns, rows = (side // patch for side in item.size)
        return 2 * channels * (columns * rows + 1) + _ENTRY

    free = free_disk(cache.directory)
    if free is None or sum(map(size, items)) <= free:
        return
    missing = [i for i in items if not cache.path(cache.key(model, i.digest, i.size)).is_file()]
    require(
        Needs(disk=sum(map(size, missing))), where=cache.directory, disk=cache.directory,
        less="lower backbone.width",
    )  # fmt: skip
