"""The process in which pycolmap finds camera poses: ``python -m`` this module.

A process of its own, because its C++ can neither be interrupted by Ctrl-C nor share zlib with
Pillow (both in one process crash when a PNG is written), and because its memory goes back with
it. The first line of stdin is a JSON request; when stdin closes, the caller is gone and so is this
process. stdout carries one JSON object per line: ``{"stage", "done", "total"}`` while it works,
``{"result": {...}}`` at the end. Only pycolmap and the standard library are imported here.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

Tell = Callable[[dict[str, Any]], None]


def main() -> None:
    """Answer the request on stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller hears it and ends us
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever C++ prints is no answer
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_watch_caller, daemon=True).start()

    def tell(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    tell({"result": find_poses(request, tell)})
    # Without the interpreter's farewell: static destructors of C++ have crashed there.
    answers.close()
    os._exit(0)


def _watch_caller() -> None:
    sys.stdin.read()
    os._exit(1)


def find_poses(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Features, matches, poses; the largest model is written.

    Args:
        request: ``database``, ``images``, ``pairs`` and ``model`` are paths; ``groups`` lists
            ``{"names", "model", "single"}``: which pictures share a lens, and its COLMAP model;
            ``names`` maps a picture to the name that the model shall give it; ``max_side``,
            ``seed``, ``threads``.
        tell: Takes messages of progress.

    Returns:
        ``registered`` names, ``error`` (mean reprojection error, pixels), ``points``, sizes of
        all ``models``, ``features`` per name and ``inliers`` per pair of names.
    """
    import pycolmap

    pycolmap.logging.minloglevel = 2
    database, images = Path(request["database"]), Path(request["images"])
    with pycolmap.Database.open(database):
        pass
    cpu = pycolmap.Device.cpu
    names: list[str] = [name for group in request["groups"] for name in group["names"]]

    # Pictures first, in one thread: their numbers must not depend on who is done first.
    for group in request["groups"]:
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = group["model"]
        mode = pycolmap.CameraMode.SINGLE if group["single"] else pycolmap.CameraMode.PER_IMAGE
        pycolmap.import_images(
            database, images, camera_mode=mode, image_names=group["names"], options=reader
        )
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.max_image_size = request["max_side"]
    extraction.use_gpu = False
    extraction.num_threads = request["threads"]
    tell({"stage": "features", "done": 0, "total": len(names)})
    pycolmap.extract_features(
        database, images, image_names=names, extraction_options=extraction, device=cpu
    )
    tell({"stage": "features", "done": len(names), "total": len(names)})

    total = len(Path(request["pairs"]).read_text("utf-8").splitlines())
    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu = False
    matching.num_threads = request["threads"]
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = request["pairs"]
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = request["seed"]
    tell({"stage": "matches", "done": 0, "total": total})
    pycolmap.match_image_pairs(
        database,
        matching_options=matching,
        pairing_options=pairing,
        verification_options=verification,
        device=cpu,
    )
    tell({"stage": "matches", "done": total, "total": total})

    models = _map(request, database, images, len(names), tell)
    return _report(request, database, models)


def _map(
    request: dict[str, Any], database: Path, images: Path, total: int, tell: Tell
) -> list[Any]:
    """Incremental reconstruction; models, the one with most pictures first."""
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    # One thread: with two, bundle adjustment summed in another order and gave other poses.
    options.num_threads = 1
    options.random_seed = request["seed"]
    options.mapper.random_seed = request["seed"]
    options.triangulation.random_seed = request["seed"]
    options.min_model_size = min(options.min_model_size, max(2, total // 2))
    done = 0

    def more(count: int = 1) -> None:
        nonlocal done
        done = min(done + count, total)
        tell({"stage": "poses", "done": min(done, total - 1), "total": total})

    tell({"stage": "poses", "done": 0, "total": total})
    scratch = Path(request["model"]).parent / "models"
    scratch.mkdir(parents=True)
    models = pycolmap.incremental_mapping(
        database,
        images,
        scratch,
        options,
        initial_image_pair_callback=lambda: more(2),
        next_image_callback=more,
    )
    return sorted(models.values(), key=lambda m: (-m.num_reg_images(), -m.num_points3D()))


def _report(request: dict[str, Any], database: Path, models: list[Any]) -> dict[str, Any]:
    """Write the largest model under the pictures' own names and say how it went."""
    import pycolmap

    with pycolmap.Database.open(database) as opened:
        known = {image.image_id: image.name for image in opened.read_all_images()}
        features = {name: opened.num_keypoints_for_image(i) for i, name in known.items()}
        inliers = []
        for pair, count in zip(*opened.read_two_view_geometry_num_inliers(), strict=True):
            first, second = pycolmap.pair_id_to_image_pair(pair)
            inliers.append([known[first], known[second], int(count)])
    if not models:
        return {"registered": [], "models": [], "features": features, "inliers": inliers}
    best = models[0]
    registered = []
    for image_id in best.reg_image_ids():
        image = best.image(image_id)
        registered.append(image.name)
        image.name = request["names"][image.name]
    target = Path(request["model"])
    target.mkdir(parents=True)
    best.write_binary(target)
    return {
        "registered": sorted(registered),
        "error": best.compute_mean_reprojection_error(),
        "points": best.num_points3D(),
        "models": [model.num_reg_images() for model in models],
        "features": features,
        "inliers": inliers,
    }


if __name__ == "__main__":
    main()
