"""The viewer's server: this machine only, and no page of another site may talk to it.

viser serves one page and one websocket. A site that the user happens to visit could open that
websocket, or reach it through a name that resolves to 127.0.0.1; both show in the headers that
browsers send. So every request must name this server as its host, and an origin, where there is
one, must be this server's own page.

What a program on this machine may do is bounded too: few connections, small messages, plain paths,
and none of viser's messages that this viewer does not use (uploads, the public tunnel).
"""

from __future__ import annotations

import contextlib
import http
import io
import logging
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

from fit3d_cli.errors import EnvironmentFault, SettingsError

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")
_TRIES = 100
MAX_MESSAGE = 1 << 20  # bytes that a page may send at once; clicks and cameras are small
MAX_CONNECTIONS = 64  # sockets at a time
MAX_PAGES = 8  # websockets: each is sent the scene
OPEN_SECONDS = 5.0  # within which a request must be complete
CLOSE_SECONDS = 1.0  # that a page has to say goodbye
_LONGEST = 255  # characters of a path
# Names of files as viser's page has them: no dot first, no escapes, no empty part.
_PATH = re.compile(r"/(?:[\w@-][\w.@-]*/)*(?:[\w@-][\w.@-]*)?(?:\?[\x20-\x7e]*)?", re.ASCII)
# What the page may tell this viewer: controls, clicks and cameras.
_UNUSED = ("ShareUrlRequest", "ShareUrlDisconnect", "FileTransferStartUpload", "FileTransferPart",
           "CommandTriggerMessage", "GuiFormSubmitMessage", "GuiFormDirtyMessage")  # fmt: skip
# What the page may load: itself, and what it makes in memory. Nothing of any other host.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "connect-src 'self' data: blob: ws://{host}; frame-ancestors 'none'; form-action 'none'"
)
_HINT = "pip install 'fit3d[view]', or use --sheet for a picture of the held-out views"

Hook = Callable[[Any, Any], Any]


def allowed(hosts: list[str], origins: list[str], port: int) -> bool:
    """Whether a request with these ``Host`` and ``Origin`` headers may be answered.

    Args:
        hosts: All ``Host`` headers; exactly one is right.
        origins: All ``Origin`` headers; programs that are no browsers send none.
        port: Where the server listens.
    """
    own = {f"{name}:{port}" for name in _NAMES}
    if port == 80:
        own |= set(_NAMES)
    if len(hosts) != 1 or hosts[0].lower() not in own or len(origins) > 1:
        return False
    return all(origin.lower().removeprefix("http://") in own and "://" in origin
               for origin in origins)  # fmt: skip


def free_port(wanted: int) -> int:
    """``wanted`` or the next free port of this machine.

    Raises:
        SettingsError: None of a hundred is free.
    """
    for port in range(wanted, min(wanted + _TRIES, 65536)):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                trial.bind((HOST, port))
                return port
    raise SettingsError(
        f"no free port from {wanted} on", where="--port", hint="name another with --port"
    )


def import_viser() -> Any:
    """The viser package.

    Raises:
        EnvironmentFault: It is not installed.
    """
    try:
        import viser
    except ImportError as error:
        raise EnvironmentFault("the viewer needs viser", where="viser", hint=_HINT) from error
    return viser


def start_server(port: int) -> Any:
    """A viser server behind the checks.

    Args:
        port: Wanted port; the next free one is taken.

    Returns:
        The ``ViserServer``, listening on 127.0.0.1.

    Raises:
        SettingsError: No port is free.
        EnvironmentFault: viser is missing, or not one that can be guarded.
    """
    viser = import_viser()
    chosen = free_port(port)
    # viser has no option for this, so the function that it listens with is wrapped while it
    # starts; a viser that listens otherwise is refused, never left open.
    with _checked_requests() as installed, contextlib.redirect_stdout(io.StringIO()):
        server = viser.ViserServer(host=HOST, port=chosen, label="fit3d", verbose=False)
    if not installed:
        server.stop()
        raise EnvironmentFault(
            f"viser {viser.__version__} cannot be shielded from other sites", where="viser",
            hint="pip install 'viser>=1.0,<2'",
        )  # fmt: skip
    _forbid_unused(server)
    # A client that hangs up or is refused is no error of ours, and no traceback of theirs.
    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)
    return server


