"""What became of a scan: lifted, kept or failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fit3d_cli.capture.sources.find import Scan
from fit3d_cli.errors import Fit3dError
from fit3d_cli.explain import explain


@dataclass(frozen=True)
class LiftResult:
    """What became of one capture.

    Attributes:
        name: Scene name.
        path: The archive, or None if it failed.
        gaussians: Number of Gaussians.
        psnr_heldout: dB over the held-out views; NaN without held-out views.
        feature_cosine_heldout: Cosine of decoded renders to the backbone's tokens; NaN likewise.
        seconds: Wall time of this run.
        skipped: True if the archive was there already.
        error: Why it failed, one line, or None.
        exit_code: What that means to the command line; 0 without an error.
        metrics: Everything that was measured.
        notes: What the user should know of the capture.
        source: Figures of the source that was made a capture, e.g. ``registered``.
        attempts: How many processes tried it.
        log: What the processes that failed had to say, where they said more than ``error``.
    """

    name: str
    path: Path | None = None
    gaussians: int = 0
    psnr_heldout: float = float("nan")
    feature_cosine_heldout: float = float("nan")
    seconds: float = 0.0
    skipped: bool = False
    error: str | None = None
    exit_code: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source: Mapping[str, float] = field(default_factory=dict)
    attempts: int = 1
    log: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; NaN stays NaN."""
        plain = asdict(self)
        for key in ("path", "log"):
            plain[key] = None if plain[key] is None else str(plain[key])
        return plain

    @staticmethod
    def from_json(plain: Mapping[str, Any]) -> LiftResult:
        """What ``to_json`` was made of."""
        paths = {key: None if plain[key] is None else Path(plain[key]) for key in ("path", "log")}
        return LiftResult(**{**plain, **paths, "notes": tuple(plain["notes"])})


@dataclass(frozen=True)
class Failed:
    """A scan that was not lifted.

    Attributes:
        error: What stopped it.
        attempts: See ``LiftResult``.
        log: See ``LiftResult``.
    """

    error: Exception
    attempts: int = 1
    log: Path | None = None

    def result(self, scan: Scan, seconds: float) -> LiftResult:
        """The row of a scan that failed after ``seconds``."""
        failure = named(self.error, scan)
        return LiftResult(
            scan.name, seconds=seconds, error=str(failure), exit_code=failure.exit_code,
            attempts=self.attempts, log=self.log,
        )  # fmt: skip


def named(error: Exception, scan: Scan) -> Fit3dError:
    """Any exception as a failure that says which scan it is about.

    Args:
        error: What stopped a scan.
        scan: Which one.
    """
    failure, code = explain(error)
    where = failure.where
    if where.startswith(f"{scan.name}: ") or {scan.name, scan.path.name} & {*Path(where).parts}:
        found = failure
    else:
        whose = f"{scan.name}: {where}" if where else scan.path
        found = type(failure)(failure.what, where=whose, hint=failure.hint)
    found.exit_code = code
    return found
