"""The manifest of an archive and the closed set of its tensors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from fit3d_cli.errors import ArchiveError
from fit3d_cli.scene import FeatureSource
from fit3d_cli.shapes import check_dims
from fit3d_cli.storage import sha256_bytes
from fit3d_cli.tensorfile import Header, TensorInfo, strict_json

FORMAT = "f3d"
MAJOR, MINOR = 1, 0
# The oldest fit3d that reads what this one writes; a reader of an older major shows it.
MIN_READER = "0.1.0"
REMAKE_HINT = "copy the file again or lift the scene again"
# Names that others may add: checked, and otherwise ignored.
EXTENSION = "x."
# Values in a manifest; those of a lift are some hundred.
MOST_VALUES = 8192
_MESSAGE = 160  # characters of a message that may quote a file

TENSORS = {
    "g.means": ("F32", "N 3"),
    "g.quats": ("F32", "N 4"),
    "g.log_scales": ("F32", "N 3"),
    "g.logit_opacities": ("F32", "N"),
    "g.sh": ("F16", "N K 3"),
    "g.features": ("F16", "N d"),
    "dec.weight": ("F32", "C d 3 3"),
    "dec.bias": ("F32", "C"),
    "cam.viewmats": ("F64", "V 4 4"),
    "cam.Ks": ("F64", "V 3 3"),
    "cam.sizes": ("I32", "V 2"),
    "cam.names_utf8": ("U8", "B"),
    "cam.names_offsets": ("I64", "E"),
    "cam.heldout": ("U8", "V"),
}
CONVENTIONS = {
    "cameras": "world to camera, OpenCV axes, pixel centres at +0.5, sizes as width height",
    "decoder": "3x3 convolution on the token grid, replicated border, plus bias",
    "gaussians": "quats wxyz of unit length, natural logs of scales, logits of opacities, "
    "SH colour + 0.5",
}

T = TypeVar("T")


@dataclass(frozen=True)
class TensorRecord:
    """What the manifest says of one tensor.

    Attributes:
        dtype: safetensors name.
        shape: Sizes of the dimensions.
        sha256: Hex digest of the bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything in an archive that is not a tensor.

    Attributes:
        version: Format version, ``major.minor``.
        min_reader: The oldest fit3d that reads this major version.
        name: Scene name.
        source: The backbone whose tokens were lifted.
        capture_digest: sha256 over the capture.
        metric: Whether the world unit is the metre.
        metrics: Held-out figures; NaN where there was nothing to measure.
        provenance: Versions, seed and the settings that differ from the defaults.
        tensors: One record per tensor of the file.
    """

    version: str
    min_reader: str
    name: str
    source: FeatureSource
    capture_digest: str
    metric: bool
    metrics: Mapping[str, float]
    provenance: Mapping[str, Any]
    tensors: Mapping[str, TensorRecord]

    def to_metadata(self) -> dict[str, str]:
        """The string table of the file: same manifest, same bytes."""
        text = canonical_json(
            {
                "version": self.version,
                "min_reader": self.min_reader,
                "conventions": CONVENTIONS,
                "name": self.name,
                "source": asdict(self.source),
                "capture_digest": self.capture_digest,
                "metric": self.metric,
                "metrics": self.metrics,
                "provenance": self.provenance,
                "tensors": {name: asdict(record) for name, record in self.tensors.items()},
            }
        )
        return {
            "format": FORMAT,
            "f3d_version": self.version,
            "f3d_min_reader": self.min_reader,
            "f3d_manifest": text,
            "f3d_sha256": sha256_bytes(text.encode()),
        }


def canonical_json(obj: Any) -> str:
    """JSON with one spelling: sorted keys, no spaces, ASCII, NaN as null, no absolute path."""
    return json.dumps(_plain(obj), sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse_manifest(header: Header, path: Path) -> Manifest:
    """Check a header against the schema and give its manifest.

    Raises:
        ArchiveError: Not an archive, one of a newer major version, or a damaged one.
    """
    metadata = header.metadata
    if metadata.get("format") != FORMAT:
        raise ArchiveError(
            "not a fit3d scene", where=path, hint="pass a .f3d file that fit3d lift wrote"
        )
    version = metadata.get("f3d_version", "")
    match = re.fullmatch(r"(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})", version)
    if match is None or match[1] == "0":
        raise _damaged(path, f"format version {version[:20]!r}")
    if int(match[1]) > MAJOR:
        needed = re.fullmatch(r"[0-9a-z.+]{1,20}", metadata.get("f3d_min_reader", ""))
        raise ArchiveError(
            f"written in format {version}, this fit3d reads {MAJOR}.x",
            where=path,
            hint=f"install fit3d {needed[0]} or newer" if needed else "install a newer fit3d",
        )
    text = metadata.get("f3d_manifest", "")
    if sha256_bytes(text.encode("utf-8", "replace")) != metadata.get("f3d_sha256"):
        raise _damaged(path, "the manifest does not match its checksum")
    # The header has no checksum of its own: it must be spelt as fit3d spells it.
    if not header.canonical:
        raise _damaged(path, "the header is not in canonical form")
    try:
        manifest = _from_json(text)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"malformed manifest: {error}") from error
    # The table repeats what a reader of another version needs; only the manifest has a checksum.
    if (manifest.version, manifest.min_reader) != (version, metadata.get("f3d_min_reader")):
        raise _damaged(path, "the versions in the header and in the manifest differ")
    _check_tensors(header.tensors, manifest, path)
    return manifest


def _from_json(text: str) -> Manifest:
    if not text.isascii():
        raise ValueError("it is not ASCII")
    data = strict_json(text.encode(), floats=True, most=MOST_VALUES)
    if "\\u" in text:  # half of a character that stands for no byte of a file name: a ValueError
        json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogateescape")
    source = _get(data, "source", dict)
    return Manifest(
        version=_get(data, "version", str),
        min_reader=_get(data, "min_reader", str),
        name=_get(data, "name", str),
        source=FeatureSource(
            backbone=_get(source, "backbone", str),
            weights_sha256=_get(source, "weights_sha256", str),
            **{key: _positive(source, key) for key in ("dim", "patch_size", "width", "height")},
        ),
        capture_digest=_get(data, "capture_digest", str),
        metric=_get(data, "metric", bool),
        metrics={
            key: math.nan if value is None else _number(value, key)
            for key, value in _get(data, "metrics", dict).items()
        },
        provenance=_get(data, "provenance", dict),
        tensors={
            name: TensorRecord(
                _get(record, "dtype", str),
                tuple(_natural(size, name) for size in _get(record, "shape", list)),
                _get(record, "sha256", str),
            )
            for name, record in _get(data, "tensors", dict).items()
        },
    )


def _get(table: Any, key: str, kind: type[T]) -> T:
    value = table[key]
    if type(value) is not kind:
        raise ValueError(f"{key} is not of type {kind.__name__}")
    return value


def _number(value: Any, key: str) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{key[:40]} is no number")
    return float(value)


def _natural(value: Any, name: str) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"the shape of {name[:40]} is not of natural numbers")
    return int(value)


def _positive(table: Any, key: str) -> int:
    value = _get(table, key, int)
    if not 0 < value < 2**31:
        raise ValueError(f"{key} is {value}")
    return value


def _check_tensors(tensors: Mapping[str, TensorInfo], manifest: Manifest, path: Path) -> None:
    listed = {name: (record.dtype, record.shape) for name, record in manifest.tensors.items()}
    present = {name: (info.dtype, info.shape) for name, info in tensors.items()}
    if listed != present:
        name = min(set(listed.items()) ^ set(present.items()))[0]
        raise _damaged(path, f"tensor {name[:64]} is not as the manifest lists it")
    missing = [name for name in TENSORS if name not in present]
    if missing:
        raise _damaged(path, f"holds no tensor {missing[0]}")
    for name, (dtype, _) in present.items():
        if name.startswith(EXTENSION):
            continue
        if name not in TENSORS:
            raise _damaged(path, f"unknown tensor {name}")
        if dtype != TENSORS[name][0]:
            raise _damaged(path, f"tensor {name} is {dtype}, expected {TENSORS[name][0]}")
    try:
        dims = check_dims(**{name: (tensors[name], shape) for name, (_, shape) in TENSORS.items()})
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if dims["K"] not in (1, 4, 9, 16):
        raise _damaged(path, f"g.sh has {dims['K']} coefficients, expected 1, 4, 9 or 16")
    if dims["E"] != dims["V"] + 1:
        raise _damaged(path, f"{dims['E']} name offsets for {dims['V']} views")
    if not dims["d"]:
        raise _damaged(path, "features of no channels")
    if dims["C"] != manifest.source.dim:
        raise _damaged(path, f"decoder makes {dims['C']} channels, not {manifest.source.dim}")


def _plain(value: Any) -> Any:
    """JSON types only; what a file must not tell about a machine is cut off."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (str, Path)):
        text = str(value)
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(text).is_absolute():
                text = kind(text).name
        return text
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _damaged(path: Path, what: str) -> ArchiveError:
    return ArchiveError(what[:_MESSAGE], where=path, hint=REMAKE_HINT)
