"""``cls``: does a picture's nearest neighbours name its class? Nothing is trained.

DINO's protocol (arXiv:2104.14294, appendix): k = 20 neighbours vote with the weight
``exp(cosine / 0.07)``. It tells whether tuning on scenes cost the backbone what it knew of things.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from fit3d_cli.backbones.cache import image_digest
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.datasets.image_folder import LAYOUT, ClassDataset, ClassPicture, read_image_folder
from fit3d_cli.probing.assembly import PARTS, assemble, require_no_head
from fit3d_cli.probing.examples import photos_of
from fit3d_cli.probing.knn import Summaries, class_scores, summarise, top_hits
from fit3d_cli.probing.tasks.base import TASKS, Prepared, Question, Task
from fit3d_cli.report import CAUTION, Report
from fit3d_cli.statistics import Measured, make_rows

_TOP = 5


def prepare(question: Question) -> Prepared:
    """List the pictures of an image folder.

    Raises:
        DatasetError: There is no such folder, or it is laid out otherwise.
        SettingsError: A row would have to be trained.
    """
    require_no_head(question.settings.models, "cls")
    named = Path(question.dataset)
    root = named if named.is_dir() and not question.settings.data else question.root
    name = named.resolve().name or "pictures"
    dataset = read_image_folder(root, name)
    train = _spread(dataset.train, question.settings.max_images)
    val = _spread(dataset.val, question.settings.max_images)

    def measure(models: Mapping[str, Backbone]) -> Report:
        return _measure(question, dataset, train, val, models)

    show = photos_of([(("photo", picture.image_path),) for picture in val])
    return Prepared(measure, tuple(picture.image_path for picture in val), show)


def _measure(
    question: Question,
    dataset: ClassDataset,
    train: tuple[ClassPicture, ...],
    val: tuple[ClassPicture, ...],
    models: Mapping[str, Backbone],
) -> Report:
    settings = question.settings
    digests = {p.image_path: image_digest(p.image_path) for p in (*train, *val)}
    known, asked = (
        {
            name: summarise(
                f"{name}: {label} pictures", model,
                [p.image_path for p in split], [digests[p.image_path] for p in split],
                width=settings.backbone.width, batch=settings.backbone.batch,
                device=question.device, cache_dir=question.cache_dir, on_event=question.on_event,
            )
            for name, model in models.items()
        }
        for label, split in (("train", train), ("val", val))
    )  # fmt: skip
    labels = torch.tensor([p.label for p in train], device=question.device)
    truth = torch.tensor([p.label for p in val], device=question.device)
    # Without a class token the whole picture is the mean of its patches, said once.
    kinds = {"": "whole", "patch_": "patches"}
    if any(getattr(model.model, "cls_token", None) is None for model in models.values()):
        kinds = {"": "patches"}

    def measured(row: str) -> Measured:
        samples = {}
        for prefix, kind in kinds.items():
            scores = class_scores(
                _features(row, known, kind).to(question.device), labels,
                _features(row, asked, kind).to(question.device),
                classes=len(dataset.classes), k=settings.cls.k,
                temperature=settings.cls.temperature,
            )  # fmt: skip
            for count in (1, _TOP) if len(dataset.classes) > _TOP else (1,):
                hits = top_hits(scores, truth, count)
                samples[f"{prefix}top{count}"] = hits.double().tolist()
        return Measured(samples)

    rows = make_rows({row: measured(row) for row in settings.models}, seed=question.seed)
    notes = (
        f"weighted {min(settings.cls.k, len(train))}-NN among {len(train)} pictures of"
        f" {len(dataset.classes)} classes, temperature {settings.cls.temperature:g}",
        "feature: " + ("class token; patch_*: " if "patch_" in kinds else "")
        + "mean of the patch tokens; of unit length, also before models are put together",
        f"whole pictures of about {settings.backbone.width}x{settings.backbone.width} pixels,"
        " aspect kept",
        *dataset.notes,
    )  # fmt: skip
    seen = {digests[p.image_path] for p in train}
    double = sum(digests[p.image_path] in seen for p in val)
    if double:
        notes = (
            *notes,
            f"{CAUTION}{double} of the scored pictures are among the known ones, byte by byte",
        )
    items = tuple(picture.name for picture in val)
    return Report("cls", dataset.name, rows, len(val), notes=notes, items=items)


def _features(row: str, summaries: Mapping[str, Summaries], kind: str) -> torch.Tensor:
    """``[N, C]`` features of a row, of unit length."""
    parts = {name: getattr(summaries[name], kind) for name in PARTS[row]}
    return torch.nn.functional.normalize(assemble(row, parts), dim=1)


def _spread(pictures: tuple[ClassPicture, ...], limit: int) -> tuple[ClassPicture, ...]:
    """At most ``limit`` pictures (0 = all), evenly over the classes."""
    count = min(limit, len(pictures)) if limit else len(pictures)
    return tuple(pictures[(2 * i + 1) * len(pictures) // (2 * count)] for i in range(count))


TASKS.add(
    "cls",
    Task(
        summary="classification by nearest neighbours (top-1, top-5), nothing is trained",
        datasets=lambda: [f"a folder laid out as {LAYOUT}"],
        prepare=prepare,
        uses=frozenset({"cls"}),
    ),
)
