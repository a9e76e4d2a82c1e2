"""Parts of a model card: how to load the model, what was measured, and on what terms it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fit3d_cli.backbones.export import cell
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.errors import Fit3dError
from fit3d_cli.handoff.hub import GENERIC, entry_names
from fit3d_cli.report import Figure, Report

_LOADING = """## Load it

```python
import timm
model = timm.create_model("local-dir:PATH/TO/THIS/DIRECTORY", pretrained=True, num_classes=0)
tokens = model.forward_features(images)  # [B, {prefix} + h * w, {dim}]
```

```python
import torch
model = torch.hub.load("PATH/TO/THIS/DIRECTORY", "{entry}", source="local")  # needs timm
```

```python
import fit3d_cli as f3d
model = f3d.load_backbone("PATH/TO/THIS/DIRECTORY")
features = f3d.dense_features("photo.jpg", model)  # [h, w, {dim}], preprocessing inside
```

`fit3d export PATH/TO/THIS/DIRECTORY --to onnx` writes a file for ONNX Runtime,
`--to transformers` a directory for `transformers.AutoModel`; both are checked against timm when
they are written.
{adapter}
Pictures: any multiple of {patch} pixels, RGB in 0..1, normalised with mean {mean} and std {std}.
"""
_ADAPTER = """
An adapter (`{kind}`) follows the backbone: its weights are in `adapter.safetensors`. torch.hub,
ONNX and fit3d apply it to the patch tokens; `timm.create_model` leaves it out, and transformers
has no place for it.
"""
_START, _END = "<!-- measured -->", "<!-- /measured -->"
_HEAD = """## Measured

With `fit3d probe`; 95 % intervals in brackets.

| task | data | model | figure | value | n |
|---|---|---|---|---|---|"""
NOT_MEASURED = f"{_START}\n## Measured\n\nNothing yet.\n{_END}"
_LICENCE = """## Licence

Licence of the base weights, as timm states it: {licence}. The tuned weights inherit its terms.
"""


def loading(backbone: Backbone, base_name: str) -> str:
    """How to load a model directory, Markdown.

    Args:
        backbone: What it holds.
        base_name: What it was tuned from, for the entry name of torch.hub.
    """
    kind = backbone.adapter_kind
    return _LOADING.format(
        prefix=backbone.prefix_tokens, dim=backbone.dim, patch=backbone.patch_size,
        mean=list(backbone.mean), std=list(backbone.std),
        entry=(*entry_names(backbone.timm_id, base_name), GENERIC)[0],
        adapter=_ADAPTER.format(kind=kind) if kind else "",
    )  # fmt: skip


def converted_card(
    backbone: Backbone, name: str, base_name: str, converted: Mapping[str, Any]
) -> str:
    """The card of a model that fit3d did not train, Markdown.

    Args:
        backbone: What the directory holds.
        name: Of the directory.
        base_name: What it was tuned from, as far as its architecture tells.
        converted: ``Converted.describe``; empty for a copy.
    """
    base = cell(base_name or backbone.timm_id)
    if converted:
        origin = (
            f"Converted by fit3d from `{cell(str(converted['file']))}` (layout"
            f" {converted['layout']}, sha256 `{converted['sha256']}`): {converted['tensors']}"
            f" tensors, {converted['ignored']} left out. Architecture: `{base}`."
        )
    else:
        origin = f"A copy made by fit3d. It goes back to `{base}`."
    return "\n".join(
        [f"\n# {cell(name)}\n", origin, "", loading(backbone, base_name), NOT_MEASURED, "",
         licence(backbone)]
    )  # fmt: skip


def licence(backbone: Backbone) -> str:
    """On what terms the weights stand, Markdown."""
    return _LICENCE.format(licence=cell(backbone.licence))


def with_measured(card: str, reports: Sequence[Report]) -> str:
    """A card whose section of measurements says what these reports say.

    Args:
        card: Text of a card; without the section's marks it is added at the end.
        reports: Probe reports of the model.
    """
    section = _measured(reports)
    before, start, rest = card.partition(_START)
    _, end, after = rest.partition(_END)
    if not start or not end:
        return f"{card.rstrip()}\n\n{section}\n"
    return f"{before}{section}{after}"


def _measured(reports: Sequence[Report]) -> str:
    if not reports:
        return NOT_MEASURED
    lines = [_START, _HEAD]
    for report in reports:
        for row in report.rows:
            for name, figure in row.figures.items():
                lines.append(
                    f"| {cell(report.task)} | {cell(report.dataset)} | {cell(row.model)}"
                    f" | {cell(name)} | {_value(figure)} | {figure.n} |"
                )
    cautions = [f"- {cell(text)}" for report in reports for text in report.cautions]
    return "\n".join([*lines, *([""] if cautions else []), *cautions, _END])


def reports_of(folder: Path, weights_sha256: str) -> list[Report]:
    """Readable reports of a workspace that measured a model as ``tuned``, by file name.

    Args:
        folder: ``<workspace>/reports``.
        weights_sha256: Of the model.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            report = Report.from_json(path.read_text("utf-8"), where=str(path))
        except (OSError, UnicodeDecodeError, Fit3dError):
            continue
        mark = f"weights sha256 {weights_sha256[:12]}"
        if any(note.startswith("tuned: ") and note.endswith(mark) for note in report.notes):
            found.append(report)
    return found


def _value(figure: Figure) -> str:
    value = f"{figure.value:.4f}"
    return f"{value} [{figure.low:.4f}, {figure.high:.4f}]" if figure.has_interval else value
