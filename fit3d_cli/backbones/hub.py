"""Weights from the Hugging Face hub, in its own cache: resolved, pinned, resumed and verified.

The hub's answer names the commit, the size and the sha256 of a file. It is downloaded from that
commit under a temporary name, whoever sends it, and gets its name only if all three are right.
The first download is pinned (``pins.py``); a file in the cache is hashed each time before use.
"""

from __future__ import annotations

import logging
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from fit3d_cli import storage
from fit3d_cli.backbones import fetching
from fit3d_cli.backbones.pins import Pin, differs, read_pin, write_pin
from fit3d_cli.errors import OfflineError, WeightsError

_CONNECT_SECONDS = 5.0
_LARGEST = 64 << 30  # bytes; no backbone is larger
_SHA256, _REVISION = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


def hub_file(repository: str, file: str, name: str) -> Path:
    """A file of the hub's, in the cache, verified; downloaded if need be.

    Args:
        repository: ``owner/name``.
        file: Its name in the repository.
        name: What the user called the backbone, for errors.

    Raises:
        OfflineError: It has to be downloaded and the hub does not answer, or stops answering.
        WeightsError: The hub does not give it out, or it is not what it says or what was pinned.
        StorageError: The disk refuses.
    """
    pin = read_pin(repository, file)
    cached = cached_file(repository, file)
    if cached is not None and _is_sound(cached, repository, file, pin):
        return cached
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or not _answers():
        raise OfflineError(
            f"the weights are not in the cache and the hub ({endpoint()}) does not answer",
            where=name,
            hint=f"download {repository}/{file} elsewhere and use --weights FILE",
        )
    try:
        return _download(repository, file, pin)
    except fetching.Refused as error:
        raise _refused(error, repository, file, name) from error
    except fetching.Untrusted as error:
        raise WeightsError(
            f"the download is not to be trusted: {error}", where=name,
            hint=f"check {endpoint()} and your network, or use --weights FILE",
        ) from error  # fmt: skip
    except fetching.Unreachable as error:
        raise OfflineError(
            f"the download failed ({error})", where=name,
            hint="try again, it goes on where it stopped; or use --weights FILE",
        ) from error  # fmt: skip


def cached_file(repository: str, file: str) -> Path | None:
    """Where a file is in the hub's cache, at the pinned revision if it is pinned; not verified.

    Raises:
        WeightsError: The pins are damaged.
    """
    import huggingface_hub

    pin = read_pin(repository, file)
    wanted = {"revision": pin.revision} if pin is not None else {}
    found = huggingface_hub.try_to_load_from_cache(repository, file, **wanted)
    if not isinstance(found, str) and wanted:  # of another revision: told apart by its digest
        found = huggingface_hub.try_to_load_from_cache(repository, file)
    return Path(found) if isinstance(found, str) else None


