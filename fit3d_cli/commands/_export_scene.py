"""``fit3d export`` of scenes: Gaussians in colours that mean something, and their features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fit3d_cli.errors import ArchiveError, SettingsError

if TYPE_CHECKING:
    from torch import Tensor

    from fit3d_cli.commands._options import Run
    from fit3d_cli.commands.export import Ask
    from fit3d_cli.config import Resolved
    from fit3d_cli.scene import Scene

_ROWS = 65_536  # Gaussians that are decoded at a time


def export_splats(
    run: Run, resolved: Resolved, source: Path, to: str, target: Path, ask: Ask
) -> dict[str, Any]:
    """Write a scene's Gaussians in its own world frame.

    Raises:
        Fit3dError: A damaged archive, a query that says nothing, or a disk that is full.
    """
    from fit3d_cli.archive import read_archive
    from fit3d_cli.formats import ply, write_gaussians
    from fit3d_cli.formats.base import recoloured

    colour = ask.colour or "rgb"
    scene = read_archive(source, features=colour != "rgb")
    facts: dict[str, Any] = {"path": target, "gaussians": len(scene.gaussians), "colour": colour}
    path = _with_suffix(target, to)
    if colour == "rgb":
        write_gaussians(path, scene.gaussians)
        return facts
    if not len(scene.gaussians):
        raise ArchiveError("holds no Gaussians", where=source, hint="lift the capture again")
    from fit3d_cli.viewer.layers import Painter

    painter = Painter(scene, seed=run.seed)
    if colour == "kmeans":
        clusters = resolved.settings.export.clusters
        classes, rgb = painter.classes(clusters), painter.kmeans(clusters)
        sidecar = target.with_name(f"{target.name}.classes.json")
        facts |= {"classes": int(classes.max()) + 1, "sidecar": sidecar}
        if to == "ply":
            ply.write(path, recoloured(scene.gaussians, rgb), classes=classes)
        else:
            write_gaussians(path, scene.gaussians, rgb=rgb)
        _write_classes(sidecar, scene, classes, rgb, in_file=to == "ply")
        return facts
    if colour == "pca":
        rgb = painter.pca
    else:
        scores, found = _scores(scene, painter, ask, resolved.settings.export.text_weights)
        facts |= found
        rgb = painter.heat(scores)
    write_gaussians(path, scene.gaussians, rgb=rgb)
    return facts


def export_features(source: Path, to: str, target: Path, *, decoded: bool) -> dict[str, Any]:
    """Write a scene's features, a row per Gaussian, with their means and where they come from.

    Stored features are ``[N, d]``, for renderers, with the decoder that leads from their maps to
    the backbone's channels. Decoded ones are ``[N, C]``, for comparing Gaussians: what a map would
    decode to that shows nothing but what this one looks like in the views. Both are float16.
    ``npy`` gives three files: the features, ``NAME.means.npy`` and ``NAME.json``.

    Raises:
        Fit3dError: A damaged archive, or a disk that is full.
    """
    import json

    import torch

    from fit3d_cli.archive import read_archive
    from fit3d_cli.preflight import Needs, require
    from fit3d_cli.storage import write_json
    from fit3d_cli.tensorfile import write_tensors
    from fit3d_cli.viewer.seen import seen_features
    from fit3d_cli.viewer.similarity import affine

    scene = read_archive(source, sh=False)
    features = scene.features
    channels = scene.source.dim if decoded else features.shape[1]
    size = 2 * len(features) * channels
    require(
        Needs(memory=2 * size, disk=size + 12 * len(features)), where=source, disk=target,
        less="export the stored features",
    )  # fmt: skip
    if decoded:
        matrix, seen = affine(scene.decoder).float(), seen_features(scene)
        features = torch.empty(len(seen), scene.source.dim, dtype=torch.float16)
        for start in range(0, len(features), _ROWS):
            rows = seen[start : start + _ROWS]
            features[start : start + _ROWS] = rows @ matrix[:, :-1].T + matrix[:, -1]
    features, means = features.half(), scene.gaussians.means
    about = {
        "kind": "features of Gaussians",
        "scene": scene.name,
        "channels": "backbone, as the Gaussians look in the views" if decoded else "stored",
        "backbone": scene.source.backbone,
        "weights_sha256": scene.source.weights_sha256,
        "backbone_channels": scene.source.dim,
        "patch_size": scene.source.patch_size,
        "capture_digest": scene.capture_digest,
        "unit": "metre" if scene.metric else "of the capture",
        "frame": "world frame of the capture",
    }
    facts = {"path": target, "gaussians": len(features), "channels": features.shape[1]}
    if to == "safetensors":
        tensors = {"features": features, "means": means}
        if not decoded:
            tensors |= {"decoder.weight": scene.decoder.weight, "decoder.bias": scene.decoder.bias}
        write_tensors(target, tensors, {k: v if isinstance(v, str) else json.dumps(v)
                                        for k, v in about.items()})  # fmt: skip
        return facts
    stem = target.name.removesuffix(".npy")
    places, sidecar = (target.with_name(f"{stem}{end}") for end in (".means.npy", ".json"))
    write_npy(places, means)
    write_npy(target, features)
    write_json(sidecar, {**about, "features": target.name, "means": places.name,
                         "shape": list(features.shape)})  # fmt: skip
    return facts | {"means": places, "about": sidecar}


def convert(source: Path, target: Path) -> dict[str, Any]:
    """Write Gaussians of another program in another format; the frame stays.

    Raises:
        ArchiveError: Damaged, or a suffix that names no format.
        StorageError: The disk refused.
    """
    from fit3d_cli.formats import read_gaussians, write_gaussians

    gaussians = read_gaussians(source)
    write_gaussians(target, gaussians)
    return {"path": target, "gaussians": len(gaussians), "sh_degree": gaussians.sh_degree}


def write_npy(path: Path, values: Tensor) -> None:
    """Write an array as NumPy does, atomically.

    Raises:
        StorageError: The disk refused.
    """
    import io

    import numpy as np

    from fit3d_cli.storage import write_bytes

    array = values.contiguous().numpy()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False,
         "shape": array.shape},
    )  # fmt: skip
    write_bytes(path, [header.getvalue(), array.reshape(-1).view(np.uint8).data])


def _with_suffix(target: Path, to: str) -> Path:
    """The target, refused if its name says another format than ``--to``.

    Raises:
        SettingsError: It does.
    """
    if target.suffix.lower() != f".{to}":
        raise SettingsError(f"is no name for {to}", where=target, hint=f"let it end in .{to}")
    return target


def _scores(scene: Scene, painter: Any, ask: Ask, weights: str) -> tuple[Tensor, dict[str, Any]]:
    """``[N]`` likeness to what is looked for, and what was found there."""
    from fit3d_cli.viewer.similarity import point_scores

    if ask.text is not None:
        from fit3d_cli.viewer.text import find_text_tower

        found = find_text_tower(scene, weights)(painter.features)
        return found.scores(ask.text), {"text": ask.text}
    assert ask.query is not None
    point = query_point(scene, ask.query)
    scores = point_scores(painter.codes, [painter.code_at(point)], [])
    return scores, {"query": point.tolist()}


def query_point(scene: Scene, query: str, where: str = "--query") -> Tensor:
    """``[3]`` float64 world point of ``X,Y,Z``, or of the surface at a pixel ``VIEW:X,Y``.

    Pixels are counted from 0 in the stored photo; the ray goes through the pixel's centre.

    Raises:
        SettingsError: Neither, an unknown view, a pixel outside, or one that sees nothing.
    """
    import torch

    from fit3d_cli.rendering import choose_views
    from fit3d_cli.viewer.look import parse_points
    from fit3d_cli.viewer.picking import pick

    view, colon, numbers = query.rpartition(":")
    if not colon:
        return parse_points([query], where)[0]
    pixel = _numbers(numbers)
    if len(pixel) != 2:
        raise SettingsError(f"{query!r} is no pixel of a view", where=where,
                            hint="write it as VIEW:X,Y, or as X,Y,Z in world units")  # fmt: skip
    (index,) = choose_views(scene, view, where)[:1]
    camera = scene.cameras[index]
    width, height = camera.sizes[0].tolist()
    if not (0 <= pixel[0] < width and 0 <= pixel[1] < height):
        raise SettingsError(
            f"{numbers} is outside of the {width}x{height} pixels of {scene.names[index]}",
            where=where, hint="count pixels from 0 at the left upper corner",
        )  # fmt: skip
    K, pose = camera.Ks[0].double(), camera.camtoworlds[0].double()
    centre = torch.tensor([pixel[0] + 0.5, pixel[1] + 0.5, 1.0], dtype=torch.float64)
    ray = pose[:3, :3] @ (torch.linalg.inv(K) @ centre)
    hit = pick(scene.gaussians, pose[:3, 3], ray, pixel=float(1 / K[0, 0]))
    if hit is None:
        raise SettingsError(f"no Gaussian is seen at {query}", where=where,
                            hint="name another pixel, or a place X,Y,Z")  # fmt: skip
    return hit.point.double()


def _numbers(text: str) -> Sequence[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return []
    return numbers if all(n - n == 0 for n in numbers) else []


def _write_classes(
    path: Path, scene: Scene, classes: Tensor, rgb: Tensor, *, in_file: bool
) -> None:
    """The legend of a k-means export: per class its colour and how many Gaussians it has."""
    import torch

    from fit3d_cli.storage import write_json

    counts = torch.bincount(classes)
    first = [int((classes == k).nonzero()[0]) if n else 0 for k, n in enumerate(counts.tolist())]
    table = [
        {"id": k, "gaussians": n, "rgb": [round(v, 4) for v in rgb[first[k]].tolist()]}
        for k, n in enumerate(counts.tolist())
    ]
    about = {"scene": scene.name, "backbone": scene.source.backbone, "classes": table,
             "property": "class_id" if in_file else None}  # fmt: skip
    write_json(path, about)
