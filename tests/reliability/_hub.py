"""A hub on this machine, honest or not."""

from __future__ import annotations

import hashlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

REPOSITORY, FILE = "timm/midget", "model.safetensors"
COMMIT = "c0ffee" * 6 + "cafe"
Handler = http.server.BaseHTTPRequestHandler


class Hub:
    """What the server does.

    Args:
        data: The file.
        tricks: ``head`` changes the headers of the hub's answer, ``get`` answers a download in
            its stead (False: as usual).
    """

    def __init__(self, data: bytes, **tricks: Callable[..., Any]) -> None:
        self.data, self.tricks = data, tricks
        self.sent = 0  # bytes of the file
        self.tokens: dict[str, str] = {}  # by the first part of the path
        self.asked: list[str] = []
        self.address = ""

    def head(self) -> dict[str, str]:
        told = {
            "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": f'"{hashlib.sha256(self.data).hexdigest()}"',
            "X-Linked-Size": str(len(self.data)),
            "Location": f"{self.address}/cdn/blob",
        }
        change = self.tricks.get("head")
        return told | (change(self) if change else {})

    def answer(self, handler: Handler) -> None:
        first = handler.path.split("/")[1]
        self.tokens[first] = handler.headers.get("Authorization", "")
        self.asked.append(f"{handler.command} {handler.path}")
        if first != "cdn":
            told = {k: v for k, v in self.head().items() if v}
            status = int(told.pop("status", "302"))
            reply(handler, status, told)
            return
        trick = self.tricks.get("get")
        if trick is None or trick(self, handler) is False:
            self.serve(handler, self.data)

    def serve(self, handler: Handler, data: bytes, *, resumes: bool = True) -> None:
        """The file, or the rest of it that was asked for."""
        asked = handler.headers.get("Range", "") if resumes else ""
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        told = {"Content-Length": str(len(data) - begin)}
        if asked:
            told["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        reply(handler, 206 if asked else 200, told, data[begin:])
        self.sent += len(data) - begin


def reply(handler: Handler, status: int, headers: dict[str, str], body: bytes = b"") -> None:
    """One answer; the connection is closed after it."""
    handler.send_response(status)
    for name, value in {"Connection": "close", **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        for at in range(0, len(body), 16384):
            handler.wfile.write(body[at : at + 16384])


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve it on a port of this machine."""

    class Requests(Handler):
        def do_GET(self) -> None:
            with suppress(OSError):  # the client may hang up
                hub.answer(self)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def tampered(data: bytes) -> dict[str, tuple[bool, dict[str, Callable[..., Any]]]]:
    """Servers that should not be believed: whether the download may succeed, and the tricks."""
    other = hashlib.sha256(b"other").hexdigest()
    wrong = bytes([data[0] ^ 1]) + data[1:]
    size = len(data)

    def sends(body: bytes, status: int = 200, **headers: str) -> Callable[..., Any]:
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        return lambda hub, handler: reply(handler, status, told, body)

    def tells(**headers: str) -> Callable[..., Any]:
        return lambda hub: {name.replace("_", "-"): value for name, value in headers.items()}

    def hangs(after: int) -> Callable[..., Any]:
        def get(hub: Hub, handler: Handler) -> None:
            if after >= 0:
                handler.send_response(200)
                handler.send_header("Content-Length", str(size))
                handler.end_headers()
                handler.wfile.write(data[:after])
                handler.wfile.flush()
            time.sleep(1.5)

        return get

    def drips(hub: Hub, handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for at in range(400):
            handler.wfile.write(data[at : at + 1])
            handler.wfile.flush()
            time.sleep(0.02)

    def stops_at(share: float) -> Callable[..., Any]:
        # Half of the file, whatever is asked for.
        return lambda hub, handler: reply(
            handler, 200, {"Content-Length": str(size)}, data[: int(size * share)]
        )

    def once(trick: Callable[..., Any]) -> Callable[..., Any]:
        done: list[bool] = []

        def get(hub: Hub, handler: Handler) -> Any:
            if done:
                return False
            done.append(True)
            return trick(hub, handler)

        return get

    def junk(hub: Hub, handler: Handler) -> None:
        handler.wfile.write(b"\x00\x01\x02 not HTTP at all\r\n\r\n")

    def shifted(hub: Hub, handler: Handler) -> Any:
        if "Range" not in handler.headers:
            return stops_at(0.5)(hub, handler)
        return reply(handler, 206, {"Content-Range": f"bytes 0-{size - 1}/{size}"}, data)

    def whole_again(body: bytes) -> Callable[..., Any]:
        def get(hub: Hub, handler: Handler) -> Any:
            if "Range" not in handler.headers:
                return stops_at(0.5)(hub, handler)
            return hub.serve(handler, body, resumes=False)

        return get

    away = "http://127.0.0.2:9/blob"
    page = b"<!DOCTYPE html><html><body>Sign in to the network</body></html>"
    servers: dict[str, tuple[bool, dict[str, Callable[..., Any]]]] = {
        "ends half-way, always": (False, {"get": stops_at(0.5)}),
        "ends half-way, once": (True, {"get": once(stops_at(0.5))}),
        "one byte too few": (False, {"get": sends(data[:-1], Content_Length=str(size - 1))}),
        "one byte too many, announced": (
            False, {"get": sends(data + b"x", Content_Length=str(size + 1))}
        ),
        "one byte too many, not announced": (False, {"get": sends(data + b"x")}),
        "another byte": (False, {"get": sends(wrong, Content_Length=str(size))}),
        "zeros": (False, {"get": sends(bytes(size), Content_Length=str(size))}),
        "digest of something else": (False, {"head": tells(X_Linked_Etag=f'"{other}"')}),
        "no digest": (False, {"head": tells(X_Linked_Etag="")}),
        "a git digest": (False, {"head": tells(X_Linked_Etag='"' + "a" * 40 + '"')}),
        "a digest that is a path": (False, {"head": tells(X_Linked_Etag='"../../../../x"')}),
        "no commit": (False, {"head": tells(X_Repo_Commit="")}),
        "a commit that is a path": (False, {"head": tells(X_Repo_Commit="../" * 13 + "x")}),
        "a larger size": (False, {"head": tells(X_Linked_Size=str(size + 1))}),
        "a smaller size": (False, {"head": tells(X_Linked_Size=str(size - 1))}),
        "a size beyond all": (False, {"head": tells(X_Linked_Size="9" * 30)}),
        "200 for 206, right": (True, {"get": whole_again(data)}),
        "200 for 206, wrong": (False, {"get": whole_again(wrong)}),
        "another range": (False, {"get": shifted}),
        "redirect to another host": (False, {"get": sends(b"", 302, Location=away)}),
        "redirect to a file": (False, {"get": sends(b"", 302, Location="file:///etc/passwd")}),
        "redirect to itself": (False, {"get": sends(b"", 302, Location="/cdn/blob")}),
        "redirect to nowhere": (False, {"get": sends(b"", 302)}),
        "500, always": (False, {"get": sends(b"", 500)}),
        "503, once": (True, {"get": once(sends(b"", 503))}),
        "503 for the headers": (False, {"head": tells(status="503")}),
        "hangs before it answers": (False, {"get": hangs(-1)}),
        "hangs half-way": (False, {"get": hangs(size // 2)}),
        "drips": (False, {"get": drips}),
        "gzip": (False, {"get": sends(data, Content_Encoding="gzip")}),
        "a page": (False, {"get": sends(page, Content_Type="text/html",
                                        Content_Length=str(len(page)))}),
        "nothing": (False, {"get": sends(b"", Content_Length="0")}),
        "no content": (False, {"get": sends(b"", 204)}),
        "no HTTP": (False, {"get": junk}),
        "not given out": (False, {"head": tells(status="401")}),
        "not there": (False, {"head": tells(status="404", X_Error_Code="EntryNotFound")}),
    }  # fmt: skip
    return servers
