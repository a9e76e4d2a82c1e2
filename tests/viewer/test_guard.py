"""Who may talk to the viewer's server."""

from __future__ import annotations

import base64
import builtins
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fit3d_cli.errors import EnvironmentFault, SettingsError
from fit3d_cli.scene import Scene
from fit3d_cli.viewer.guard import allowed, free_port, start_server
from fit3d_cli.viewer.look import Look
from fit3d_cli.viewer.photos import Photos
from fit3d_cli.viewer.serve import Running, running, serve
from fit3d_cli.viewer.session import Session
from fit3d_cli.workspace import Workspace

viser = pytest.importorskip("viser")
PROTOCOL = f"viser-v{viser.__version__}"
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize(
    ("hosts", "origins", "answer"),
    [
        (["127.0.0.1:8080"], [], True),
        (["localhost:8080"], ["http://localhost:8080"], True),
        (["LOCALHOST:8080"], ["http://127.0.0.1:8080"], True),
        (["evil.example:8080"], [], False),  # a name that was rebound to this machine
        (["127.0.0.1"], [], False),
        (["127.0.0.1:9090"], [], False),
        ([], [], False),
        (["127.0.0.1:8080", "127.0.0.1:8080"], [], False),
        (["127.0.0.1:8080"], ["http://evil.example"], False),
        (["127.0.0.1:8080"], ["https://127.0.0.1:8080"], False),
        (["127.0.0.1:8080"], ["http://127.0.0.1:8080.evil.example"], False),
        (["127.0.0.1:8080"], ["http://127.0.0.1:9090"], False),
        (["127.0.0.1:8080"], ["null"], False),
        (["127.0.0.1:8080"], ["127.0.0.1:8080"], False),
        (["127.0.0.1:8080"], ["http://localhost:8080", "http://evil.example"], False),
        (["127.0.0.1:8080"], [""], False),
    ],
)
def test_who_is_answered(hosts: list[str], origins: list[str], answer: bool) -> None:
    assert allowed(hosts, origins, 8080) is answer


@pytest.fixture(scope="module")
def view(scene: Scene, home: Path) -> Iterator[Running]:
    session = Session(scene, Look(), most=10**6)
    photos = Photos(scene, Workspace(home))
    with running(session, photos, archive=home / "scenes/walls.f3d", port=0) as view:
        yield view


def ask(port: int, path: str = "/", *headers: str) -> tuple[int, str]:
    """Status and head of the answer to a request."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as link:
        link.sendall("\r\n".join([f"GET {path} HTTP/1.1", *headers, "", ""]).encode())
        data = b""
        while b"\r\n\r\n" not in data:
            part = link.recv(65536)
            if not part:
                break
            data += part
    head = data.partition(b"\r\n\r\n")[0].decode("latin-1")
    return int(head.split()[1]), head


def upgrade(
    port: int, origin: str | None, host: str | None = None, protocol: str = PROTOCOL
) -> int:
    key = base64.b64encode(os.urandom(16)).decode()
    headers = [
        f"Host: {host or f'127.0.0.1:{port}'}", "Upgrade: websocket", "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: {protocol}",
    ]  # fmt: skip
    headers += [] if origin is None else [f"Origin: {origin}"]
    return ask(port, "/", *headers)[0]


def test_requests(view: Running) -> None:
    own = f"Host: 127.0.0.1:{view.port}"
    status, head = ask(view.port, "/", own)
    assert status == 200
    assert "content-security-policy" in head.lower() and "frame-ancestors 'none'" in head
    assert ask(view.port, "/", f"Host: localhost:{view.port}")[0] == 200
    assert ask(view.port, "/", "Host: evil.example")[0] == 403
    assert ask(view.port, "/", f"Host: evil.example:{view.port}")[0] == 403
    assert ask(view.port, "/", own, "Origin: http://evil.example")[0] == 403
    paths = ["/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%5c..%5cx", "/etc/passwd"]
    for path in [*paths, "//etc/passwd", "/index.html/../../x"]:
        assert ask(view.port, path, own)[0] == 404, path
    for path in [
        "/.git/config",
        "/a/../index.html",
        "/a\\b",
        "/a%00",
        "/" + "a" * 300,
        "/%69ndex.html",
    ]:
        assert ask(view.port, path, own)[0] == 404, path
    assert ask(view.port, "/index.html?a=b", own)[0] == 200


def test_websockets(view: Running) -> None:
    assert upgrade(view.port, f"http://127.0.0.1:{view.port}") == 101
    assert upgrade(view.port, f"http://localhost:{view.port}", f"localhost:{view.port}") == 101
    assert upgrade(view.port, "http://evil.example") == 403
    assert upgrade(view.port, "null") == 403
    # viser would print what such a page calls itself.
    assert upgrade(view.port, f"http://127.0.0.1:{view.port}", protocol="viser-v0") == 403
    assert upgrade(view.port, None, "evil.example") == 403
    assert (
        upgrade(view.port, f"http://evil.example:{view.port}", f"evil.example:{view.port}") == 403
    )


def test_this_machine_only(view: Running) -> None:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        address, port = line.split()[1].split(":")
        if int(port, 16) == view.port and line.split()[3] == "0A":
            assert address == "0100007F"
            break
    else:
        pytest.fail("nobody listens")


def test_no_tunnel(view: Running) -> None:
    names = {message.__name__ for message in view.server._websock_server._incoming_handlers}
    assert not any("Share" in name or "File" in name or "Form" in name for name in names)
    assert "GuiUpdateMessage" in names  # the others are still there


def test_taken_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port(port) < port + 50
    with pytest.raises(SettingsError, match="--port"):
        free_port(65536)


def test_a_server_that_cannot_be_guarded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import viser

    stopped = []

    class Otherwise:
        def __init__(self, **_: Any) -> None: ...

        def stop(self) -> None:
            stopped.append(True)

    monkeypatch.setattr(viser, "ViserServer", Otherwise)
    with pytest.raises(EnvironmentFault, match="cannot be shielded"):
        start_server(0)
    assert stopped


def test_without_viser(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "viser":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EnvironmentFault, match=r"fit3d\[view\].*--sheet"):
        start_server(0)


def test_serving_ends_and_writes_nothing(
    scene: Scene, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    stop, urls = threading.Event(), list[str]()

    def ready(url: str) -> None:
        urls.append(url)
        port = int(url.rpartition(":")[2])
        assert ask(port, "/", f"Host: 127.0.0.1:{port}")[0] == 200
        stop.set()

    session = Session(scene, Look(), most=10**6)
    serve(session, Photos(scene, Workspace(home)), archive=home, port=0, on_ready=ready, stop=stop)
    assert urls[0].startswith("http://127.0.0.1:")
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(urls[0].rpartition(":")[2])), timeout=2)
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before
    assert not list(tmp_path.iterdir())


def test_interrupt_is_the_way_out(scene: Scene, home: Path) -> None:
    def ready(_: str) -> None:
        raise KeyboardInterrupt

    session = Session(scene, Look(), most=10**6)
    serve(session, Photos(scene, Workspace(home)), archive=home, port=0, on_ready=ready)
