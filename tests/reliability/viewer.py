"""The viewer's server against what other pages, other programs and odd requests can do."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import select
import signal
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.reliability._watched import Watch
from tests.reliability.base import CannotRun, Outcome, Trial, check

TOKEN = "fit3d-canary-0d9f3c"
ROOM = 64 << 20
DOTS = ("..", "%2e%2e", "%2E%2E", ".%2e", "%252e%252e", "%25252e%25252e", "..%00", "%c0%ae%c0%ae",
        "..;", "...", "%uff0e%uff0e", ". .")  # fmt: skip
SLASHES = ("/", "//", "%2f", "%252f", "\\", "%5c", "%255c", "/./", "%c0%af")
STARTS = ("/", "//", "/./", "/assets/", "/index.html/", "/?/", "/\\", "/%00/")


@dataclass(frozen=True)
class Served:
    """A viewer in a process of its own.

    Attributes:
        pid: Of it.
        port: Where it answers.
        open_port: Where the same answers without the guard's look at who asks.
        root: viser's own files.
        pipe: Where it tells what it did, once asked.
    """

    pid: int
    port: int
    open_port: int
    root: Path
    pipe: Any
    ask: int


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Served]:
    """Fork a process that shows a small scene."""
    told, tell = os.pipe()
    asked, ask = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(told)
            os.close(ask)
            _serve(folder, tell, asked)
            code = 0
        finally:
            os._exit(code)
    os.close(tell)
    os.close(asked)
    pipe = os.fdopen(told)
    try:
        line = pipe.readline()
        if not line:
            raise CannotRun("the viewer did not start: is fit3d[view] installed?")
        facts = json.loads(line)
        yield Served(child, facts["port"], facts["open"], Path(facts["root"]), pipe, ask)
    finally:
        os.close(ask)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pipe.close()


def _serve(folder: Path, tell: int, asked: int) -> None:
    import viser

    from fit3d_cli.viewer import guard
    from fit3d_cli.viewer.look import Look
    from fit3d_cli.viewer.photos import Photos
    from fit3d_cli.viewer.serve import running
    from fit3d_cli.viewer.session import Session
    from fit3d_cli.workspace import Workspace
    from tests.reliability._seeds import scene

    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    os.dup2(quiet, 1)
    watch = Watch(folder / "nowhere")
    made = scene(40, 4)
    session = Session(made, Look(), most=10**6)
    photos = Photos(made, Workspace(folder / "out"))
    root = Path(viser.__file__).parent / "client" / "build"
    real, guard.allowed = guard.allowed, lambda *_: True
    unguarded = guard.start_server(20_000 + os.getpid() % 20_000)
    guard.allowed = lambda hosts, origins, port: (
        port == unguarded.get_port() or real(hosts, origins, port)
    )
    with running(session, photos, archive=folder / "a.f3d", port=unguarded.get_port() + 1) as view:
        watch.on = True
        facts = {"port": view.port, "open": unguarded.get_port(), "root": str(root)}
        os.write(tell, json.dumps(facts).encode() + b"\n")
        select.select([asked], [], [], 600)
        watch.on = False
        written = [line for line in watch.seen if "writing" in line or line.startswith("os.")]
        with contextlib.suppress(OSError):
            watch.on = True
            (folder.parent / f"{folder.name}-planted").write_text("")
            watch.on = False
            (folder.parent / f"{folder.name}-planted").unlink()
        seen = len(watch.seen) > len(written)
        os.write(tell, json.dumps({"written": written, "seen": seen}).encode() + b"\n")


@check(
    "viewer",
    area="Security",
    promise="The viewer answers this machine and its own page only, serves its own files only, "
    "writes nothing and cannot be made to grow.",
    goal="500 traversals, foreign Host and Origin, 200 sockets, large frames: 0 escapes, 403, "
    "+64 MiB at most, 0 files written",
)
def viewer(trial: Trial) -> Outcome:
    outcome = Outcome()
    canary = trial.folder / "canary.txt"
    canary.write_text(TOKEN)
    with served(trial.folder) as one:
        assert_open = request(one.open_port, "/", "evil.example")[0]
        outcome.require(assert_open == 200, "without the guard a foreign Host is not answered")
        outcome.require(request(one.port, "/", f"127.0.0.1:{one.port}")[0] == 200, "no page")
        before = _resident(one.pid)
        listening = _listening(one.pid)
        outcome.require(bool(listening), "no listening socket was found")
        for address in listening:
            outcome.require(address.startswith(("127.", "::1")), f"listens on {address}")
        paths = _traversals(trial, one.root, canary, trial.size(500, 60))
        answers = _traverse(outcome, one, paths)
        foreign = _foreign(outcome, one, trial.size(60, 12))
        _frames(outcome, one)
        sockets = _crowd(outcome, one, trial.size(200, 90))
        after = _resident(one.pid)
        grown = max(0, after - before)
        outcome.require(grown <= ROOM, f"grew by {grown >> 20} MiB")
        outcome.require(_alive(one), "it no longer answers")
        os.write(one.ask, b"x")
        told = json.loads(one.pipe.readline())
        outcome.broken += told["written"][:5]
        outcome.require(told["seen"], "a planted file is not seen")
    outcome.cases = len(paths) + foreign + sockets + 6
    outcome.figure = (
        f"{len(paths)} traversals ({answers}), 0 escapes; {foreign} foreign Host or Origin: 403; "
        f"{sockets} sockets and frames above 1 MiB: +{grown >> 20} MiB, still answers; listens on "
        f"{', '.join(sorted(set(listening)))}; {len(told['written'])} files written"
    )
    return outcome


def request(
    port: int, path: str, host: str, *headers: str, timeout: float = 20.0
) -> tuple[int, bytes]:
    """Status and whole answer; 0 where the connection was closed."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *headers, "", ""]
    data = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout) as s:
        s.sendall("\r\n".join(lines).encode("latin-1", "replace"))
        while part := s.recv(1 << 16):
            data += part
            if data.startswith(b"HTTP/1.1 101"):
                break
    found = re.match(rb"HTTP/1\.\d (\d+)", data)
    return (int(found[1]) if found else 0), data


