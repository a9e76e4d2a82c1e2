"""Bytes to scene, without trusting them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fit3d_cli.archive.checks import check_names, check_numbers, check_scene_name
from fit3d_cli.archive.schema import (
    EXTENSION,
    MAJOR,
    MINOR,
    REMAKE_HINT,
    Manifest,
    parse_manifest,
)
from fit3d_cli.decoders import Decoder
from fit3d_cli.errors import ArchiveError
from fit3d_cli.geometry.activations import logits_to_opacities, logs_to_scales
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.scene import Scene
from fit3d_cli.tensorfile import TensorFile, open_tensors

_ROWS = 1 << 15  # that are converted at a time


def read_archive(
    path: Path,
    *,
    verify: Literal["header", "read", "full"] = "read",
    features: bool = True,
    sh: bool = True,
) -> Scene:
    """Read a scene.

    Args:
        path: The ``.f3d`` file.
        verify: ``"header"`` checks structure, manifest and numbers; ``"read"`` also the sha256
            of every tensor that is read; ``"full"`` reads and checks all.
        features: False leaves the features out: ``[N, d]`` NaN that take no memory.
        sh: False leaves the colours out: ``[N, 1, 3]`` NaN that take no memory.

    Returns:
        The scene on the CPU; numbers are float32, those of cameras float64.

    Raises:
        ArchiveError: Missing, damaged, foreign or too new.
    """
    with open_tensors(path) as file:
        manifest = _manifest(file)
        skipped = {name for name, keep in (("g.features", features), ("g.sh", sh)) if not keep}
        tensors: dict[str, Tensor] = {}
        for name in file.header.tensors:
            wanted = name not in skipped and not name.startswith(EXTENSION)
            if wanted or verify == "full":
                tensor = _read(file, name, manifest, check=verify != "header", keep=wanted)
                if wanted:
                    tensors[name] = tensor
    check_numbers(tensors, path, hint=REMAKE_HINT)
    names = _names(tensors, path)
    count = len(tensors["g.means"])
    nothing = torch.tensor(torch.nan)
    dim = manifest.tensors["g.features"].shape[1]
    return Scene(
        name=manifest.name,
        gaussians=Gaussians(
            tensors["g.means"],
            tensors["g.quats"],
            _in_place(logs_to_scales, tensors["g.log_scales"]),
            _in_place(logits_to_opacities, tensors["g.logit_opacities"]),
            tensors["g.sh"] if sh else nothing.expand(count, 1, 3),
        ),
        features=tensors["g.features"] if features else nothing.expand(count, dim),
        decoder=Decoder(tensors["dec.weight"], tensors["dec.bias"]),
        source=manifest.source,
        cameras=Cameras(tensors["cam.viewmats"], tensors["cam.Ks"], tensors["cam.sizes"].long()),
        names=names,
        heldout=tensors["cam.heldout"].bool(),
        capture_digest=manifest.capture_digest,
        metric=manifest.metric,
        metrics=manifest.metrics,
        provenance=manifest.provenance,
    )


def read_manifest(path: Path) -> Manifest:
    """The manifest alone; its checksum and the file's structure are checked.

    Raises:
        ArchiveError: Missing, damaged, foreign or too new.
    """
    with open_tensors(path) as file:
        return _manifest(file)


def verify_archive(path: Path) -> None:
    """Check every byte of an archive.

    Raises:
        ArchiveError: The first damage found.
    """
    read_archive(path, verify="full")


def describe(path: Path) -> dict[str, Any]:
    """What an archive holds, in JSON types; no tensor but the held-out flags is read.

    Raises:
        ArchiveError: Missing, damaged, foreign or too new.
    """
    with open_tensors(path) as file:
        manifest = _manifest(file)
        heldout = file.read("cam.heldout")
        header = file.header
    shapes = {name: record.shape for name, record in manifest.tensors.items()}
    notes = []
    if manifest.version != f"{MAJOR}.{MINOR}":
        notes.append(f"format {manifest.version}, this fit3d knows {MAJOR}.{MINOR}")
    return {
        "kind": "scene",
        "name": manifest.name,
        "format": f"f3d {manifest.version}",
        "bytes": header.file_bytes,
        "gaussians": shapes["g.means"][0],
        "sh_degree": int(shapes["g.sh"][1] ** 0.5) - 1,
        "feature_dim": shapes["g.features"][1],
        "views": shapes["cam.viewmats"][0],
        "heldout_views": int((heldout > 0).sum()),
        "metric": manifest.metric,
        "source": asdict(manifest.source),
        "capture_digest": manifest.capture_digest,
        "metrics": {k: v if v == v else None for k, v in manifest.metrics.items()},
        "provenance": dict(manifest.provenance),
        "tensors": {
            name: {"dtype": info.dtype, "shape": list(info.shape), "bytes": info.nbytes}
            for name, info in header.tensors.items()
        },
        "notes": notes,
    }


def _manifest(file: TensorFile) -> Manifest:
    manifest = parse_manifest(file.header, file.path)
    check_scene_name(manifest.name, file.path, hint=REMAKE_HINT)
    return manifest


def _read(file: TensorFile, name: str, manifest: Manifest, *, check: bool, keep: bool) -> Tensor:
    """A tensor as a scene holds it; float16 never stands beside its float32."""
    digest = hashlib.sha256()
    half = keep and file.header.tensors[name].dtype == "F16"
    tensor = file.read(
        name,
        dtype=torch.float32 if half else None,
        watch=digest.update if check else None,
    )
    if check and digest.hexdigest() != manifest.tensors[name].sha256:
        raise ArchiveError(
            f"tensor {name} does not match its checksum", where=file.path, hint=REMAKE_HINT
        )
    return tensor


def _in_place(convert: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """Convert row by row what is not needed as it was: the wide numbers between take no room."""
    for start in range(0, len(tensor), _ROWS):
        rows = slice(start, start + _ROWS)
        tensor[rows] = convert(tensor[rows])
    return tensor


def _names(tensors: Mapping[str, Tensor], path: Path) -> tuple[str, ...]:
    offsets = tensors["cam.names_offsets"].tolist()
    raw = tensors["cam.names_utf8"].numpy().tobytes()
    rising = all(a <= b for a, b in pairwise(offsets))
    if offsets[0] != 0 or offsets[-1] != len(raw) or not rising:
        raise ArchiveError("view names overlap", where=path, hint=REMAKE_HINT)
    names = tuple(raw[a:b].decode("utf-8", "surrogateescape") for a, b in pairwise(offsets))
    check_names(names, path, hint=REMAKE_HINT)
    return names