def endpoint() -> str:
    """The hub's address (``HF_ENDPOINT``)."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT).rstrip("/")


def _is_sound(cached: Path, repository: str, file: str, pin: Pin | None) -> bool:
    """Whether a cached file is what it should be; one that is damaged is removed.

    Raises:
        WeightsError: It is damaged and cannot be removed.
    """
    stored = cached.resolve()
    found = storage.sha256_file(stored)
    if pin is not None and found == pin.sha256:
        return True
    # The cache names a file by its sha256 where the hub gives one.
    named = stored.name if _SHA256.fullmatch(stored.name) else found
    if named != found:
        logging.getLogger(__name__).warning("%s is damaged: it is downloaded again", stored)
        for path in (cached, stored):
            with suppress(OSError):
                path.unlink()
        if stored.exists():
            raise WeightsError("is damaged", where=stored, hint="remove it from the cache")
        return False
    if pin is not None:
        logging.getLogger(__name__).warning("%s is not what was pinned: it is left alone", stored)
        return False
    revision = cached.parts[-len(Path(file).parts) - 1]
    if _REVISION.fullmatch(revision):
        write_pin(repository, file, Pin(revision, found, stored.stat().st_size))
    return True


def _download(repository: str, file: str, pin: Pin | None) -> Path:
    """See ``hub_file``; raises what ``fetching`` raises, too."""
    from huggingface_hub import constants, get_token

    token = get_token()
    offered = _offered(*fetching.headers_of(
        _url(repository, pin.revision if pin else "main", file), token
    ))  # fmt: skip
    if pin is not None and offered != pin:
        raise differs(repository, file, pin, offered.sha256)
    folder = Path(constants.HF_HUB_CACHE)
    folder = folder / ("models--" + repository.replace("/", "--"))
    blob = folder / "blobs" / offered.sha256
    part = storage.Partial(blob)
    with storage.locked(blob, blocking=True):
        if not blob.exists():  # made by another process, meanwhile; or with the link lost
            storage.require_room(blob, max(offered.size - part.size, 0))
            _fill(part, _url(repository, offered.revision, file), token, offered)
            part.publish()
        elif storage.sha256_file(blob) != offered.sha256:
            blob.unlink()
            raise fetching.Unreachable("a damaged file was in the cache; it is removed")
        link = folder / "snapshots" / offered.revision / file
        up = "../" * (len(Path(file).parts) + 1)
        storage.write_link(link, f"{up}blobs/{offered.sha256}")
        if pin is None:
            storage.write_text(folder / "refs" / "main", offered.revision)
            write_pin(repository, file, offered)
    return link


def _fill(part: storage.Partial, url: str, token: str | None, offered: Pin) -> None:
    """Download what is missing; what is wrong is thrown away at once."""
    try:
        for _ in fetching.fetch(url, token, part, offered.size):
            pass
        found = storage.sha256_file(part.there)
    except fetching.Untrusted:
        part.discard()
        raise
    if found != offered.sha256:
        part.discard()
        raise fetching.Untrusted(
            f"sha256 is {found[:12]}..., the hub announced {offered.sha256[:12]}..."
        )


def _offered(where: str, headers: Mapping[str, str]) -> Pin:
    """What the hub says of a file."""
    revision = headers.get("x-repo-commit", "")
    etag = headers.get("x-linked-etag") or headers.get("etag") or ""
    digest = etag.removeprefix("W/").strip('"')
    size = headers.get("x-linked-size") or headers.get("content-length") or ""
    if not _REVISION.fullmatch(revision):
        raise fetching.Untrusted(f"{urllib.parse.urlsplit(where).netloc} names no commit")
    if not _SHA256.fullmatch(digest):
        raise fetching.Untrusted("no sha256 is given for the file")
    if not size.isascii() or not size.isdigit() or not 0 < int(size) <= _LARGEST:
        raise fetching.Untrusted(f"{size[:20] or 'nothing'} is no size for it")
    return Pin(revision, digest, int(size))


def _url(repository: str, revision: str, file: str) -> str:
    return f"{endpoint()}/{repository}/resolve/{revision}/{urllib.parse.quote(file)}"


def _refused(
    error: fetching.Refused, repository: str, file: str, name: str
) -> WeightsError | OfflineError:
    if error.code == "EntryNotFound":
        return WeightsError(f"{repository} has no {file}", where=name, hint="use --weights FILE")
    if error.code == "RevisionNotFound":
        return WeightsError(
            f"{repository} has the pinned revision no more", where=name,
            hint="use --weights FILE, or delete its pin to take the present one",
        )  # fmt: skip
    if error.status in (401, 403) or error.code in ("GatedRepo", "RepoNotFound"):
        return WeightsError(
            f"the hub does not give out {repository}",
            where=name,
            hint=f"accept its licence on {endpoint()}/{repository} and set HF_TOKEN, or use"
            " --weights FILE",
        )
    return OfflineError(
        f"the download failed ({error})", where=name, hint="try again, or use --weights FILE"
    )


def _answers() -> bool:
    """One quick connection, before the longer patience of a download."""
    url = urllib.parse.urlsplit(endpoint())
    if urllib.request.getproxies().get(url.scheme):
        return True  # only the proxy may reach it; the download will tell
    try:
        port = url.port or (80 if url.scheme == "http" else 443)
        socket.create_connection((url.hostname or "", port), _CONNECT_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True
