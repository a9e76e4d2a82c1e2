"""What a download was the first time, so that it is that or nothing ever after.

A pin holds revision, size and sha256 of one file of one repository. Like the keys of known hosts,
pins lie in the user's configuration (``$FIT3D_PINS``, else ``$XDG_CONFIG_HOME/fit3d/pins.json``,
else ``~/.config/fit3d/pins.json``), not in a cache that is emptied now and then. A team may
write the file itself, or share one.
"""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fit3d_cli import storage
from fit3d_cli.errors import StorageError, WeightsError

_SHA256, _REVISION = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Pin:
    """One version of one file.

    Attributes:
        revision: Commit of the repository, 40 hexadecimal digits.
        sha256: Of the file, 64 hexadecimal digits.
        size: Bytes.
    """

    revision: str
    sha256: str
    size: int


def pins_path() -> Path:
    """Where the pins lie."""
    named = os.environ.get("FIT3D_PINS")
    if named:
        return Path(named).expanduser()
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "fit3d" / "pins.json"


def read_pin(repository: str, file: str) -> Pin | None:
    """The pin of a file; None where it was never downloaded.

    Raises:
        WeightsError: The pins are damaged.
    """
    known = _read().get(f"{repository}/{file}")
    if known is None:
        return None
    try:
        pin = Pin(str(known["revision"]), str(known["sha256"]), int(known["size"]))
        whole = _SHA256.fullmatch(pin.sha256) and _REVISION.fullmatch(pin.revision) and pin.size > 0
    except (KeyError, TypeError, ValueError):
        whole = None
    if not whole:
        raise _damaged(f"the entry {repository}/{file} is")
    return pin


def write_pin(repository: str, file: str, pin: Pin) -> None:
    """Remember what a file was. A directory that cannot be written to is only worth a warning.

    Raises:
        WeightsError: The pins are damaged.
    """
    path = pins_path()
    try:
        with storage.locked(path, blocking=True):
            storage.write_json(path, _read() | {f"{repository}/{file}": asdict(pin)})
    except StorageError as error:
        logging.getLogger(__name__).warning("the weights are not pinned: %s", error)


def differs(repository: str, file: str, pin: Pin, found: str) -> WeightsError:
    """The refusal of a file that is not what was pinned."""
    return WeightsError(
        f"sha256 {found[:12]}... is not what it was ({pin.sha256[:12]}...)",
        where=f"{repository}/{file}",
        hint=f"if the change is meant, delete its entry in {pins_path()}; else use --weights FILE",
    )


def _read() -> dict[str, Any]:
    try:
        known = json.loads(pins_path().read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _damaged("they are") from error
    if not isinstance(known, dict):
        raise _damaged("they are")
    return known


def _damaged(which: str) -> WeightsError:
    return WeightsError(
        f"the pins of downloads cannot be used: {which} not readable",
        where=pins_path(),
        hint="mend or delete it",
    )
