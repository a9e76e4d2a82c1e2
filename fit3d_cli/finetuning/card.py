"""The README.md of a tuned model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fit3d_cli.backbones.model import Backbone

_CARD = """
# {name}

`{base}` fine-tuned with [fit3d](https://pypi.org/project/fit3d/) on features that were lifted into
3D Gaussians and rendered view-consistent (method: FiT3D, Yue et al., ECCV 2024).

```python
import timm
model = timm.create_model("local-dir:PATH/TO/THIS/DIRECTORY", pretrained=True, num_classes=0)
tokens = model.forward_features(images)  # [B, {prefix} + h * w, {dim}]
```

Pictures: any multiple of {patch} pixels, normalised with mean {mean} and std {std}.

| | |
|---|---|
| scenes | {scenes} |
| steps | {steps} |
| L1 to the lifted tokens, first / last tenth of the steps | {first:.4f} / {last:.4f} |
| the same on held-out views, base / tuned | {before} / {after} |

Licence of the base weights: {licence}. The tuned weights inherit its terms.

FiT3D evaluates the concatenation of base and tuned tokens. Whether the tuned model alone serves
your task is a measurement: `fit3d probe seg|depth DATASET` reports base, tuned and concat.
"""


def model_card(name: str, backbone: Backbone, facts: Mapping[str, Any]) -> str:
    """Markdown for the model directory.

    Args:
        name: Name of the model.
        backbone: The tuned backbone.
        facts: What ``fit3d.json`` holds: base, scenes, figures.
    """
    figures = facts["figures"]
    return _CARD.format(
        name=name,
        base=facts["base"]["name"],
        prefix=backbone.prefix_tokens,
        dim=backbone.dim,
        patch=backbone.patch_size,
        mean=list(backbone.mean),
        std=list(backbone.std),
        scenes=", ".join(str(scene["name"]) for scene in facts["scenes"]),
        steps=figures["steps"],
        first=figures["loss_first"],
        last=figures["loss_last"],
        before=_figure(figures["heldout_before"]),
        after=_figure(figures["heldout_after"]),
        licence=backbone.licence,
    )


def _figure(value: float | None) -> str:
    return "no held-out views" if value is None else f"{value:.4f}"
