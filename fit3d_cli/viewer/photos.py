"""The real photo of a view beside what the base and a tuned model make of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli import viz
from fit3d_cli.backbones.export import read_provenance
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.capture.base import View
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.capture.read import read_capture
from fit3d_cli.errors import CaptureError, Fit3dError, SettingsError
from fit3d_cli.scene import Scene
from fit3d_cli.viz import PcaBasis
from fit3d_cli.viz.panels import Picture
from fit3d_cli.workspace import Workspace

_FIT_VIEWS = 3  # photos on which the colours are found; they then hold for all


class Photos:
    """Photos of a scene's views and their features; everything is read when first asked for.

    Args:
        scene: Whose views they are.
        workspace: Remembers the capture, the backbone's weights and the tuned models.
        captures: Where the capture lies now, if it was moved.
        tuned: Directory or name of the tuned model; None takes the newest of the workspace.
        device: Where the backbones run.

    Raises:
        CaptureError: ``captures`` was given and is no capture.
        SettingsError: ``tuned`` was given and is no model directory.
    """

    def __init__(
        self,
        scene: Scene,
        workspace: Workspace,
        *,
        captures: Path | None = None,
        tuned: str = "",
        device: torch.device | str = "cpu",
    ) -> None:
        self.scene = scene
        self._workspace = workspace
        self._device = device
        self.remark = ""
        self._views = self._find_views(captures)
        self._tuned = self._find_tuned(tuned)
        self._models: list[tuple[str, Backbone]] | None = None
        self._bases: list[PcaBasis] = []
        self._shown: dict[str, tuple[tuple[str, Picture], ...]] = {}

    @property
    def available(self) -> bool:
        """Whether the photos are at hand."""
        return bool(self._views)

    def pictures(self, index: int) -> tuple[tuple[str, Picture], ...]:
        """Caption and picture of a view: the photo, then its features through each model.

        Args:
            index: Of the view.

        Raises:
            Fit3dError: A photo or a model cannot be read.
        """
        name = self.scene.names[index]
        if name not in self._views:
            hint = "lift the scene again, or name its folder with --captures"
            raise CaptureError("the capture has no such view", where=name, hint=hint)
        if name not in self._shown:
            photo = self._photo(name)
            shown = [("photo", viz.to_uint8(photo))]
            models = self._load()
            if not self._bases:
                self._bases = self._fit(models)
            for (label, model), basis in zip(models, self._bases, strict=True):
                colours = basis(self._tokens(model, photo))
                large = viz.upsample(colours, photo.shape[0], photo.shape[1])
                shown.append((label, viz.to_uint8(large)))
            self._shown[name] = tuple(shown)
        return self._shown[name]

    def photo(self, index: int) -> Picture:
        """``[H, W, 3]`` the photo alone.

        Raises:
            Fit3dError: It cannot be read.
        """
        return viz.to_uint8(self._photo(self.scene.names[index]))

    def _photo(self, name: str) -> Tensor:
        source = self.scene.source
        return load_frame(self._views[name], source.width, source.height, depth=False).image

    def _tokens(self, model: Backbone, photo: Tensor) -> Tensor:
        with torch.no_grad():
            return model.tokens(photo.permute(2, 0, 1)[None].to(model.device))[0].float().cpu()

    def _load(self) -> list[tuple[str, Backbone]]:
        if self._models is None:
            source = self.scene.source
            name, weights = self._workspace.backbone_of(source.weights_sha256, source.backbone)
            base = load_backbone(name, weights=weights, device=self._device)
            models = [(f"base: {base.name}", base)]
            if self._tuned is not None:
                tuned = load_backbone(str(self._tuned), device=self._device)
                if tuned.patch_size == source.patch_size:
                    models.append((f"tuned: {tuned.name}", tuned))
                else:
                    self.remark = f"{tuned.name} has patches of another size and is left out"
            self._models = models
        return self._models

    def _fit(self, models: list[tuple[str, Backbone]]) -> list[PcaBasis]:
        names = sorted(self._views)
        chosen = names[:: max(1, len(names) // _FIT_VIEWS)][:_FIT_VIEWS]
        photos = [self._photo(name) for name in chosen]
        groups = [torch.cat([self._tokens(model, photo).flatten(0, 1) for photo in photos])
                  for _, model in models]  # fmt: skip
        if len({group.shape[1] for group in groups}) == 1:  # one basis: equal tint, equal feature
            return [viz.fit_pca(groups)] * len(groups)
        return [viz.fit_pca(group) for group in groups]

    def _find_views(self, captures: Path | None) -> Mapping[str, View]:
        try:
            root = self._workspace.capture_dir(self.scene.name, captures)
            views = {view.name: view for view in read_capture(root).views}
        except Fit3dError as error:
            if captures is not None:
                raise
            self.remark = f"no photos: {error.what} - {error.hint}"
            return {}
        return {name: views[name] for name in self.scene.names if name in views}

    def _find_tuned(self, tuned: str) -> Path | None:
        if not tuned:
            try:
                newest = self._workspace.newest_model()
            except SettingsError:
                return None
            base = read_provenance(newest).get("base")
            digest = base.get("weights_sha256") if isinstance(base, dict) else ""
            # Another family's model beside this base would compare two different things.
            return newest if digest == self.scene.source.weights_sha256 else None
        inside = self._workspace.models_dir / tuned
        for directory in (inside, Path(tuned)):
            if (directory / "config.json").is_file():
                return directory
        raise SettingsError(
            "no such model", where=f"--tuned {tuned}",
            hint="name a directory that fit3d finetune has finished",
        )  # fmt: skip
