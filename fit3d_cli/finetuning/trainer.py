"""The optimisation loop: batches in, a tuned backbone out."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.backbones.average import interpolate_state, moving_average
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.parts import merge
from fit3d_cli.backoff import Backoff
from fit3d_cli.errors import ArchiveError, SettingsError
from fit3d_cli.finetuning.base import thaw
from fit3d_cli.finetuning.batch import Batch
from fit3d_cli.finetuning.checkpoints import State, restore, save
from fit3d_cli.finetuning.distributed import PeerError, Processes
from fit3d_cli.finetuning.heldout import curve_point
from fit3d_cli.finetuning.objectives.base import OBJECTIVES, Outputs, active_objectives
from fit3d_cli.finetuning.precision import autocast, precision
from fit3d_cli.finetuning.prefetch import Prefetcher, Step, load_step
from fit3d_cli.finetuning.sampling import Draw, plan_epoch
from fit3d_cli.finetuning.schedule import step_size
from fit3d_cli.finetuning.targets import SceneTargets, relift
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.settings import FinetuneSettings

_EMA, _TEACHER, _RELIFTED = "ema", "teacher", "relifted"


class Trainer:
    """Tunes a backbone in place.

    The objective of a step is ``sum_t weight_t sum_i e_ti / sum_i w_ti`` over the items of the
    whole effective batch (``objectives/base.py``). The sums of w are known before the first
    forward pass, so neither micro-batches nor processes change its gradient.

    Args:
        backbone: On ``processes.device``; its trained part is made here.
        base: A frozen copy, for the terms that need it and for interpolation.
        scenes: Where samples come from.
        partners: For each scene and view, the views that see the same; None without pairs.
        settings: How to train.
        processes: Who takes part.
        splats: Where Gaussians are splatted when the teacher is lifted again.
        seed: Decides order, mirroring, jitter, correspondences and what starts at random.

    Attributes:
        state: Parameters, optimiser, averages, losses, curve over the held-out views.

    Raises:
        SettingsError: The backbone has no such part as is to be trained.
    """

    def __init__(
        self,
        backbone: Backbone,
        base: Backbone,
        scenes: Sequence[SceneTargets],
        partners: Sequence[Sequence[Sequence[int]]] | None,
        settings: FinetuneSettings,
        processes: Processes,
        splats: torch.device,
        seed: int,
    ) -> None:
        self.backbone, self.base, self.scenes = backbone, base, list(scenes)
        self.settings, self.processes, self.seed = settings, processes, seed
        self.weights = active_objectives(settings)
        self._objectives = [OBJECTIVES.get(name) for name in self.weights]
        self._needs_base = any(o.needs in ("base", "class") for o in self._objectives)
        self._partners, self._splats = partners, splats
        self._precision = precision(settings, processes.device)
        at_once = settings.micro_batch or settings.batch
        self._backoff = Backoff("finetune.micro_batch", at_once, processes.device)
        parameters = thaw(backbone, settings.train, seed)
        optimizer = torch.optim.AdamW(
            parameters.values(), lr=settings.lr, weight_decay=settings.weight_decay
        )
        self.state = State(parameters, optimizer)
        self._prepared = tuple(scenes)
        self._terms_here = torch.zeros(0)  # this process's part of the last step's
        self._plans: dict[int, list[list[Draw]]] = {}

    @property
    def step(self) -> int:
        """Finished steps."""
        return len(self.state.history)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        whole = self.settings.epochs * len(self._plan(0))
        return min(whole, self.settings.max_steps or whole)

    def run(self, checkpoints: Path, on_event: OnEvent) -> None:
        """Train to the end, from the newest usable checkpoint.

        Args:
            checkpoints: Directory of the checkpoints.
            on_event: Told about each step.

        Raises:
            SettingsError: The loss or the weights are not finite any more, or nothing was learned.
            PeerError: Another process failed.
            Fit3dError: A sample cannot be read, or a checkpoint cannot be written.
        """
        self._begin(checkpoints, on_event)
        if not self.state.heldout:
            self._look(self.base if not self.step else None)
        with Prefetcher(self._load, self.settings.workers) as samples:
            while self.step < self.steps:
                if self._relift_due(self.step):
                    self.state.averages[_RELIFTED] = _copy(self.state.averages[_TEACHER])
                    self._relift(self.step, checkpoints, on_event)
                current = self.step
                step = self.processes.together(partial(samples.take, current))
                samples.start(self._following(current))
                self.state.history.append(self._advance(step))
                self._require_sound()
                if self.step in self._looks:
                    self._look(self.exported())
                on_event(Progress("finetune", self.step, self.steps, self._note()))
                if self.step % self.settings.checkpoint_every == 0 and self.step < self.steps:
                    self.processes.lead(partial(save, checkpoints, self.state))

    def exported(self) -> Backbone:
        """What is kept: a plain backbone with the averaged and interpolated weights."""
        made = copy.deepcopy(self.backbone)
        average = self.state.averages.get(_EMA)
        if average is not None:
            _put(made, average)
        merge(made)
        if self.settings.interpolate < 1:
            alpha = self.settings.interpolate
            made.load(interpolate_state(self.base.state(), made.state(), alpha))
        return made

    def _plan(self, epoch: int) -> list[list[Draw]]:
        plan = self._plans.get(epoch)
        if plan is None:
            views = [
                (s, v)
                for s, scene in enumerate(self._prepared)
                for v in (*scene.train, *range(len(scene.views), len(scene.views) + scene.novel))
            ]
            partners = None
            if self._partners is not None:
                known = self._partners
                partners = [known[s][v] if v < len(known[s]) else () for s, v in views]
            shapes = [(scene.source.width, scene.source.height) for scene in self._prepared]
            plan = plan_epoch(
                views, shapes, batch=self.settings.batch, flip=self.settings.flip,
                seed=self.seed, epoch=epoch, partners=partners,
            )  # fmt: skip
            # Threads may ask for two epochs at once: what one forgets the other makes again.
            self._plans = {0: self._plans.get(0, plan), epoch: plan}
        return plan

    def _following(self, step: int) -> Iterator[int]:
        """The steps after this one, as far as their samples are known before it is done."""
        for number in range(step + 1, self.steps):
            if self._relift_due(number):
                return
            yield number

    def _load(self, number: int) -> Step:
        epoch, position = divmod(number, len(self._plan(0)))
        draws = self.processes.share(self._plan(epoch)[position])
        return load_step(self.scenes, draws, self._objectives, self.settings)

    def _advance(self, step: Step) -> list[float]:
        """One update; returns the objective and its terms, over the whole effective batch."""
        totals = self.processes.sum(step.weights).tolist()
        parameters = list(self.state.parameters.values())
        terms = self._terms_here = self._gradients(step, totals)
        self.processes.sum_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip)
        for group in self.state.optimizer.param_groups:
            group["lr"] = step_size(self.settings, self.step, self.steps)
        self.state.optimizer.step()
        self._average()
        values = self.processes.sum(terms).tolist()
        total = sum(w * v for w, v in zip(self.weights.values(), values, strict=True))
        return [total, *values]

    def _gradients(self, step: Step, totals: Sequence[float]) -> Tensor:
        """``[T]`` float64: this process's part of each term; its gradient is left in ``grad``.

        Without memory for a micro-batch the step begins anew, from no gradient at all, with half
        as many pictures at once. No random number is drawn here, so that what comes out is the
        same but for the order of its sums.

        Raises:
            MemoryFault: The smallest micro-batch does not fit.
        """
        while True:
            self.state.optimizer.zero_grad(set_to_none=True)
            pieces = [piece for batch in step.batches for piece in batch.cut(self._backoff.size)]
            least = 2 if any(batch.pairs for batch in step.batches) else 1
            try:
                return self._backward(pieces, totals)
            except Exception as error:
                at_once = max((len(piece.images) for piece in pieces), default=1)
                if not self._backoff.halve(error, at_once, least):
                    raise
            self._backoff.release()

    def _backward(self, pieces: Sequence[Batch], totals: Sequence[float]) -> Tensor:
        terms = torch.zeros(len(totals), dtype=torch.float64, device=self.processes.device)
        for batch in pieces:
            parts = self._terms(batch.to(self.processes.device), totals)
            terms += parts.detach()
            objective = (parts * parts.new_tensor(list(self.weights.values()))).sum()
            if objective.requires_grad:
                objective.backward()  # type: ignore[no-untyped-call]
        return terms

    def _terms(self, batch: Batch, totals: Sequence[float]) -> Tensor:
        """``[T]`` float64: this batch's part of each term, before its weight."""
        with autocast(self._precision, self.processes.device):
            student, student_class = self.backbone.tokens_and_cls(batch.images)
            base = base_class = None
            if self._needs_base:
                with torch.no_grad():
                    base, base_class = self.base.tokens_and_cls(batch.images)
        outputs = Outputs(
            student.float(),
            None if base is None else base.float(),
            student_class.float(),
            None if base_class is None else base_class.float(),
        )
        parts = [
            # Nothing is asked of a batch without weight, e.g. of pictures that nothing covers.
            objective.errors(batch, outputs, self.settings).double().sum() / total
            if total > 0
            else student.new_zeros((), dtype=torch.float64)
            for objective, total in zip(self._objectives, totals, strict=True)
        ]
        return torch.stack(parts)

    @property
    def _looks(self) -> set[int]:
        """Steps after which the held-out views are measured."""
        points = min(self.settings.heldout_points, self.steps)
        return {(i + 1) * self.steps // points for i in range(points)}

    def _look(self, model: Backbone | None) -> None:
        """Add a point to the curve over the held-out views; it changes no weight."""
        if model is None or not self.settings.heldout_points:
            return
        value = curve_point(model, self._prepared, self.settings, self.processes)
        if value is not None and math.isfinite(value):
            self.state.heldout.append((self.step, value))

    def _average(self) -> None:
        for kind, decay in (
            (_EMA, self.settings.ema),
            (_TEACHER, self.settings.targets.teacher_ema),
        ):
            if kind in self.state.averages:
                moving_average(self.state.averages[kind], self.state.parameters, decay)

    def _begin(self, checkpoints: Path, on_event: OnEvent) -> None:
        """The state that a killed run left, or the beginning."""
        kinds = [_EMA] if self.settings.ema else []
        if self._relifts:
            kinds.append(_TEACHER)
        self.state.averages = {kind: _copy(self.state.parameters) for kind in kinds}
        self._resume(checkpoints, [*kinds, _RELIFTED])
        every = self.settings.targets.relift_every
        if _RELIFTED in self.state.averages and not self._relift_due(self.step):
            self._relift((self.step - 1) // every * every, checkpoints, on_event)

    def _resume(self, checkpoints: Path, kinds: Sequence[str]) -> None:
        """The first process chooses the checkpoint; the others must come to the same step."""
        leads = self.processes.leads
        look = partial(restore, checkpoints, self.state, kinds, aside=leads)
        self.processes.lead(look)
        chosen = int(self.processes.sum(torch.tensor(float(self.step if leads else 0))))

        def follow() -> None:
            if not leads:
                look()
            if self.step != chosen:
                raise ArchiveError(
                    f"process {self.processes.rank} cannot read the checkpoint of step {chosen}",
                    where=checkpoints,
                    hint="let every process see the same workspace",
                )

        self.processes.together(follow)

    @property
    def _relifts(self) -> bool:
        targets = self.settings.targets
        return targets.source == "relifted" and targets.relift_every > 0

    def _relift_due(self, step: int) -> bool:
        return self._relifts and step > 0 and step % self.settings.targets.relift_every == 0

    def _relift(self, step: int, checkpoints: Path, on_event: OnEvent) -> None:
        """Lift the teacher's tokens as of ``step``; the first process does it, the others read."""
        teacher = copy.deepcopy(self.backbone)
        _put(teacher, self.state.averages[_RELIFTED])
        merge(teacher)
        directory, before = checkpoints / "targets", self.scenes

        def lift() -> list[SceneTargets]:
            return relift(
                list(self._prepared), teacher, directory, step, self.settings,
                self._splats, on_event,
            )  # fmt: skip

        self.processes.lead(lift)
        self.scenes = self.processes.together(lift)

        def forget() -> None:
            for scene in before:
                if scene.path.parent == directory:
                    scene.path.unlink(missing_ok=True)

        self.processes.lead(forget)

    def _require_sound(self) -> None:
        """Stop a training that came to nothing, before it is kept in a checkpoint or as a model."""
        error = self._fault()
        if error is None:
            return
        if not self.processes.leads:  # it happens in all of them alike
            raise PeerError(error.exit_code) from error
        raise error

    def _fault(self) -> SettingsError | None:
        due = self.step == self.steps or self.step % self.settings.checkpoint_every == 0
        parameters = self.state.parameters.values()
        whole = not due or all(bool(torch.isfinite(p).all()) for p in parameters)
        if not whole or not math.isfinite(self.state.history[-1][0]):
            where = self.processes.where(not bool(torch.isfinite(self._terms_here).all()))
            first = f", in process {where[0]}" if self.processes.size > 1 and where else ""
            return SettingsError(
                f"the training diverged at step {self.step} of {self.steps}{first}",
                where="finetune.lr",
                hint=f"give less than {self.settings.lr:g}, or less finetune.weight_decay",
            )
        once = self.step == min(len(self._plan(0)), self.steps)
        if once and not any(row[0] for row in self.state.history):
            return SettingsError(
                "there was nothing to learn in a whole pass: no token is covered, no pair found",
                where="finetune.objectives",
                hint="lower finetune.min_alpha, or raise finetune.pairs.tolerance",
            )
        return None

    def _note(self) -> str:
        values = zip(self.weights, self.state.history[-1][1:], strict=True)
        return " · ".join(f"{name} {value:.4f}" for name, value in values)


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _put(backbone: Backbone, values: Mapping[str, Tensor]) -> None:
    """Overwrite parameters of a backbone by name."""
    named = dict(backbone.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            named[name].copy_(value)
