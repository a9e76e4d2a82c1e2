"""Dense features of a picture, with the preprocessing inside."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fit3d_cli.backbones import load
from fit3d_cli.backbones.looking import tokens_of
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.device import resolve_device
from fit3d_cli.errors import SettingsError

Picture: TypeAlias = "str | PathLike[str] | NDArray[np.uint8]"
WIDTH = 448  # pixels, as the verbs of the command line


def load_backbone(
    name: str | PathLike[str], *, weights: str | PathLike[str] = "", device: str = "cpu"
) -> Backbone:
    """A backbone in evaluation mode.

    >>> load_backbone("room-tiny").dim  # built in; dinov2-small comes from the hub
    128

    Args:
        name: Registered name, timm name of a plain ViT, or the directory of a tuned model.
        weights: A safetensors file instead of its usual weights.
        device: ``cpu``, ``cuda`` or ``auto``.

    Raises:
        UnknownNameError: No such backbone.
        WeightsError: Its weights do not fit, or there are none.
        OfflineError: They would have to be downloaded and the hub does not answer.
        DeviceError: The device is absent.
    """
    return load.load_backbone(str(name), weights=str(weights), device=resolve_device(device))


def dense_features(
    image: Picture,
    backbone: Backbone | str | PathLike[str],
    *,
    width: int = WIDTH,
    concat_base: Backbone | str | PathLike[str] | None = None,
) -> Tensor:
    """Patch tokens of a whole picture.

    The picture is resized, never cropped, to the nearest multiples of the patch size, and
    normalised with the backbone's own mean and deviation.

    >>> backbone = load_backbone("room-tiny")
    >>> dense_features("photo.png", backbone, width=128).shape
    torch.Size([12, 16, 128])
    >>> dense_features("photo.png", backbone, width=128, concat_base="room-tiny").shape
    torch.Size([12, 16, 256])

    Args:
        image: A JPEG, PNG or WebP file, or ``[H, W, 3]`` uint8 RGB.
        backbone: From ``load_backbone``, or what that takes.
        width: Pixels at which the backbone sees it.
        concat_base: Another backbone whose tokens come before, as FiT3D joins base and tuned.

    Returns:
        ``[h, w, C]`` float32 on the CPU, C the sum of both with ``concat_base``.

    Raises:
        ImageError: The picture cannot be read.
        SettingsError: The picture or the width is none, or the two backbones have other patches.
    """
    models = [
        model if isinstance(model, Backbone) else load_backbone(model)
        for model in (concat_base, backbone)
        if model is not None
    ]
    if len({model.patch_size for model in models}) > 1:
        raise SettingsError(
            f"patches of {models[0].patch_size} and {models[1].patch_size} pixels",
            where="concat_base",
            hint="give the backbone that the tuned one started from",
        )
    if width < 1:
        raise SettingsError(f"{width} pixels", where="width", hint="give a positive width")
    if isinstance(image, np.ndarray) and (
        image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size
    ):
        raise SettingsError(
            f"an array {image.shape} of {image.dtype}", where="image", hint="give [H, W, 3] uint8"
        )
    photo = image if isinstance(image, np.ndarray) else Path(image)
    found = [next(tokens_of([photo], model, width=width, batch=1)) for model in models]
    return torch.cat(found, dim=-1)
