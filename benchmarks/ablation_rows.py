"""What the ablations vary, and the small protocol that they share."""

from __future__ import annotations

from dataclasses import dataclass

# Of every row unless it says otherwise.
LIFT = (
    "lift.max_views=66", "lift.backbone.width=224", "lift.geometry.width=160",
    "lift.geometry.iterations=300", "lift.geometry.init_gaussians=10000",
    "lift.geometry.max_gaussians=15000",
)  # fmt: skip
TUNE = (
    "epochs=9", "max_steps=60", "batch=4", "lr=2e-4", "schedule=cosine", "warmup=0.1", "clip=1.0",
)  # fmt: skip
PROBE = (
    "probe.backbone.width=224", "probe.max_images=60", "probe.steps=200", "probe.corr.pairs=80",
    "probe.corr.stride=8", "probe.batch=4", "probe.drift_images=8",
)  # fmt: skip
PROTOCOL = {"lift": [*LIFT], "finetune": [f"finetune.{s}" for s in TUNE], "probe": [*PROBE]}
TASKS = ("corr", "depth", "seg")

# What is minimised where a table varies something else.
L1 = ("objectives.l1=1",)
BOTH = ("objectives.l1=1", "objectives.info_nce=0.3")
_NO_L1 = "objectives.l1=0"
_DIM_64 = ("lift.features.dim=64",)  # the default, solved again from the cache to be measured


@dataclass(frozen=True)
class Row:
    """One line of one table.

    Attributes:
        name: Unique, also the model's directory.
        table: Key of ``TABLES``.
        label: What a reader sees.
        tune: ``finetune`` settings on top of the shared ones, without the section's name.
        lift: ``lift`` settings on top of the shared ones.
        models: Which features are probed.
        same_as: Row whose tuned model this line shows; only the lift is run.
    """

    name: str
    table: str
    label: str
    tune: tuple[str, ...] = ()
    lift: tuple[str, ...] = ()
    models: tuple[str, ...] = ("base", "tuned")
    same_as: str = ""

    @property
    def variant(self) -> str:
        """Folder of the archives that the row learns from."""
        words = [setting.removeprefix("lift.").replace("=", "-") for setting in self.lift]
        return "+".join(words) or "base"


TABLES = {
    "objective": "Objective",
    "part": "Trainable part",
    "assembly": "Assembly",
    "dim": "Feature dimension",
    "solver": "Solver",
    "resolution": "Target resolution",
    "epochs": "Epochs",
}

# In the order in which they run: what matters most first.
ROWS = (
    Row("l1", "objective", "l1", L1),
    Row("l1-nce", "objective", "l1 + 0.3 info_nce", BOTH,
        models=("base", "tuned", "concat", "sum", "fused")),
    Row("assembly", "assembly", "l1 + 0.3 info_nce", same_as="l1-nce"),
    Row("full", "part", "full", same_as="l1-nce"),
    Row("denoised", "objective", "l1, denoised targets (2D control)",
        (*L1, "targets.source=denoised")),
    Row("nce-anchor", "objective", "info_nce + 0.5 anchor",
        (_NO_L1, "objectives.info_nce=1", "objectives.anchor=0.5")),
    Row("lora-qv", "part", "LoRA, queries and values", (*BOTH, "train.part=lora")),
    Row("adapter", "part", "residual adapter", (*BOTH, "train.part=adapter")),
    Row("relifted", "objective", "l1, relifted targets", (*L1, "targets.source=relifted")),
    Row("res-relifted", "resolution", "224, relifted", same_as="relifted"),
    Row("dim-64", "dim", "64", lift=_DIM_64, same_as="l1"),
    Row("dim-16", "dim", "16", L1, ("lift.features.dim=16",)),
    Row("dim-128", "dim", "128", L1, ("lift.features.dim=128",)),
    Row("smooth-ap", "objective", "smooth_ap", (_NO_L1, "objectives.smooth_ap=1")),
    Row("cosine", "objective", "cosine", (_NO_L1, "objectives.cosine=1")),
    Row("cg", "solver", "cg", lift=_DIM_64, same_as="l1"),
    Row("average", "solver", "average", L1, ("lift.features.solver=average",)),
    Row("swin", "part", "Swin block", (*BOTH, "train.part=swin")),
    Row("lora-all", "part", "LoRA, all layers",
        (*BOTH, "train.part=lora", "train.layers=all")),
    Row("epoch-1", "epochs", "1", (*L1, "epochs=1", "max_steps=0")),
    Row("epoch-3", "epochs", "3", (*L1, "epochs=3", "max_steps=0")),
    Row("gram", "objective", "l1 + 0.3 info_nce + gram", (*BOTH, "objectives.gram=1")),
    Row("norm-angle", "objective", "l1 + 0.3 info_nce + norm_angle",
        (*BOTH, "objectives.norm_angle=1")),
    Row("upsample", "resolution", "224, relifted, upsampled twice",
        (*L1, "targets.source=relifted", "targets.upsample=2")),
    Row("width-224", "resolution", "224", same_as="l1"),
    Row("width-320", "resolution", "320", L1, ("lift.backbone.width=320",)),
    Row("width-160", "resolution", "160", L1, ("lift.backbone.width=160",)),
    Row("relifted-ema", "objective", "l1, relifted from the EMA teacher every 25 steps",
        (*L1, "targets.source=relifted", "targets.relift_every=25", "targets.teacher_ema=0.95")),
    Row("epoch-2", "epochs", "2", (*L1, "epochs=2", "max_steps=0")),
    Row("dim-32", "dim", "32", L1, ("lift.features.dim=32",)),
    Row("lora-qv-fast", "part", "LoRA, queries and values, lr 1e-3",
        (*BOTH, "train.part=lora", "lr=1e-3")),
    Row("adapter-fast", "part", "residual adapter, lr 1e-3",
        (*BOTH, "train.part=adapter", "lr=1e-3")),
)  # fmt: skip
