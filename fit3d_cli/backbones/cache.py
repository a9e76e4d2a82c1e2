"""Tokens once: a content-addressed store of fp16 tokens on disk.

A file's name is the digest of everything that decides its content (weights, architecture,
normalisation, picture, size), so nothing is ever stale, and the directory may be shared by
processes and deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from fit3d_cli.backoff import Backoff
from fit3d_cli.errors import ArchiveError, WeightsError
from fit3d_cli.shapes import check_dims
from fit3d_cli.storage import sha256_file
from fit3d_cli.tensorfile import read_tensors, write_tensors

LAYER = "last-block,final-norm"
_VERSION = "1"


class TokenModel(Protocol):
    """What the cache and the probes need of a backbone; ``Backbone`` is one."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    @property
    def identity(self) -> str:
        """Digest of all that decides the tokens."""
        ...

    def input_size(self, width: int, height: int, target_width: int) -> tuple[int, int]:
        """``(width, height)`` of the picture that it sees."""
        ...

    def tokens_and_cls(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, 3, H, W]`` in 0..1 to ``[B, h, w, C]`` and ``[B, C]``."""
        ...


@dataclass(frozen=True)
class Tokens:
    """Cached output of a backbone for one picture.

    Attributes:
        patches: ``[h, w, C]`` float16, last block after the final norm.
        cls: ``[C]`` float16, the token for the whole picture.
    """

    patches: Tensor
    cls: Tensor

    def __post_init__(self) -> None:
        check_dims(patches=(self.patches, "h w C"), cls=(self.cls, "C"))


@dataclass(frozen=True)
class TokenItem:
    """A picture whose tokens are wanted.

    Attributes:
        digest: ``image_digest`` of the picture.
        size: ``(width, height)`` at which the backbone sees it.
        load: Reads it as ``[H, W, 3]`` float32 in 0..1 at that size; called only on a miss.
    """

    digest: str
    size: tuple[int, int]
    load: Callable[[], Tensor]


def image_digest(path: Path, recipe: str = "") -> str:
    """Digest of a picture's bytes and of what is done to it before resizing.

    Args:
        path: The picture.
        recipe: Anything that changes the pixels, e.g. the lens distortion that is removed.

    Raises:
        StorageError: It cannot be read.
    """
    return hashlib.sha256(f"{sha256_file(path)}\n{recipe}".encode()).hexdigest()


class TokenCache:
    """Tokens by content.

    Args:
        directory: Made on the first write.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def key(self, model: TokenModel, digest: str, size: tuple[int, int]) -> str:
        """Hex name of the entry of one picture at one size."""
        described = json.dumps([_VERSION, model.identity, digest, list(size), LAYER])
        return hashlib.sha256(described.encode()).hexdigest()

    def path(self, key: str) -> Path:
        """File of an entry."""
        return self.directory / key[:2] / f"{key}.safetensors"

    def read(self, key: str) -> Tokens | None:
        """An entry, or None where it is absent or damaged (it is then computed again)."""
        path = self.path(key)
        if not path.is_file():
            return None
        # The names in the metadata guard against a file that was moved or overwritten.
        with suppress(ArchiveError, KeyError, ValueError):
            tensors, metadata = read_tensors(path)
            tokens = Tokens(tensors["patches"], tensors["cls"])
            whole = tokens.patches.dtype == tokens.cls.dtype == torch.float16
            if metadata["key"] == key and metadata["sha256"] == _checksum(tokens) and whole:
                return tokens
        return None

    def write(self, key: str, tokens: Tokens) -> None:
        """Store an entry, atomically.

        Raises:
            StorageError: The disk refused.
        """
        write_tensors(
            self.path(key),
            {"patches": tokens.patches, "cls": tokens.cls},
            {"key": key, "sha256": _checksum(tokens)},
        )

    def get(
        self,
        model: TokenModel,
        digest: str,
        size: tuple[int, int],
        compute: Callable[[], Tokens],
    ) -> Tokens:
        """The entry of a picture, computed and stored if it is not there.

        Raises:
            StorageError: The disk refused.
        """
        key = self.key(model, digest, size)
        found = self.read(key)
        if found is None:
            found = compute()
            self.write(key, found)
        return found


