"""``fit3d export`` of pictures: dense tokens of any backbone, without training anything."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fit3d_cli.errors import SettingsError

if TYPE_CHECKING:
    from fit3d_cli.backbones.cache import TokenItem
    from fit3d_cli.backbones.model import Backbone
    from fit3d_cli.capture.photos import Photos
    from fit3d_cli.commands._options import Run
    from fit3d_cli.config import Resolved
    from fit3d_cli.progress import OnEvent

DEFAULT = "dinov2-small"
INDEX = "tokens.json"
_INDEX_SECONDS = 5.0  # between two writings of the index while tokens are made


def export_pictures(
    run: Run, resolved: Resolved, source: Path, to: str, target: Path, *, force: bool
) -> dict[str, Any]:
    """Write the patch tokens of a picture, of a folder of them, or of a capture's photos.

    ``npy`` makes a folder with a float16 ``[h, w, C]`` array per picture and ``tokens.json``,
    which says what they are; run again, it goes on where it was. ``safetensors`` makes one file
    with a tensor per picture, its tokens kept in the workspace's cache until then.

    Raises:
        Fit3dError: A picture or the weights cannot be read, ``target`` holds something else, or
            the disk refused.
    """
    from fit3d_cli.backbones.load import load_backbone
    from fit3d_cli.capture.photos import photos_of_path
    from fit3d_cli.device import resolve_device
    from fit3d_cli.storage import require_writable

    settings = resolved.settings.export.backbone
    photos = photos_of_path(source)
    device = resolve_device(run.device)
    if to == "npy" and target.exists() and not target.is_dir():
        raise SettingsError("is a file", where=target, hint="name a folder with --out")
    require_writable(target if to == "npy" else target.parent)
    backbone = load_backbone(settings.name or DEFAULT, weights=settings.weights, device=device)
    about = _about(backbone, settings.width)
    with run.progress() as on_event:
        if to == "npy":
            made = _arrays(
                photos, target, backbone, about, settings.batch, force=force, on_event=on_event
            )
        else:
            cache = run.workspace / "cache" / "tokens"
            made = _tensors(photos, target, backbone, about, settings.batch, cache, on_event)
    return {"path": target, "pictures": len(photos.paths), **made, "channels": backbone.dim,
            "backbone": backbone.name, "width": settings.width}  # fmt: skip


def _about(backbone: Backbone, width: int) -> dict[str, Any]:
    """What decides the tokens, so that others can make them again, in JSON types."""
    return {
        "kind": "patch tokens of pictures",
        "array": "float16, rows x columns x channels, the first token at the left upper corner",
        "backbone": backbone.name,
        "timm_id": backbone.timm_id,
        "weights_sha256": backbone.weights_sha256,
        "identity": backbone.identity,
        "licence": backbone.licence,
        "channels": backbone.dim,
        "patch_size": backbone.patch_size,
        "layer": "last block after the final norm" + (
            f" and the {backbone.adapter_kind} adapter" if backbone.adapter_kind else ""
        ),
        "preprocessing": {
            "width": width,
            "size": "the whole picture, its sides resized to the nearest multiples of the patch"
            " size (bilinear, antialiased); EXIF rotation is not applied",
            "mean": list(backbone.mean),
            "std": list(backbone.std),
        },
    }  # fmt: skip


def _items(photos: Photos, backbone: Backbone, width: int) -> list[TokenItem]:
    from fit3d_cli.backbones.cache import TokenItem, image_digest
    from fit3d_cli.images import image_size, read_image, resize_image

    def item(path: Path) -> TokenItem:
        size = backbone.input_size(*image_size(path), width)
        return TokenItem(image_digest(path), size, lambda: resize_image(read_image(path), *size))

    return [item(path) for path in photos.paths]


def _arrays(
    photos: Photos,
    folder: Path,
    backbone: Backbone,
    about: Mapping[str, Any],
    batch: int,
    *,
    force: bool,
    on_event: OnEvent,
) -> dict[str, Any]:
    """One array per picture; those of an earlier run that are still right are kept."""
    from fit3d_cli.backbones.cache import all_tokens
    from fit3d_cli.commands._export_scene import write_npy
    from fit3d_cli.progress import Progress
    from fit3d_cli.storage import write_json

    index = folder / INDEX
    known = {} if force else _known(index, about)
    items = _items(photos, backbone, about["preprocessing"]["width"])
    stage, total = f"{backbone.name} tokens", len(items)
    table: dict[str, dict[str, Any]] = {}
    waiting: list[tuple[str, str, TokenItem]] = []
    for name, file, item in zip(photos.names, file_names(photos.names), items, strict=True):
        entry = known.get(name)
        if entry == _entry(file, item, backbone) and (folder / file).is_file():
            table[name] = entry
        else:
            waiting.append((name, file, item))
    kept, written = len(table), time.monotonic()
    on_event(Progress(stage, kept, total, "kept from before" if kept else ""))

    def save() -> None:
        order = {name: table[name] for name in photos.names if name in table}
        write_json(index, {**about, "pictures": order})

    try:
        for start in range(0, len(waiting), batch):
            group = waiting[start : start + batch]
            found = all_tokens(
                backbone, [item for _, _, item in group], cache=None, batch=batch,
                device=backbone.device,
            )  # fmt: skip
            for (name, file, item), tokens in zip(group, found, strict=True):
                write_npy(folder / file, tokens.patches)
                table[name] = _entry(file, item, backbone)
            on_event(Progress(stage, len(table), total, group[-1][0]))
            if time.monotonic() - written > _INDEX_SECONDS:
                save()
                written = time.monotonic()
    finally:  # what is interrupted is gone on with
        save()
    return {"made": len(waiting), "kept": kept}


def _known(index: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier run made, by picture.

    Raises:
        SettingsError: The folder holds tokens of something else, or other files.
    """
    folder = index.parent
    if not folder.exists() or not any(folder.iterdir()):
        return {}
    hint = "name another folder with --out, or add --force"
    try:
        before = json.loads(index.read_text("utf-8"))
        pictures = before.pop("pictures")
        same = before == json.loads(json.dumps(about))
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise SettingsError(
            "a folder that holds other files than tokens", where=folder, hint=hint
        ) from error
    if not same:
        differ = [key for key in about if before.get(key) != json.loads(json.dumps(about[key]))]
        raise SettingsError(
            f"holds tokens that differ in {', '.join(differ) or 'their index'}",
            where=folder,
            hint=hint,
        )
    return dict(pictures) if isinstance(pictures, dict) else {}


