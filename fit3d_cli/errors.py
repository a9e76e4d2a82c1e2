"""Every failure a user can meet, with its exit code and its remedy.

The command line prints an error as one line,
``fit3d: error: <where>: <what> - <hint>``, and exits with ``exit_code``:
2 bad input or settings, 3 environment (device, memory, disk, network).
"""

from __future__ import annotations

from pathlib import Path

# A line on the terminal, "fit3d: error: " included; what is wrong and where give way to the remedy.
LONGEST = 240
_PREFIX = len("fit3d: error: ")
_LEAST, _LEAST_NEAR = 60, 48


class Fit3dError(Exception):
    """A failure that the user can mend.

    Args:
        what: What is wrong, without the file name and without a full stop.
        where: The file, directory, option or setting that is at fault.
        hint: What to do about it, as an imperative.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | Path = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = str(where)
        self.hint = hint

    def __str__(self) -> str:
        """One line of at most ``LONGEST`` characters, whatever the names in it hold.

        A long path loses its middle first, then what is wrong does. Only a remedy that is longer
        itself makes the line longer: commands in it must stay whole.
        """
        where, what, hint = (_printable(t) for t in (_near(self.where), self.what, self.hint))
        where = _fitted(where, 1 / 4, len(_line(where, what, hint)))
        what = _fitted(what, 2 / 3, len(_line(where, what, hint)))
        where = _fitted(where, 1 / 4, len(_line(where, what, hint)), _LEAST_NEAR)
        return _line(where, what, hint)


def _line(where: str, what: str, hint: str) -> str:
    line = f"{where}: {what}" if where else what
    return f"{line} - {hint}" if hint else line


def _near(where: str) -> str:
    """A path as seen from the working directory, if it lies below."""
    try:
        return where.removeprefix(f"{Path.cwd()}/")
    except OSError:  # the directory is gone
        return where


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _fitted(text: str, ahead: float, length: int, least: int = _LEAST) -> str:
    """``text`` without its middle, where a line of ``length`` that holds it is too long."""
    size = max(least, len(text) - max(0, length + _PREFIX - LONGEST))
    if len(text) <= size:
        return text
    head = int((size - 3) * ahead)
    return f"{text[:head]}...{text[len(text) - (size - 3 - head) :]}"


class SettingsError(Fit3dError):
    """An unknown, ill-typed or contradictory setting or option."""


class UnknownNameError(Fit3dError):
    """A backbone, reader, dataset or profile that is not registered."""


class CaptureError(Fit3dError):
    """A capture directory that is missing, damaged or not understood."""


class ImageError(Fit3dError):
    """A picture that cannot be read as what it claims to be."""


class ArchiveError(Fit3dError):
    """A ``.f3d`` archive or a file of Gaussians that is damaged, foreign or too new."""


class WeightsError(Fit3dError):
    """Backbone weights that are missing or do not fit the architecture."""


class DatasetError(Fit3dError):
    """An evaluation dataset that is absent or not laid out as expected."""


class EnvironmentFault(Fit3dError):
    """The machine cannot do it: device, memory, disk or network."""

    exit_code = 3


class DeviceError(EnvironmentFault):
    """A device that was asked for is absent or not supported by this build."""


class StorageError(EnvironmentFault):
    """A file could not be written: no space, no permission, failing disk."""


class MemoryFault(EnvironmentFault):
    """The memory of the machine or of the device does not suffice."""


class OfflineError(EnvironmentFault):
    """Something has to be downloaded and the network does not answer."""


def size_text(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