def _forbid_unused(server: Any) -> None:
    """Take away what any connected page could ask for: viser's public tunnel, and uploads."""
    messages = import_viser()._messages
    for name in _UNUSED:
        with contextlib.suppress(AssertionError, AttributeError, ValueError):
            server._websock_server.unregister_handler(getattr(messages, name))


@contextlib.contextmanager
def _checked_requests() -> Iterator[list[int]]:
    import websockets.asyncio.server as listening

    serve, installed = listening.serve, list[int]()
    protocol = f"viser-v{import_viser().__version__}"

    def guarded(*arguments: Any, process_request: Hook | None = None, **options: Any) -> Any:
        installed.append(1)
        bounds = {"max_size": MAX_MESSAGE, "max_queue": 16, "open_timeout": OPEN_SECONDS,
                  "close_timeout": CLOSE_SECONDS,
                  "create_connection": _few_connections(listening.ServerConnection)}  # fmt: skip
        checked = _checking(process_request, protocol)
        return serve(*arguments, process_request=checked, **(options | bounds))

    listening.serve = guarded  # type: ignore[assignment, misc]
    try:
        yield installed
    finally:
        listening.serve = serve  # type: ignore[misc]


def _few_connections(kind: type[Any]) -> type[Any]:
    """``kind``, of which at most ``MAX_CONNECTIONS`` are open at a time.

    One too many ends the oldest that has not said yet what it wants, so that whoever opens
    connections and is silent keeps nobody out.
    """
    live: dict[Any, None] = {}

    class Counted(kind):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            live[self] = None
            if len(live) > MAX_CONNECTIONS:
                silent = (one for one in live if one.protocol.state.name == "CONNECTING")
                next(silent, self).transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            live.pop(self, None)
            super().connection_lost(exc)

    return Counted


def _checking(inner: Hook | None, protocol: str) -> Hook:
    from websockets.datastructures import Headers
    from websockets.http11 import Response

    pages: set[Any] = set()

    def answer(status: http.HTTPStatus, words: str) -> Any:
        body = f"fit3d: {words}\n".encode()
        about = Headers({"Content-Type": "text/plain", "Content-Length": str(len(body)),
                         "Connection": "close"})  # fmt: skip
        return Response(status.value, status.phrase, about, body)

    def check(connection: Any, request: Any) -> Any:
        port = connection.local_address[1]
        headers = request.headers
        if not allowed(headers.get_all("Host"), headers.get_all("Origin"), port):
            return answer(http.HTTPStatus.FORBIDDEN, "this viewer answers its own page only")
        if len(request.path) > _LONGEST or not _PATH.fullmatch(request.path):
            return answer(http.HTTPStatus.NOT_FOUND, "no such file")
        if headers.get_all("Upgrade"):
            # viser prints the version that a page claims to have; ours has exactly one.
            if headers.get_all("Sec-WebSocket-Protocol") != [protocol]:
                return answer(http.HTTPStatus.FORBIDDEN, "this viewer answers its own page only")
            pages.intersection_update({page for page in pages if page.transport is not None
                                       and not page.transport.is_closing()})  # fmt: skip
            if len(pages) >= MAX_PAGES:
                return answer(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many pages are open")
            pages.add(connection)
        response = None if inner is None else inner(connection, request)
        if response is not None:
            response.headers["Content-Security-Policy"] = _POLICY.format(host=headers["Host"])
            response.headers["X-Content-Type-Options"] = "nosniff"
            response.headers["Referrer-Policy"] = "no-referrer"
            response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response

    return check
