"""Every failure a user can meet, with its exit code and its remedy.

The command line prints an error as one line,
``fit3d: error: <where>: <what> - <hint>``, and exits with ``exit_code``:
2 bad input or settings, 3 environment (device, memory, disk, network).
"""

from __future__ import annotations

from pathlib import Path


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
        line = f"{self.where}: {self.what}" if self.where else self.what
        line = f"{line} - {self.hint}" if self.hint else line
        # One line whatever a file name holds: control characters are shown escaped.
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


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


class OfflineError(EnvironmentFault):
    """Something has to be downloaded and the network does not answer."""
