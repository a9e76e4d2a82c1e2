"""Getting a file over HTTP: resumed, bounded in time and size, never to a weaker connection."""

from __future__ import annotations

import http.client
import ipaddress
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from typing import IO, Any

from fit3d_cli.storage import Partial

TIMEOUT = 10.0  # seconds without a byte
SLOWEST, WINDOW = 1024, 60.0  # bytes per second, over so many seconds
RETRIES, PAUSE = 3, 0.5  # without a new byte in between; seconds before the first, then doubled
_REDIRECTS = 5
_BLOCK = 1 << 18
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class Untrusted(Exception):
    """The server's answer is not to be believed; the message says why."""


class Unreachable(Exception):
    """No usable answer came in time; the message says what came."""


class Slow(Unreachable):
    """It comes so slowly that it would never end; asking again does not help."""


class Refused(Exception):
    """An answer with an error status.

    Attributes:
        status: The HTTP status.
        code: The hub's own word for it, e.g. ``EntryNotFound``, or an empty string.
    """

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.code = status, code


def headers_of(url: str, token: str | None) -> tuple[str, Mapping[str, str]]:
    """Ask for a file's headers; a redirect that carries the hub's own is not followed.

    Args:
        url: The file on the hub.
        token: Sent to this host and no other.

    Returns:
        Where they came from, and the headers in lower case.

    Raises:
        Untrusted: A redirect to a weaker connection, or without end.
        Unreachable: No answer in time.
        Refused: An error status.
    """
    for attempt in range(RETRIES + 1):
        try:
            with _open(url, "HEAD", {}, token, stop_at="x-linked-etag") as answer:
                return answer.url, {k.lower(): v for k, v in answer.headers.items()}
        except Unreachable:
            if attempt == RETRIES:
                raise
            time.sleep(PAUSE * 2**attempt)
    raise AssertionError


def fetch(url: str, token: str | None, part: Partial, size: int) -> Iterator[int]:
    """Download into ``part`` from where it stands; yields its size after each block.

    Args:
        url: The file.
        token: Sent to this host and no other.
        part: What is there already.
        size: Bytes of the whole file; not one more is taken.

    Raises:
        Untrusted: The server sends something else, or more than ``size``.
        Unreachable: It stops sending; what came is kept.
        Refused: An error status.
        StorageError: The disk refuses.
    """
    if part.size > size:
        part.discard()
    failures = 0
    while part.size < size:
        before = part.size
        try:
            for _ in _once(url, token, part, size):
                yield part.size
            if part.size < size:
                raise Unreachable(f"the connection ended at byte {part.size} of {size}")
        except Slow:
            raise
        except Unreachable:
            # A server that gives a few bytes per connection would keep us for ever.
            failures = failures + 1 if part.size < before + _BLOCK else 0
            if failures > RETRIES:
                raise
            time.sleep(PAUSE * 2**failures)


def _once(url: str, token: str | None, part: Partial, size: int) -> Iterator[None]:
    have = part.size
    ask = {"Range": f"bytes={have}-"} if have else {}
    with _open(url, "GET", ask, token) as answer:
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Untrusted("the server recodes the file")
        if answer.status == 206:
            if answer.headers.get("Content-Range") != f"bytes {have}-{size - 1}/{size}":
                raise Untrusted("the server sends another part of the file than was asked for")
        elif answer.status == 200:
            if have:  # it does not resume
                part.discard()
                have = 0
        else:
            raise Untrusted(f"the server answers with status {answer.status}")
        length = answer.headers.get("Content-Length")
        if length is not None and length != str(size - have):
            raise Untrusted(f"the server offers {length} bytes instead of {size - have}")
        began, mark = time.monotonic(), have
        while part.size < size:
            block = _read(answer, min(_BLOCK, size - part.size))
            if not block:
                return
            part.append(block)
            yield
            passed = time.monotonic() - began
            if passed > WINDOW:
                if part.size - mark < SLOWEST * passed:
                    raise Slow(f"fewer than {SLOWEST} bytes a second")
                began, mark = time.monotonic(), part.size
        if length is None and _read(answer, 1):
            raise Untrusted(f"the server sends more than the {size} bytes that it announced")


def _read(answer: Any, count: int) -> bytes:
    try:
        # One call of the system at a time, so that a slow server is noticed.
        block: bytes = answer.read1(count)
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(_said(error)) from error
    return block


@contextmanager
def _open(
    url: str, method: str, headers: Mapping[str, str], token: str | None, stop_at: str = ""
) -> Iterator[Any]:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise Untrusted(f"{url} is no web address")
    opener = urllib.request.build_opener(_Redirects(stop_at), _NoErrors())
    request = urllib.request.Request(url, method=method, headers={
        "User-Agent": "fit3d", "Accept-Encoding": "identity", **headers,
    })  # fmt: skip
    if token and (urllib.parse.urlsplit(url).scheme == "https" or _local(url)):
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        answer = opener.open(request, timeout=TIMEOUT)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unreachable(_said(error)) from error
    with answer:
        if answer.status in _TRANSIENT:
            raise Unreachable(f"the server answers with status {answer.status}")
        if answer.status >= 400:
            raise Refused(answer.status, str(answer.headers.get("X-Error-Code") or ""))
        yield answer


class _NoErrors(urllib.request.HTTPErrorProcessor):
    """Error statuses are answers like others; only redirects are acted upon."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        """See the class."""
        if response.status in (301, 302, 303, 307, 308):
            return super().http_response(request, response)
        return response

    https_response = http_response


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the same server, and to others over https.

    Args:
        stop_at: An answer with this header is taken as it is.
    """

    max_redirections = _REDIRECTS
    max_repeats = _REDIRECTS

    def __init__(self, stop_at: str) -> None:
        self._stop_at = stop_at

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message
    ) -> Any:
        """See the class."""
        if self._stop_at and self._stop_at in headers:
            return fp
        return super().http_error_302(req, fp, code, msg, headers)  # type: ignore[arg-type]

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any,
        newurl: str,
    ) -> urllib.request.Request:  # fmt: skip
        """See the class."""
        before, after = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if after.scheme != "https" and after[:2] != before[:2]:
            raise Untrusted(f"the server redirects to {after.scheme}://{after.netloc}")
        # Headers of the request go along; the token does not, it is an unredirected one.
        return urllib.request.Request(newurl, headers=req.headers, method=req.get_method())


def _local(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _said(error: BaseException) -> str:
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    text = str(inner).strip().splitlines()
    return text[0] if text else type(error).__name__