def _traversals(trial: Trial, root: Path, canary: Path, count: int) -> list[str]:
    depth = len(root.resolve().parts) - 1
    inside = str(canary.resolve()).lstrip("/")
    targets = (inside, "etc/passwd", "proc/self/environ", f"{root.parent.name}/../{inside}")
    every = [
        f"{start}{slash.join([dots] * (depth + extra))}{slash}{target.replace('/', slash)}"
        for start, dots, slash, target, extra in itertools.product(
            STARTS, DOTS, SLASHES, targets, (0, 3)
        )
    ]
    plain = [f"/{canary}", f"//{canary}", f"file://{canary}", f"http://127.0.0.1/{canary}",
             f"/index.html%00{canary}", f"/index.html?x={canary}", "/" + "a" * 7000,
             "/~root/.bashrc", "/.git/config", "/%", "/%zz", "/\x7f", "*"]  # fmt: skip
    return (plain + trial.draw("paths").sample(every, count))[:count]


def _traverse(outcome: Outcome, one: Served, paths: list[str]) -> str:
    page = request(one.port, "/", f"127.0.0.1:{one.port}")[1].partition(b"\r\n\r\n")[2]
    seen: dict[int, int] = {}
    for path in paths:
        status, answer = request(one.port, path, f"127.0.0.1:{one.port}")
        seen[status] = seen.get(status, 0) + 1
        body = answer.partition(b"\r\n\r\n")[2]
        escaped = TOKEN.encode() in answer or b"root:" in answer or b"PATH=" in answer
        outcome.require(not escaped, f"{path[:80]!r} leads out")
        outcome.require(status != 200 or body == page, f"{path[:80]!r}: 200")
    return ", ".join(f"{count} x {status or 'closed'}" for status, count in sorted(seen.items()))


def upgrade(origin: str | None, protocol: str = "") -> list[str]:
    """Headers of a websocket's opening."""
    import viser

    key = base64.b64encode(os.urandom(16)).decode()
    lines = ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}",
             "Sec-WebSocket-Version: 13",
             f"Sec-WebSocket-Protocol: {protocol or f'viser-v{viser.__version__}'}"]  # fmt: skip
    return lines + ([] if origin is None else [f"Origin: {origin}"])


