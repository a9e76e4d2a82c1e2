"""Making a source a capture: once, whole or not at all.

The capture is filled in a temporary folder beside its place, checked by reading it, forced to
disk and renamed. ``source.json`` in it holds a digest of the source's files and of the options
that matter, and the size of every file, so that a later run knows finished work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from fit3d_cli import storage
from fit3d_cli.capture.read import read_capture
from fit3d_cli.capture.sources.base import SOURCES, Source, SourceOptions
from fit3d_cli.capture.sources.facts import FACTS, read_facts
from fit3d_cli.errors import CaptureError, ImageError, StorageError
from fit3d_cli.progress import OnEvent, Progress

# Raised whenever the same source and options would give another capture.
_ALGORITHM = 1


def prepare_source(
    path: Path, kind: str, folder: Path, options: SourceOptions, on_event: OnEvent
) -> bool:
    """Make a source a capture.

    Args:
        path: The source.
        kind: Its name in ``SOURCES``.
        folder: Where the capture goes; replaced if it was made from something else.
        options: How.
        on_event: Told about progress.

    Returns:
        True if it was made, False if it was there already.

    Raises:
        CaptureError: The source is damaged or too poor.
        ImageError: A picture of it cannot be read.
        EnvironmentFault: Something that it needs is not installed.
        StorageError: No space.
    """
    source = SOURCES.get(kind)
    files = _files(source, path)
    stage = f"{folder.name}: {_short(source, path)}"
    on_event(Progress(stage, 0, 1))
    digest = _digest(kind, source, path, files, options)
    if _finished(folder, digest):
        on_event(Progress(stage, 1, 1, f"kept {folder}"))
        return False
    on_event(Progress(stage, 1, 1, f"becomes {folder}"))

    def waiting(holder: str) -> None:
        on_event(Progress(f"{folder.name}: waiting", 0, 0, f"being made by {holder}"))

    alone = storage.locked(folder, blocking=True, on_wait=waiting)
    with _leaving_no_empty_folders(folder), alone:
        if _finished(folder, digest):  # by another process, meanwhile
            return False
        if folder.exists() and not (folder / FACTS).is_file():
            raise CaptureError(
                "is in the way: fit3d did not make it", where=folder, hint="move it elsewhere"
            )
        room = source.room(path) if source.room else sum(map(_size, files))
        storage.require_room(folder, room)
        with storage.temporary_folder(folder) as temporary:
            source.make(path, temporary, options, on_event)
            _check(path, temporary)
            told = read_facts(temporary)
            storage.write_json(
                temporary / FACTS,
                {
                    "source": kind,
                    "digest": digest,
                    "options": _used(source, options),
                    "notes": told.get("notes", []),
                    "figures": told.get("figures", {}),
                    "files": _sizes(temporary),
                },
            )
    return True


@contextmanager
def _leaving_no_empty_folders(folder: Path) -> Iterator[None]:
    """After a failure the folders that were made on the way to ``folder`` go again."""
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        yield
    except BaseException:
        for parent in made:  # the innermost first
            with suppress(OSError):
                parent.rmdir()
        raise


def _short(source: Source, path: Path) -> str:
    return source.describe(path) if source.describe else source.layout


def _check(path: Path, made: Path) -> None:
    """What was made must be readable; an error names the source, not the temporary folder."""
    try:
        read_capture(made)
    except (CaptureError, ImageError) as error:
        where = error.where.replace(str(made), str(path)).replace(str(made.resolve()), str(path))
        raise type(error)(error.what, where=where, hint=error.hint) from error


def _files(source: Source, path: Path) -> list[Path]:
    try:
        return source.files(path)
    except OSError as error:
        raise CaptureError(
            f"cannot be read ({error.strerror})", where=path, hint="check the permissions"
        ) from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise CaptureError(
            f"cannot be read ({error.strerror})", where=path, hint="check the permissions"
        ) from error


def _used(source: Source, options: SourceOptions) -> dict[str, object]:
    return {name: value for name, value in asdict(options).items() if name in source.options}


def _digest(
    kind: str, source: Source, path: Path, files: list[Path], options: SourceOptions
) -> str:
    total = hashlib.sha256()
    total.update(json.dumps([_ALGORITHM, kind, _used(source, options)], sort_keys=True).encode())
    for file in files:
        name = file.relative_to(path).as_posix() if file != path else file.name
        try:
            content = storage.sha256_file(file)
        except StorageError as error:
            raise CaptureError(error.what, where=file, hint=error.hint) from error
        total.update(f"{name}\0{content}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _sizes(folder: Path) -> dict[str, int]:
    """Name and size of every file; ``source.json`` itself cannot know its own."""
    return {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != FACTS
    }


def _finished(folder: Path, digest: str) -> bool:
    """Whether the capture is there, made from the same things, and nothing of it is gone."""
    facts = read_facts(folder)
    if facts.get("digest") != digest:
        return False
    try:
        return bool(facts.get("files") == _sizes(folder))
    except OSError:
        return False
