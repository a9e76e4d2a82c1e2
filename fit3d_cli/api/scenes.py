"""A lifted scene that answers questions."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from fit3d_cli.api.queries import PointAnswers, RayAnswers, along_rays, at_points
from fit3d_cli.archive import read_archive
from fit3d_cli.device import resolve_device
from fit3d_cli.errors import SettingsError
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.rendering import choose_views, render_maps, scaled_cameras
from fit3d_cli.scene import FeatureSource, Scene
from fit3d_cli.splat.weights import view_token_weights

Channels: TypeAlias = Literal["stored", "backbone"]
What: TypeAlias = Literal["rgb", "depth", "alpha", "features", "tokens"]


class LiftedScene:
    """Gaussians with features, opened from a ``.f3d`` file by ``open_scene``.

    World coordinates are the capture's own, in its own unit (metres if ``scene.metric``).
    Features come in two kinds: ``stored``, the d lifted channels, and ``backbone``, the C channels
    of the backbone's tokens, decoded from them.

    Args:
        scene: As an archive holds it, on the device that is to compute.

    Attributes:
        scene: The same: Gaussians, decoder, held-out views, metrics, provenance.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the views."""
        return self.scene.names

    @property
    def cameras(self) -> Cameras:
        """One camera per view, OpenCV axes, world to camera."""
        return self.scene.cameras

    @property
    def source(self) -> FeatureSource:
        """The backbone whose tokens were lifted."""
        return self.scene.source

    @property
    def dim(self) -> int:
        """Stored channels d."""
        return self.scene.decoder.in_dim

    def __len__(self) -> int:
        """Number of Gaussians."""
        return len(self.scene.gaussians)

    def __repr__(self) -> str:
        return (
            f"LiftedScene({self.scene.name!r}, {len(self)} Gaussians, {len(self.names)} views,"
            f" {self.dim} channels of {self.source.backbone})"
        )

    def query_points(self, points: ArrayLike | Tensor, *, channels: Channels = "stored"
                     ) -> PointAnswers:  # fmt: skip
        """Features at points of the world.

        The mean of the Gaussians there, weighted by opacity and density:
        ``f(x) = sum_i w_i f_i / sum_i w_i``, ``w_i = o_i exp(-m_i^2 / 2)``, up to three standard
        deviations ``m_i``. ``density`` is the sum of the weights: where it is 0, nothing is near
        and the features are 0.

        >>> scene = open_scene("room.f3d")
        >>> found = scene.query_points(scene.scene.gaussians.means[:5])
        >>> found.features.shape, bool((found.density > 0).all())
        (torch.Size([5, 8]), True)

        Args:
            points: ``[M, 3]``, anything torch makes a tensor of.
            channels: ``stored`` (d) or ``backbone`` (C; the decoder's 3x3 neighbourhood is taken to
                show the same everywhere).

        Raises:
            ValueError: Another shape, or a number that is not finite.
        """
        asked = _rows(points, "points")
        found = at_points(self.scene.gaussians, self.scene.features, asked)
        decoded = self._decoded(found.features, found.density, channels)
        return PointAnswers(decoded.cpu(), found.density.cpu())

    def query_rays(
        self,
        origins: ArrayLike | Tensor,
        directions: ArrayLike | Tensor,
        *,
        channels: Channels = "stored",
    ) -> RayAnswers:
        """Features and distance of what rays meet first.

        Gaussians are evaluated exactly on the ray, each where it is densest, and blended front to
        back; ``depth`` is the distance along the ray at which half of the light is stopped.

        >>> scene = open_scene("room.f3d")
        >>> eye, ahead = scene.cameras.centers[0], scene.cameras.viewmats[0, 2, :3]
        >>> met = scene.query_rays([eye.tolist()], [ahead.tolist()], channels="backbone")
        >>> met.features.shape, bool(met.depth[0] > 0)
        (torch.Size([1, 16]), True)

        Args:
            origins: ``[M, 3]`` world points.
            directions: ``[M, 3]``, any length but zero; depths are in world units all the same.
            channels: As for ``query_points``.

        Raises:
            ValueError: Another shape, a number that is not finite, or a direction of length 0.
        """
        starts, towards = _rows(origins, "origins"), _rows(directions, "directions")
        found = along_rays(self.scene.gaussians, self.scene.features, starts, towards)
        decoded = self._decoded(found.features, found.alpha, channels)
        return RayAnswers(decoded.cpu(), found.depth.cpu(), found.alpha.cpu())

    def render(self, view: str | int | Cameras, *, what: What = "rgb", width: int = 0) -> Tensor:
        """What a camera sees.

        >>> scene = open_scene("room.f3d")
        >>> scene.render(0, width=64).shape
        torch.Size([48, 64, 3])
        >>> scene.render(scene.names[0], what="tokens").shape  # as its backbone would see it
        torch.Size([6, 8, 16])

        Args:
            view: Name (or file stem) or number of a view, or one camera of your own.
            what: ``rgb`` ``[H, W, 3]`` in 0..1; ``depth`` ``[H, W]`` z in world units, 0 = nothing;
                ``alpha`` ``[H, W]``; ``features`` ``[H, W, d]`` stored channels, faded by alpha;
                ``tokens`` ``[h, w, C]``, decoded at the backbone's token grid.
            width: In pixels, with the camera's aspect; 0 = the camera's own, and for ``tokens`` the
                size at which the scene was lifted. Tokens want a multiple of the patch size.

        Raises:
            SettingsError: No such view, or a width that does not fit.
        """
        camera = self._camera(view)
        if what == "tokens":
            return self._tokens(camera, width)
        if width < 0:
            raise SettingsError(f"{width} pixels", where="width", hint="give a positive width")
        sized = scaled_cameras(camera, width)[0] if width else camera
        maps = render_maps(self.scene, sized, features=what == "features")
        if what == "features":
            assert maps.features is not None
            return maps.features
        shown = {"rgb": maps.rgb, "depth": maps.depth, "alpha": maps.alphas}
        if what not in shown:
            raise SettingsError(
                f"unknown {what!r}",
                where="what",
                hint=f"choose {', '.join(shown)}, features, tokens",
            )
        return shown[what]

    def _camera(self, view: str | int | Cameras) -> Cameras:
        if isinstance(view, Cameras):
            if len(view) != 1:
                raise SettingsError(f"{len(view)} cameras", where="view", hint="give one")
            return view
        if isinstance(view, str):
            return self.cameras[choose_views(self.scene, view, "view")[0]]
        if not -len(self.names) <= view < len(self.names):
            raise SettingsError(
                f"no view {view}", where="view", hint=f"the scene has {len(self.names)}"
            )
        return self.cameras[view % len(self.names)]

    def _tokens(self, camera: Cameras, width: int) -> Tensor:
        source = self.source
        patch = source.patch_size
        if width % patch or width < 0:
            raise SettingsError(
                f"{width} is no multiple of the patch size {patch}", where="width",
                hint=f"give {max(1, round(width / patch)) * patch}",
            )  # fmt: skip
        columns = (width or source.width) // patch
        stored_width, stored_height = camera.sizes[0].tolist()
        rows = max(1, round(columns * stored_height / stored_width))
        sized = camera.resized(columns * patch, rows * patch)
        weights = view_token_weights(
            self.scene.gaussians, sized.viewmats[0], sized.Ks[0], columns * patch, rows * patch,
            rows, columns,
        )  # fmt: skip
        return self.scene.decoder(weights.apply(self.scene.features)[None])[0].cpu()

    def _decoded(self, features: Tensor, weights: Tensor, channels: Channels) -> Tensor:
        if channels == "stored":
            return features
        if channels != "backbone":
            raise SettingsError(
                f"unknown {channels!r}", where="channels", hint="choose stored or backbone"
            )
        decoder = self.scene.decoder
        tokens = features @ decoder.weight.sum((2, 3)).T.to(features) + decoder.bias.to(features)
        return torch.where(weights[:, None] > 0, tokens, 0)


def open_scene(path: str | PathLike[str], *, device: str = "cpu") -> LiftedScene:
    """Open a ``.f3d`` file; every tensor's sha256 is checked.

    >>> scene = open_scene("room.f3d")
    >>> scene.names[0], scene.dim, len(scene) > 0
    ('a.png', 8, True)

    Args:
        path: What ``fit3d lift`` wrote.
        device: ``cpu``, ``cuda`` or ``auto``: where it answers. Answers are on the CPU.

    Raises:
        ArchiveError: Missing, damaged, or no archive.
        DeviceError: The device is absent.
    """
    scene = read_archive(Path(path))
    return LiftedScene(scene.to(resolve_device(device)))


def _rows(values: ArrayLike | Tensor, name: str) -> Tensor:
    given = values if isinstance(values, Tensor) else torch.from_numpy(
        np.array(values, dtype=np.float64)
    )  # fmt: skip
    if given.ndim != 2 or given.shape[1] != 3:
        raise ValueError(f"{name} has shape {tuple(given.shape)}, expected [M, 3]")
    if not bool(torch.isfinite(given).all()):
        raise ValueError(f"{name} holds a number that is not finite")
    return given