def _foreign(outcome: Outcome, one: Served, count: int) -> int:
    own = f"127.0.0.1:{one.port}"
    names = ["evil.example", f"evil.example:{one.port}", f"127.0.0.1.evil.example:{one.port}",
             f"localhost.evil.example:{one.port}", "127.0.0.1", "localhost", "127.0.0.1:1",
             f"0.0.0.0:{one.port}", f"[::1]:{one.port}", f"127.1:{one.port}",
             f"2130706433:{one.port}", f"evil@{own}", f"{own}.", f"{own}, evil.example", "",
             f"LOCALHOST.:{one.port}"]  # fmt: skip
    origins = ["null", "http://evil.example", f"http://evil.example:{one.port}", f"https://{own}",
               "http://127.0.0.1", "http://127.0.0.1:1", f"http://{own}.evil.example",
               f"http://{own}@evil.example", "file://", f"{own}", f"http://0.0.0.0:{one.port}",
               f"http://{own}/", "chrome-extension://x",
               f"http://{own} http://evil.example"]  # fmt: skip
    tries = [(host, None) for host in names] + [(own, origin) for origin in origins]
    done = 0
    for host, origin in tries[:: max(1, len(tries) * 2 // count)]:
        http = [] if origin is None else [f"Origin: {origin}"]
        for headers in (http, upgrade(origin)):
            status = request(one.port, "/", host, *headers)[0]
            outcome.require(status == 403, f"Host {host!r}, Origin {origin!r}: {status}")
            done += 1
    wrong = request(one.port, "/", own, *upgrade(f"http://{own}", "viser-v\x9b31m0"))[0]
    outcome.require(wrong == 403, f"a page of another version: {wrong}")
    return done + 1


def _open(one: Served) -> socket.socket | None:
    """A websocket that is let in."""
    own = f"127.0.0.1:{one.port}"
    link = socket.create_connection(("127.0.0.1", one.port), 20)
    lines = ["GET / HTTP/1.1", f"Host: {own}", *upgrade(f"http://{own}"), "", ""]
    link.sendall("\r\n".join(lines).encode())
    head = b""
    with contextlib.suppress(OSError):
        while b"\r\n\r\n" not in head and (part := link.recv(4096)):
            head += part
    if head.startswith(b"HTTP/1.1 101"):
        return link
    link.close()
    return None


def frame(payload: bytes, *, code: int = 2, last: bool = True, length: int = -1) -> bytes:
    """A masked frame as browsers send it; ``length`` is what it claims to hold."""
    first = code | (0x80 if last else 0)
    return struct.pack(">BBQ4s", first, 0xFF, len(payload) if length < 0 else length,
                       bytes(4)) + payload  # fmt: skip


def _frames(outcome: Outcome, one: Served) -> None:
    """Each of these ends its connection, and nothing else."""
    part = bytes(256 << 10)
    hostile = {
        "a frame of 2 MiB": frame(bytes(2 << 20)),
        "a frame that claims 2**62 bytes": frame(b"x", length=1 << 62),
        "a message of many frames": frame(part, last=False)
        + b"".join(frame(part, code=0, last=False) for _ in range(8)),
        "no msgpack": frame(b"\xc1" * 50),
        "nested msgpack": frame(b"\x91" * 500_000),
        "a text": frame(b"hello", code=1),
    }
    for name, data in hostile.items():
        link = _open(one)
        if link is None:
            outcome.require(False, f"{name}: its connection was refused")
            continue
        with link:
            link.settimeout(10)
            ended = False
            with contextlib.suppress(OSError):
                link.sendall(data)
            late = time.monotonic() + 10
            with contextlib.suppress(TimeoutError):
                while time.monotonic() < late:
                    try:
                        if not link.recv(1 << 16):
                            ended = True
                            break
                    except ConnectionError:
                        ended = True
                        break
            outcome.require(ended, f"{name}: the connection is still open")


def _crowd(outcome: Outcome, one: Served, count: int) -> int:
    """Silent sockets, slow ones, and more pages than anybody has."""
    links: list[socket.socket] = []
    own = f"127.0.0.1:{one.port}"
    try:
        for number in range(count):
            link = socket.create_connection(("127.0.0.1", one.port), 20)
            with contextlib.suppress(OSError):
                link.sendall(b"GET / HTTP/1.1\r\nX: " if number % 2 else b"")
            links.append(link)
        status = request(one.port, "/", own)[0]
        outcome.require(status == 200, f"among {count} silent sockets: {status}")
        pages = [_open(one) for _ in range(12)]
        opened = [page for page in pages if page is not None]
        outcome.require(0 < len(opened) <= 8, f"{len(opened)} of 12 pages are open at once")
        links += opened
        outcome.require(_resident(one.pid) > 0, "it died")
    finally:
        for link in links:
            link.close()
    return count + 12


def _alive(one: Served) -> bool:
    """Whether a page can be opened, shortly after."""
    for _ in range(40):
        link = _open(one)
        if link is not None:
            link.close()
            return request(one.port, "/", f"127.0.0.1:{one.port}")[0] == 200
        time.sleep(0.25)
    return False


def _resident(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) << 10 if found else 0


def _listening(pid: int) -> list[str]:
    """Addresses on which a process listens, of every kind of socket."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found = re.match(r"socket:\[(\d+)\]", str(fd.readlink()))
            inodes |= {found[1]} if found else set()
    found_addresses = []
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        table = Path("/proc/net") / name
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                raw = words[1].split(":")[0]
                units = [raw[i : i + 8] for i in range(0, len(raw), 8)]
                packed = b"".join(bytes.fromhex(unit)[::-1] for unit in units)
                found_addresses.append(socket.inet_ntop(family, packed))
    return found_addresses
