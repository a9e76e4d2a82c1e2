"""``fit3d viz SCENE.f3d``: the viewer from start to Ctrl-C."""

from __future__ import annotations

import contextlib
import io
import threading
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fit3d_cli.viewer.guard import HOST, start_server
from fit3d_cli.viewer.photos import Photos
from fit3d_cli.viewer.session import Session
from fit3d_cli.viewer.window import Window


@dataclass(frozen=True)
class Running:
    """A viewer that answers.

    Attributes:
        url: Where to look.
        port: Where it listens.
        server: The ``viser.ViserServer``.
        window: What it shows.
    """

    url: str
    port: int
    server: Any
    window: Window


@contextlib.contextmanager
def running(
    session: Session, photos: Photos, *, archive: Path, port: int, no_text: str = "",
    extra: str = "",
) -> Iterator[Running]:  # fmt: skip
    """Serve a session for the length of a block, on this machine only.

    Args:
        session: What is shown.
        photos: The real photos.
        archive: The scene's file.
        port: Wanted port; the next free one is taken.
        no_text: Why words cannot be looked for; empty if they can.
        extra: Options of the command line that is shown.

    Raises:
        SettingsError: No port is free.
        EnvironmentFault: viser is missing or cannot be guarded.
    """
    server = start_server(port)
    try:
        window = Window(server, session, photos, archive=archive, no_text=no_text, extra=extra)
        chosen = int(server.get_port())
        yield Running(f"http://{HOST}:{chosen}", chosen, server, window)
    finally:
        with contextlib.redirect_stdout(io.StringIO()):  # viser says goodbye
            server.stop()


def serve(
    session: Session,
    photos: Photos,
    *,
    archive: Path,
    port: int,
    no_text: str = "",
    extra: str = "",
    open_browser: bool = False,
    on_ready: Callable[[str], None],
    stop: threading.Event | None = None,
) -> None:
    """Serve a session until Ctrl-C.

    Args:
        session: As in ``running``.
        photos: As in ``running``.
        archive: As in ``running``.
        port: As in ``running``.
        no_text: As in ``running``.
        extra: As in ``running``.
        open_browser: Also open the page.
        on_ready: Told the address once the viewer answers.
        stop: Ends the serving too when it is set.

    Raises:
        Fit3dError: As ``running``.
    """
    ended = stop or threading.Event()
    with (
        contextlib.suppress(KeyboardInterrupt),
        running(session, photos, archive=archive, port=port, no_text=no_text, extra=extra) as view,
    ):
        on_ready(view.url)
        if open_browser:
            webbrowser.open(view.url)
        while not ended.wait(0.5):  # a wait without end would not notice Ctrl-C everywhere
            pass
