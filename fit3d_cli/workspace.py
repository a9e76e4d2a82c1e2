"""Where everything lies in a workspace directory (``--workspace``, default ``fit3d-out``).

``scenes/<name>.f3d``, ``models/<name>/``, ``reports/*.json``, ``renders/<scene>/``, ``compare/``
are results; ``captures/<name>/`` is what videos, containers and photos without poses became;
``logs/<scene>.log`` tells more of why one failed; ``cache/`` can be deleted at any time;
``captures.json`` and ``backbones.json`` remember where photos and weight files lie, because
archives hold neither pictures nor absolute paths.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from fit3d_cli import storage
from fit3d_cli.errors import CaptureError, SettingsError, StorageError, WeightsError

# Where fit3d writes; a workspace may be somebody's home directory with much else in it.
_OURS = ("cache", "captures", "compare", "logs", "models", "renders", "reports", "scenes", "viz")


@dataclass(frozen=True)
class Workspace:
    """A directory that fit3d writes to.

    Attributes:
        root: The directory; created on first write.
    """

    root: Path

    def scene_path(self, name: str) -> Path:
        """Archive of the scene called ``name``."""
        return self.root / "scenes" / f"{name}.f3d"

    def scene_paths(self) -> list[Path]:
        """All archives, sorted by name."""
        return sorted((self.root / "scenes").glob("*.f3d"))

    def made_capture(self, name: str) -> Path:
        """Where a source called ``name`` becomes a capture."""
        return self.root / "captures" / name

    def log_path(self, name: str) -> Path:
        """What was said while the scene called ``name`` was lifted in vain."""
        return self.root / "logs" / f"{name}.log"

    @property
    def models_dir(self) -> Path:
        """Directory of the tuned models, one sub-directory each."""
        return self.root / "models"

    @property
    def reports_dir(self) -> Path:
        """Directory of the probe reports."""
        return self.root / "reports"

    @property
    def cache_dir(self) -> Path:
        """Everything that can be computed again."""
        return self.root / "cache"

    def sweep(self) -> int:
        """Remove what runs that were killed left half-written or locked; returns how many."""
        removed = storage.sweep(self.root)
        for name in _OURS:
            for folder, _, _ in os.walk(self.root / name):
                removed += storage.sweep(Path(folder), ours=True)
        return removed

    def newest_model(self) -> Path:
        """The tuned model that was finished last.

        Raises:
            SettingsError: There is none.
        """
        # A model that was exported for transformers has a config.json, too, but no fit3d.json.
        found = [
            path
            for path in self.models_dir.glob("*/config.json")
            if (path.parent / "fit3d.json").is_file()
        ]
        finished = sorted(found, key=lambda path: (path.stat().st_mtime, path))
        if not finished:
            raise SettingsError(
                "no tuned model in the workspace",
                where=self.models_dir,
                hint="run fit3d finetune, or name a model directory with --tuned",
            )
        return finished[-1].parent

    def remember_capture(self, name: str, root: Path) -> None:
        """Note that the capture called ``name`` lies at ``root``."""
        self._remember("captures.json", name, str(root.resolve()))

    def remember_backbone(self, digest: str, weights: str) -> None:
        """Note which file or model directory holds these weights; empty means the default ones."""
        self._remember("backbones.json", digest, str(Path(weights).resolve()) if weights else "")

    def weights_of(self, digest: str) -> str:
        """The file that was remembered for weights with this digest, or an empty string."""
        return self.backbone_of(digest, "")[1]

    def backbone_of(self, digest: str, name: str) -> tuple[str, str]:
        """Where the weights with this digest are.

        Args:
            digest: Of the weights.
            name: What the backbone was called.

        Returns:
            ``name`` and the file of its weights, empty for the default ones; or the remembered
            model directory and an empty string.

        Raises:
            WeightsError: What was remembered is not there any more.
        """
        known = self._table("backbones.json").get(digest, "")
        if known and not Path(known).exists():
            raise WeightsError(
                f"the weights of {name} are gone" if name else "weights are gone",
                where=known,
                hint="say where they are with --backbone and --weights",
            )
        return (known, "") if known and Path(known).is_dir() else (name, known)

    def capture_dir(self, name: str, override: Path | None = None) -> Path:
        """Directory of the capture called ``name``.

        Args:
            name: Scene name.
            override: ``--captures``: the capture itself, or the folder that holds it.

        Raises:
            CaptureError: It is not remembered, or has moved.
        """
        if override is not None:
            inside = override / name
            return inside if inside.is_dir() else override
        known = self._table("captures.json")
        hint = "say where its photos lie with --captures DIR"
        if name not in known:
            raise CaptureError(f"no capture is remembered for scene {name!r}", where=self.root,
                               hint=hint)  # fmt: skip
        if not Path(known[name]).is_dir():
            raise CaptureError(f"the capture of scene {name!r} is gone", where=known[name],
                               hint=hint)  # fmt: skip
        return Path(known[name])

    def captures(self) -> dict[str, Path]:
        """Names and directories of the remembered captures."""
        return {name: Path(root) for name, root in sorted(self._table("captures.json").items())}

    def _remember(self, file: str, key: str, value: str) -> None:
        path = self.root / file
        with storage.locked(path, blocking=True):
            known = self._table(file)
            if known.get(key) != value:
                storage.write_json(path, known | {key: value})

    def _table(self, file: str) -> dict[str, str]:
        path = self.root / file
        try:
            data = json.loads(path.read_text("utf-8"))
            return {str(key): str(value) for key, value in data.items()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StorageError(
                f"cannot be read: {(error.strerror or str(error)).lower()}", where=path,
                hint="check the disk and the permissions",
            ) from error  # fmt: skip
        except (ValueError, AttributeError) as error:
            raise SettingsError(
                "damaged", where=path, hint="delete it and run fit3d lift again"
            ) from error
