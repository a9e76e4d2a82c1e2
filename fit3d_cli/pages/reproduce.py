"""How a report is made again: its command line, and what it was made on."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping

import torch

from fit3d_cli.pages.tables import flat_settings
from fit3d_cli.report import Report


def probe_command(report: Report, options: Mapping[str, str] | None = None) -> str:
    """``fit3d probe TASK DATASET ...`` with every setting that differs from the defaults.

    Args:
        report: Its settings, task, dataset and seed.
        options: Further options by name, e.g. ``--tuned``; empty values are left out.
    """
    words = ["fit3d", "probe", report.task, report.dataset]
    for option, value in (options or {}).items():
        words += [option, value] if value else []
    for key, value in flat_settings(report.settings).items():
        words += ["--set", f"{key if key.startswith('probe.') else f'probe.{key}'}={value}"]
    words += ["--seed", str(report.seed)] if report.seed else []
    return shlex.join(words)


def machine(device: torch.device) -> str:
    """What computed: system and processor kind, and the graphics card if it took part."""
    here = f"{platform.system()} {platform.machine()}"
    if device.type != "cuda":
        return f"{here}, CPU"
    return f"{here}, {torch.cuda.get_device_name(device)}"
