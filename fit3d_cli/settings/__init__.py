"""Settings: one section per verb, defaults here and nowhere else.

Every description is the documentation that ``--dry-run`` prints. Settings stop at the stage
layer: everything below takes plain arguments.
"""

from __future__ import annotations

from fit3d_cli.settings.base import (
    BackboneSettings,
    ModelSettings,
    Section,
)
from fit3d_cli.settings.finetuning import (
    FinetuneSettings,
    ObjectiveSettings,
    PairSettings,
    TargetSettings,
    TrainableSettings,
)
from fit3d_cli.settings.lifting import (
    FeatureSettings,
    GeometrySettings,
    LiftBackboneSettings,
    LiftSettings,
    SourceSettings,
)
from fit3d_cli.settings.probing import (
    ClsSettings,
    CorrSettings,
    PoseSettings,
    ProbeSettings,
    TrackSettings,
)
from fit3d_cli.settings.showing import (
    CompareSettings,
    ExportSettings,
    RenderSettings,
    VizSettings,
)

__all__ = [
    "BackboneSettings",
    "ClsSettings",
    "CompareSettings",
    "CorrSettings",
    "ExportSettings",
    "FeatureSettings",
    "FinetuneSettings",
    "GeometrySettings",
    "LiftBackboneSettings",
    "LiftSettings",
    "ModelSettings",
    "ObjectiveSettings",
    "PairSettings",
    "PoseSettings",
    "ProbeSettings",
    "RenderSettings",
    "Section",
    "Settings",
    "SourceSettings",
    "TargetSettings",
    "TrackSettings",
    "TrainableSettings",
    "VizSettings",
]


class Settings(Section):
    """All sections, as a profile or ``--set section.key=value`` addresses them."""

    lift: LiftSettings = LiftSettings()
    render: RenderSettings = RenderSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    probe: ProbeSettings = ProbeSettings()
    compare: CompareSettings = CompareSettings()
    viz: VizSettings = VizSettings()
    export: ExportSettings = ExportSettings()
