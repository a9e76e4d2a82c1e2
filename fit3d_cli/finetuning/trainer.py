"""The optimisation loop with its checkpoints."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.backbones.model import Backbone
from fit3d_cli.errors import ArchiveError, SettingsError
from fit3d_cli.finetuning.sampling import Draw, plan_epoch
from fit3d_cli.finetuning.targets import Sample, SceneTargets, load_sample
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.settings import FinetuneSettings
from fit3d_cli.tensorfile import read_sealed, write_sealed

_KEEP = 2  # checkpoints; the older one serves if the newest was damaged


def masked_l1(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """``sum(weight |predicted - target|) / (sum(weight) C)``, FiT3D's loss on normed patch tokens.

    Args:
        predicted: ``[B, h, w, C]``.
        target: ``[B, h, w, C]``.
        weight: ``[B, h, w]``, zero where the scene says nothing.
    """
    error = ((predicted - target).abs() * weight[..., None]).sum()
    return error / (weight.sum() * predicted.shape[-1]).clamp_min(1e-12)


class Trainer:
    """Tunes a backbone in place.

    Args:
        backbone: Trained in full, as in FiT3D; on ``device``.
        base: A frozen copy for the anchor term, or None when its weight is zero.
        scenes: Where samples come from.
        settings: How to train.
        device: Where the backbone is.
        seed: Decides order and mirroring.
    """

    def __init__(
        self,
        backbone: Backbone,
        base: Backbone | None,
        scenes: list[SceneTargets],
        settings: FinetuneSettings,
        device: torch.device,
        seed: int,
    ) -> None:
        self.backbone, self.base, self.scenes = backbone, base, scenes
        self.settings, self.device, self.seed = settings, device, seed
        self.parameters = [p for p in backbone.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.lr, weight_decay=settings.weight_decay
        )
        self.losses: list[float] = []
        self._plans: dict[int, list[list[Draw]]] = {}

    @property
    def step(self) -> int:
        """Finished steps."""
        return len(self.losses)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.settings.epochs * len(self._plan(0))

    def run(self, checkpoints: Path, on_event: OnEvent) -> None:
        """Train to the end, from the newest usable checkpoint.

        Args:
            checkpoints: Directory of the checkpoints.
            on_event: Told about each step.

        Raises:
            SettingsError: The loss or the weights are not finite any more.
        """
        self._resume(checkpoints)
        while self.step < self.steps:
            self.losses.append(self._advance())
            self._require_finite()
            on_event(Progress("finetune", self.step, self.steps, f"L1 {self.losses[-1]:.4f}"))
            if self.step % self.settings.checkpoint_every == 0 and self.step < self.steps:
                self._save(checkpoints)

    def _require_finite(self) -> None:
        """Stop a training that diverged, before it is kept in a checkpoint or as a model."""
        last = self.step == self.steps
        due = last or self.step % self.settings.checkpoint_every == 0
        whole = not due or all(bool(torch.isfinite(p).all()) for p in self.parameters)
        if not whole or not math.isfinite(self.losses[-1]):
            raise SettingsError(
                f"the training diverged at step {self.step} of {self.steps}",
                where="finetune.lr",
                hint=f"give less than {self.settings.lr:g}, or less finetune.weight_decay",
            )

    def heldout_loss(self, on_event: OnEvent, stage: str) -> float:
        """Mean loss over the held-out views of all scenes; NaN if there are none."""
        pairs = [(s, v) for s, scene in enumerate(self.scenes) for v in scene.heldout]
        losses = []
        for done, (scene, view) in enumerate(pairs):
            on_event(Progress(stage, done, len(pairs)))
            with torch.no_grad():
                loss, _ = self._loss([load_sample(self.scenes[scene], view)])
            losses.append(float(loss))
        return sum(losses) / len(losses) if losses else float("nan")

    def _plan(self, epoch: int) -> list[list[Draw]]:
        if epoch not in self._plans:
            views = [(s, v) for s, scene in enumerate(self.scenes) for v in scene.train]
            shapes = [(scene.source.width, scene.source.height) for scene in self.scenes]
            batches = plan_epoch(
                views, shapes, batch=self.settings.batch, flip=self.settings.flip,
                seed=self.seed, epoch=epoch,
            )  # fmt: skip
            self._plans = {0: self._plans.get(0, batches), epoch: batches}
        return self._plans[epoch]

    def _advance(self) -> float:
        epoch, position = divmod(self.step, len(self._plan(0)))
        samples = []
        for draw in self._plan(epoch)[position]:
            sample = load_sample(self.scenes[draw.scene], draw.view)
            samples.append(sample.flipped() if draw.flip else sample)
        loss, total = self._loss(samples)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        self.optimizer.step()
        return float(loss.detach())

    def _loss(self, samples: list[Sample]) -> tuple[Tensor, Tensor]:
        """The L1 to the lifted tokens, and the whole objective."""
        images = torch.stack([s.image for s in samples]).to(self.device)
        targets = torch.stack([s.target for s in samples]).to(self.device)
        coverage = torch.stack([s.coverage for s in samples]).to(self.device)
        weight = (coverage >= self.settings.min_alpha).float()
        predicted = self.backbone.tokens(images)
        loss = masked_l1(predicted, targets, weight)
        if self.base is None:
            return loss, loss
        with torch.no_grad():
            anchor = self.base.tokens(images)
        return loss, loss + self.settings.anchor * (predicted - anchor).abs().mean()

    def _save(self, checkpoints: Path) -> None:
        tensors = {f"model.{k}": v for k, v in self.backbone.model.state_dict().items()}
        for index, parameter in enumerate(self.parameters):
            state = self.optimizer.state[parameter]
            tensors[f"m.{index}"] = state["exp_avg"]
            tensors[f"v.{index}"] = state["exp_avg_sq"]
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        write_sealed(checkpoints / f"step-{self.step:08d}.safetensors", tensors, {})
        for old in sorted(checkpoints.glob("step-*.safetensors"))[:-_KEEP]:
            old.unlink(missing_ok=True)

    def _resume(self, checkpoints: Path) -> None:
        for path in sorted(checkpoints.glob("step-*.safetensors"), reverse=True):
            try:
                tensors, _ = read_sealed(path)
                losses = tensors["losses"].tolist()
                model = {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}
                moments = [
                    (tensors[f"m.{i}"], tensors[f"v.{i}"]) for i in range(len(self.parameters))
                ]
            except (ArchiveError, KeyError):
                continue  # damaged: the one before it, or the beginning
            self.backbone.model.load_state_dict(model)
            for parameter, (first, second) in zip(self.parameters, moments, strict=True):
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(len(losses))),
                    "exp_avg": first.to(self.device),
                    "exp_avg_sq": second.to(self.device),
                }
            self.losses = losses
            return