def each_tokens(
    model: TokenModel,
    items: Sequence[TokenItem],
    take: Callable[[int, Tokens], None],
    *,
    cache: TokenCache | None,
    batch: int = 4,
    device: str | torch.device = "cpu",
    on_step: Callable[[int, int], None] | None = None,
) -> None:
    """Patch and class tokens of many pictures: cached ones are read, the others run in batches.

    Args:
        model: The backbone, on ``device``.
        items: Pictures in any order and of any sizes.
        take: Called once per picture with its number and its tokens, on the CPU; in any order.
        cache: Where to look and store; None computes everything.
        batch: Pictures per forward pass; only pictures of one size share a pass.
        device: Where the pictures are sent.
        on_step: Called with pictures done and their total.

    Raises:
        WeightsError: The tokens are not finite in half precision.
        StorageError: The disk refused.
        MemoryFault: There is no memory for a smaller batch either.
    """
    waiting: dict[tuple[int, int], list[tuple[int, str]]] = {}
    backoff = Backoff("backbone.batch", batch, device)
    done = 0

    def settle(group: list[tuple[int, str]]) -> None:
        nonlocal done
        wanted = [items[index] for index, _ in group]
        made = backoff.map(lambda some: _run(model, some, device), wanted)
        for (index, key), tokens in zip(group, made, strict=True):
            if cache is not None:
                cache.write(key, tokens)
            take(index, tokens)
        done += len(group)
        if on_step is not None:
            on_step(done, len(items))
        group.clear()

    for index, item in enumerate(items):
        key = cache.key(model, item.digest, item.size) if cache is not None else ""
        tokens = cache.read(key) if cache is not None else None
        if tokens is not None:
            take(index, tokens)
            done += 1
            if on_step is not None:
                on_step(done, len(items))
            continue
        group = waiting.setdefault(item.size, [])
        group.append((index, key))
        if len(group) >= batch:
            settle(group)
    for group in waiting.values():
        if group:
            settle(group)


def all_tokens(
    model: TokenModel,
    items: Sequence[TokenItem],
    *,
    cache: TokenCache | None,
    batch: int = 4,
    device: str | torch.device = "cpu",
    on_step: Callable[[int, int], None] | None = None,
) -> list[Tokens]:
    """As ``each_tokens``: one entry per item, in their order, on the CPU."""
    found: dict[int, Tokens] = {}
    each_tokens(
        model, items, found.__setitem__, cache=cache, batch=batch, device=device, on_step=on_step
    )
    return [found[index] for index in range(len(items))]


def tokens_for(
    model: TokenModel,
    items: Sequence[TokenItem],
    *,
    cache: TokenCache | None,
    batch: int = 4,
    device: str | torch.device = "cpu",
    on_step: Callable[[int, int], None] | None = None,
) -> list[Tensor]:
    """``[h, w, C]`` float16 patch tokens of every item; see ``all_tokens``."""
    made = all_tokens(model, items, cache=cache, batch=batch, device=device, on_step=on_step)
    return [tokens.patches for tokens in made]


def _run(model: TokenModel, items: Sequence[TokenItem], device: str | torch.device) -> list[Tokens]:
    images = torch.stack([item.load() for item in items]).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        patches, cls = model.tokens_and_cls(images.to(device))
        patches, cls = patches.half().cpu(), cls.half().cpu()
    if not bool(torch.isfinite(patches).all() and torch.isfinite(cls).all()):
        raise WeightsError(
            "the tokens are not finite in half precision",
            where=model.name,
            hint="the weights are damaged or diverged: use others",
        )
    return [Tokens(p.clone(), c.clone()) for p, c in zip(patches, cls, strict=True)]


def _checksum(tokens: Tokens) -> str:
    digest = hashlib.sha256()
    for tensor in (tokens.patches, tokens.cls):
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
