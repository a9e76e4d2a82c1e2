"""A vision transformer that turns pictures into a grid of tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from fit3d_cli.backbones.adapters import Adapter
from fit3d_cli.errors import UnknownNameError
from fit3d_cli.images import fit_size
from fit3d_cli.shapes import check_dims


class Backbone(nn.Module):
    """A timm ViT behind one interface; made by ``load_backbone``.

    Normalisation, patch size, prefix tokens and licence are timm's, read from the model.

    Attributes:
        name: Registered name, timm name, or the name of the tuned model's directory.
        timm_id: timm architecture with the tag of the weights it started from.
        model_args: Arguments with which timm builds the architecture.
        model: The timm module, without classifier.
        dim: Token channels C.
        patch_size: Pixels per token side.
        grid_size: Token grid ``(h, w)`` of the stored position embedding.
        prefix_tokens: Class and register tokens before the patch tokens.
        mean: Per-channel mean that is subtracted, for pictures in 0..1.
        std: Per-channel deviation that is divided by.
        licence: Licence of the pretrained weights, as timm states it.
        source: Where the weights came from: ``hub``, ``random`` or a file.
        matched: Tensors taken from the weight file.
        ignored: Classifier tensors of the weight file that were left out.
        adapter: What is applied to the patch tokens after the norm, or None. timm knows nothing
            of it: ``timm.create_model`` on the written directory gives the backbone below it.
        thawed: While ``make_trainable`` holds the model: which parameters could be trained before.
    """

    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        name: str,
        timm_id: str,
        model: nn.Module,
        *,
        model_args: Mapping[str, Any] | None = None,
        source: str = "random",
        matched: int = 0,
        ignored: int = 0,
    ) -> None:
        super().__init__()
        timm_model = cast(Any, model)
        self.name = name
        self.timm_id = timm_id
        self.model_args = dict(model_args or {})
        self.model = model
        self.source = source
        self.matched = matched
        self.ignored = ignored
        self.dim = int(timm_model.num_features)
        self.patch_size = int(timm_model.patch_embed.patch_size[0])
        rows, columns = timm_model.patch_embed.grid_size
        self.grid_size = (int(rows), int(columns))
        self.prefix_tokens = int(timm_model.num_prefix_tokens)
        config = timm_model.pretrained_cfg
        self.mean: tuple[float, ...] = tuple(map(float, config["mean"]))
        self.std: tuple[float, ...] = tuple(map(float, config["std"]))
        self.licence = str(config.get("license") or "unknown")
        self.register_buffer("_mean", torch.tensor(self.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(self.std).view(1, 3, 1, 1), persistent=False)
        self.adapter: Adapter | None = None
        self.thawed: dict[str, bool] | None = None
        self._digest: tuple[tuple[tuple[int, int], ...], str] | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._mean.device

    @property
    def adapter_kind(self) -> str:
        """``conv`` or ``swin``; empty for a plain backbone, which timm loads as it is."""
        return self.adapter.kind if self.adapter is not None else ""

    def state(self) -> dict[str, Tensor]:
        """All stored tensors: timm's names, and those of the adapter behind ``adapter.``."""
        state = dict(self.model.state_dict())
        if self.adapter is not None:
            state |= {f"adapter.{key}": value for key, value in self.adapter.state_dict().items()}
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Overwrite the weights, in place, with what ``state`` of such a backbone gave."""
        own = self.state()
        if own.keys() != state.keys():
            raise ValueError("a state of another backbone")
        with torch.no_grad():
            for key, value in own.items():
                value.copy_(state[key])

    @property
    def weights_sha256(self) -> str:
        """Hex digest of the weights in memory, the adapter's too, whatever file they came from.

        Follows in-place training: it is computed again once a tensor has changed.
        """
        state = self.state()
        stamp = tuple((tensor.data_ptr(), tensor._version) for tensor in state.values())
        if self._digest is None or self._digest[0] != stamp:
            self._digest = (stamp, state_digest(state))
        return self._digest[1]

    @property
    def identity(self) -> str:
        """Hex digest of all that decides the tokens: weights, architecture, normalisation."""
        arguments = {k: repr(v) for k, v in self.model_args.items() if k != "img_size"}
        described = json.dumps(
            [self.weights_sha256, self.timm_id.split(".")[0], arguments, self.grid_size,
             self.mean, self.std],
            sort_keys=True,
        )  # fmt: skip
        return hashlib.sha256(described.encode()).hexdigest()

    def input_size(self, width: int, height: int, target_width: int) -> tuple[int, int]:
        """Size at which the backbone sees a picture: patch multiples, never cropped.

        Args:
            width: Width of the stored picture.
            height: Height of the stored picture.
            target_width: Wanted width in pixels.

        Returns:
            ``(width, height)``.
        """
        return fit_size(width, height, target_width, self.patch_size)

    def tokens(self, images: Tensor) -> Tensor:
        """Last-block patch tokens after the final norm; differentiable.

        Args:
            images: ``[B, 3, H, W]`` float in 0..1, H and W multiples of the patch size.

        Returns:
            ``[B, h, w, C]``.
        """
        return self.tokens_and_cls(images)[0]

    def tokens_and_cls(
        self, images: Tensor, *, norm: bool = True, normalised: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Patch tokens and one token for the whole picture.

        Args:
            images: As for ``tokens``.
            norm: False gives them as they enter the final norm, without the adapter, which works
                on normed tokens.
            normalised: The pictures had mean and std applied already, as timm takes them.

        Returns:
            ``[B, h, w, C]`` and ``[B, C]``: the class token, else the mean of the registers, else
            (no prefix tokens at all) the mean of the patch tokens.

        Raises:
            ValueError: The pictures are no patch multiples.
        """
        sizes = check_dims(images=(images, "B 3 H W"))
        height, width = sizes["H"], sizes["W"]
        if height % self.patch_size or width % self.patch_size or not height or not width:
            raise ValueError(f"{width}x{height} is not a multiple of patch size {self.patch_size}")
        model = cast(Any, self.model)
        entering: list[Tensor] = []
        hook = None
        if not norm:
            hook = model.norm.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
        try:
            shown = images if normalised else (images - self._mean) / self._std
            output = model.forward_features(shown)
        finally:
            if hook is not None:
                hook.remove()
        if not norm:
            output = entering[0]
        elif isinstance(model.norm, nn.Identity) and getattr(model, "fc_norm", None) is not None:
            # Average-pooled models keep their final norm behind the pooling.
            output = model.fc_norm(output)
        prefix, patches = output[:, : self.prefix_tokens], output[:, self.prefix_tokens :]
        grid = patches.unflatten(1, (height // self.patch_size, width // self.patch_size))
        if self.adapter is not None and norm:
            grid = self.adapter(grid)
        if not self.prefix_tokens:
            return grid, grid.flatten(1, 2).mean(dim=1)
        if getattr(model, "cls_token", None) is not None:
            return grid, prefix[:, 0]
        return grid, prefix.mean(dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """As ``tokens``, so that wrappers such as DDP work."""
        return self.tokens(images)


def state_digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of a state dict, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def require_plain_vit(model: nn.Module, name: str) -> None:
    """Check that a module gives patch tokens in a flat sequence behind its prefix tokens.

    Args:
        model: A timm module, possibly on the meta device.
        name: What the user called it.

    Raises:
        UnknownNameError: It does not.
    """
    vit = cast(Any, model)
    try:
        rows, columns = vit.patch_embed.patch_size
        parameter = next(model.parameters())
        images = torch.empty(1, 3, 2 * rows, 3 * columns, device=parameter.device)
        with torch.no_grad():
            shape = tuple(vit.forward_features(images).shape)
        fits = rows == columns and shape == (1, vit.num_prefix_tokens + 6, vit.num_features)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        fits = False
    if not fits:
        raise UnknownNameError(
            f"{name!r} is not a plain vision transformer with square patches",
            where="--backbone",
            hint="choose a ViT, e.g. dinov2-small (hierarchical and convolutional models have no"
            " patch tokens)",
        )
