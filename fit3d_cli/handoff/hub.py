"""``hubconf.py``: a model directory that ``torch.hub.load(..., source="local")`` opens.

The file needs torch, timm and safetensors, not fit3d. Its entry names are those of FiT3D's own
``hubconf.py`` where the base is one of FiT3D's, so that scripts written for it go on working.
"""

from __future__ import annotations

import json
from pathlib import Path

from fit3d_cli.backbones.base import BACKBONES
from fit3d_cli.backbones.export import HUBCONF_NAME, hub_name, read_provenance
from fit3d_cli.backbones.load import CONFIG_NAME
from fit3d_cli.errors import WeightsError
from fit3d_cli.storage import write_text

GENERIC, CONCAT = "backbone", "concat"
# The torch.hub entries of ywyue/FiT3D and the timm models behind them.
FIT3D_ENTRIES = {
    "vit_small_patch14_dinov2.lvd142m": "dinov2_small_fine",
    "vit_base_patch14_dinov2.lvd142m": "dinov2_base_fine",
    "vit_small_patch14_reg4_dinov2.lvd142m": "dinov2_reg_small_fine",
    "vit_base_patch16_clip_384.laion2b_ft_in12k_in1k": "clip_base_fine",
    "vit_base_patch16_224.mae": "mae_base_fine",
    "deit3_base_patch16_224.fb_in1k": "deit3_base_fine",
}


def entry_names(timm_id: str, base_name: str) -> tuple[str, ...]:
    """What ``torch.hub.load`` may be asked for besides ``backbone`` and ``concat``.

    Args:
        timm_id: Of the model, with the tag of the weights it started from where it is known.
        base_name: What it was tuned from: a registered name, a timm name, or something local.
    """
    base = base_id(timm_id, base_name)
    entry = FIT3D_ENTRIES.get(base)
    return (entry,) if entry else ()


def base_id(timm_id: str, base_name: str) -> str:
    """The timm model that a tuned one started from, with its tag; empty if nothing tells."""
    if base_name in BACKBONES:
        return BACKBONES.get(base_name).timm_id
    for candidate in (base_name, timm_id):
        if hub_name(candidate):
            return candidate
    return ""


def hubconf(timm_id: str, base_name: str) -> str:
    """The text of ``hubconf.py``.

    Args:
        timm_id: As for ``entry_names``.
        base_name: As for ``entry_names``.
    """
    base = base_id(timm_id, base_name)
    names = entry_names(timm_id, base_name)
    aliases = "".join(
        f'\ndef {name}():\n    """As FiT3D\'s own hub calls it: see ``backbone``."""\n'
        "    return backbone()\n\n"
        for name in names
    )
    known = hub_name(base)
    filled = {
        "@ENTRY@": (*names, GENERIC)[0],
        "@BASE@": f"Its base is {base}." if known else "Its base has no name that timm knows.",
        "@BASE_ID@": json.dumps(base) if known else "None",
        "@ALIASES@": aliases,
    }
    text = Path(__file__).with_name("hubconf.template").read_text("utf-8")
    for mark, value in filled.items():
        text = text.replace(mark, value)
    return text


def write_hubconf(directory: Path) -> tuple[str, ...]:
    """Put ``hubconf.py`` into a finished model directory that has none, or an old one.

    Returns:
        The entry names.

    Raises:
        WeightsError: Not a finished model directory.
        StorageError: The disk refused.
    """
    provenance = read_provenance(directory)
    if not (directory / CONFIG_NAME).is_file():
        raise WeightsError(
            f"holds no {CONFIG_NAME}: not a finished model",
            where=directory,
            hint="name a directory that fit3d finetune or fit3d export has finished",
        )
    timm_id, base = str(provenance.get("timm_id") or ""), provenance.get("base")
    base_name = str(base.get("name") or "") if isinstance(base, dict) else ""
    write_text(directory / HUBCONF_NAME, hubconf(timm_id, base_name))
    return (*entry_names(timm_id, base_name), GENERIC, CONCAT)