def _entry(file: str, item: TokenItem, backbone: Backbone) -> dict[str, Any]:
    width, height = item.size
    patch = backbone.patch_size
    return {"file": file, "grid": [height // patch, width // patch], "size": [width, height],
            "digest": item.digest}  # fmt: skip


def _tensors(
    photos: Photos,
    target: Path,
    backbone: Backbone,
    about: Mapping[str, Any],
    batch: int,
    cache: Path,
    on_event: OnEvent,
) -> dict[str, Any]:
    """One file with a tensor per picture."""
    from fit3d_cli.backbones.cache import TokenCache, tokens_for
    from fit3d_cli.progress import Progress
    from fit3d_cli.tensorfile import write_tensors

    items = _items(photos, backbone, about["preprocessing"]["width"])
    stage = f"{backbone.name} tokens"

    def step(done: int, total: int) -> None:
        on_event(Progress(stage, done, total))

    found = tokens_for(
        backbone, items, cache=TokenCache(cache), batch=batch, device=backbone.device, on_step=step
    )
    keys = [file.removesuffix(".npy") for file in file_names(photos.names)]
    pictures = {
        name: {"tensor": key, "size": list(item.size)}
        for name, key, item in zip(photos.names, keys, items, strict=True)
    }
    metadata = {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}
    metadata["pictures"] = json.dumps(pictures)
    write_tensors(target, dict(zip(keys, found, strict=True)), metadata)
    return {"tensors": len(keys)}


def file_names(names: tuple[str, ...]) -> list[str]:
    """A file name per picture that every system takes: its own, flattened, else with a number."""
    made = []
    for name in names:
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name)
        plain = plain.replace("..", "__")[:120]
        made.append(plain)
    taken: dict[str, int] = {}
    for plain in made:
        taken[plain.lower()] = taken.get(plain.lower(), 0) + 1

    def mark(name: str) -> str:
        return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]

    return [
        f"{plain}.npy" if taken[plain.lower()] == 1 else f"{plain}-{mark(name)}.npy"
        for plain, name in zip(made, names, strict=True)
    ]
