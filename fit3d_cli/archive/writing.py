"""Scene to bytes. What is read can be written again to the same bytes."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.archive.checks import check_names, check_numbers, check_scene_name
from fit3d_cli.archive.schema import (
    MAJOR,
    MIN_READER,
    MINOR,
    TENSORS,
    Manifest,
    TensorRecord,
    parse_manifest,
)
from fit3d_cli.errors import ArchiveError
from fit3d_cli.geometry.activations import opacities_to_logits, scales_to_logs, unit_quats
from fit3d_cli.scene import Scene
from fit3d_cli.storage import sha256_bytes, write_bytes
from fit3d_cli.tensorfile import (
    ARCHIVE_LIMITS,
    DTYPES,
    Header,
    MalformedHeader,
    encode,
    parse_header,
)

_HINT = "this scene cannot be stored; lift it again, from other photos or with other settings"


def write_archive(path: Path, scene: Scene) -> None:
    """Write a scene, atomically and durably.

    Colour coefficients and features become float16 (of a colour in [0, 1], an error below
    2e-4), opacities are clamped to [2e-9, 1], absolute paths in the provenance are cut to their
    last part. Writing what ``read_archive`` gave back makes the same bytes.

    Raises:
        ArchiveError: The scene holds numbers or names that no reader would accept.
        StorageError: The file could not be written; a previous one is intact.
    """
    check_scene_name(scene.name, path, hint=_HINT)
    check_names(scene.names, path, hint=_HINT)
    tensors = _stored(scene)
    check_numbers(tensors, path, hint=_HINT)
    manifest = Manifest(
        version=f"{MAJOR}.{MINOR}",
        min_reader=MIN_READER,
        name=scene.name,
        source=scene.source,
        capture_digest=scene.capture_digest,
        metric=scene.metric,
        metrics={key: float(value) for key, value in scene.metrics.items()},
        provenance=scene.provenance,
        tensors={
            name: TensorRecord(TENSORS[name][0], tuple(tensor.shape), _digest(tensor))
            for name, tensor in tensors.items()
        },
    )
    pieces = encode(tensors, manifest.to_metadata())
    _check_readable(pieces[0], path)
    write_bytes(path, pieces)


def _check_readable(raw: bytes | memoryview, path: Path) -> None:
    """Refuse a header that no reader would accept, such as one with an endless provenance."""
    try:
        infos, metadata = parse_header(bytes(raw[8:]), ARCHIVE_LIMITS)
        parse_manifest(Header(infos, metadata, len(raw), len(raw), bytes(raw)), path)
    except (MalformedHeader, ArchiveError) as error:
        what = error.what if isinstance(error, ArchiveError) else str(error)
        raise ArchiveError(f"cannot be stored: {what}", where=path, hint=_HINT) from error


def _stored(scene: Scene) -> dict[str, Tensor]:
    gaussians = scene.gaussians.to("cpu")
    # Undecodable bytes in file names pass through as they came.
    names = [name.encode("utf-8", "surrogateescape") for name in scene.names]
    offsets = list(accumulate(map(len, names), initial=0))
    tensors = {
        "g.means": gaussians.means,
        "g.quats": unit_quats(gaussians.quats),
        "g.log_scales": scales_to_logs(gaussians.scales),
        "g.logit_opacities": opacities_to_logits(gaussians.opacities),
        "g.sh": gaussians.sh,
        "g.features": scene.features,
        "dec.weight": scene.decoder.weight,
        "dec.bias": scene.decoder.bias,
        "cam.viewmats": scene.cameras.viewmats,
        "cam.Ks": scene.cameras.Ks,
        "cam.sizes": scene.cameras.sizes,
        "cam.names_utf8": torch.tensor(list(b"".join(names)), dtype=torch.uint8),
        "cam.names_offsets": torch.tensor(offsets),
        "cam.heldout": scene.heldout,
    }
    return {
        name: tensor.detach().to("cpu", DTYPES[TENSORS[name][0]]).contiguous()
        for name, tensor in tensors.items()
    }


def _digest(tensor: Tensor) -> str:
    return sha256_bytes(tensor.reshape(-1).view(torch.uint8).numpy().data)
