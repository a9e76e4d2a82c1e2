"""The viewer's window: a session wired to viser."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from fit3d_cli.errors import Fit3dError
from fit3d_cli.geometry.rotations import matrices_to_quats
from fit3d_cli.viewer.cameras import choose_start, view_angle, viewmat_of
from fit3d_cli.viewer.layers import LAYERS
from fit3d_cli.viewer.look import facts, parse_layer, plain
from fit3d_cli.viewer.photos import Photos
from fit3d_cli.viewer.session import Mode, Session
from fit3d_cli.viewer.splats import make_splats, repaint, to_bytes

_NAMES = {"rgb": "colour", "pca": "features (PCA)", "kmeans": "features (k-means)",
          "depth": "depth", "similarity": "similarity"}  # fmt: skip
_LAYER_OF = {name: layer for layer, name in _NAMES.items()}
_MODES = {"find": "find this", "add": "add", "subtract": "subtract"}
_MODE_OF = {name: mode for mode, name in _MODES.items()}
_FRUSTA = 80  # more would hide the scene
_TRAIN, _HELDOUT, _CHOSEN = (120, 170, 255), (255, 190, 90), (255, 255, 255)
_POSITIVE, _NEGATIVE = (80, 220, 120), (240, 90, 90)
_SAME_CLICK = 0.3  # seconds within which two reports are of one click
_SETTLE = 0.25  # seconds a camera rests before depth is painted anew
_HELP = (
    "Click a place: what is like it lights up. **Shift**-click adds a place, **Alt**-click "
    "subtracts one."
)


class Window:
    """What the browser shows of a session.

    Args:
        server: A ``viser.ViserServer``.
        session: What is shown.
        photos: The real photos.
        archive: The scene's file, for the command line that is shown.
        no_text: Why words cannot be looked for; empty if they can.
        extra: Options that belong to that command line.
    """

    def __init__(
        self,
        server: Any,
        session: Session,
        photos: Photos,
        *,
        archive: Path,
        no_text: str = "",
        extra: str = "",
    ) -> None:
        self._server = server
        self._session = session
        self._photos = photos
        self._archive = archive
        self._extra = extra
        self._lock = threading.RLock()
        self._photo_lock = threading.Lock()  # models take seconds; clicks need not wait for them
        self._start = choose_start(session.scene)
        self._viewmat = viewmat_of(self._start.position, self._start.look_at, self._start.up)
        self._timer: threading.Timer | None = None
        self._frustum_clicked_at = -1.0
        self._markers: Any = None
        self._quiet = False  # True while the session, not the user, moves the controls
        self._dress()
        self._splats = self._add_splats()
        self._add_frusta()
        self._add_controls(no_text)
        self._listen()
        self.refresh()

    # What is in the scene.

    def _dress(self) -> None:
        scene, start = self._server.scene, self._start
        self._server.gui.configure_theme(
            dark_mode=True, show_logo=False, show_share_button=False, control_width="medium",
        )  # fmt: skip
        scene.configure_default_lights(enabled=False)  # splats shine by themselves
        scene.configure_environment_map(None)
        scene.set_up_direction(tuple(start.up.tolist()))
        camera = self._server.initial_camera
        camera.position = tuple(start.position.tolist())
        camera.look_at = tuple(start.look_at.tolist())
        camera.up = tuple(start.up.tolist())
        camera.fov = min(start.fov, math.radians(75))
        camera.near = max(1e-4, start.distance * 1e-3)
        camera.far = max(100.0, start.distance * 1e3)

    def _add_splats(self) -> Any:
        session = self._session
        splats = make_splats(session.scene.gaussians.select(session.drawn))
        return self._server.scene.add_gaussian_splats(
            "/gaussians", splats.centers, splats.covariances,
            to_bytes(session.colours(self._viewmat)) if session.look.layer != "similarity"
            else to_bytes(session.painter.rgb[session.drawn]),
            session.opacities()[:, None].numpy(), scale=splats.scale,
        )  # fmt: skip

    def _add_frusta(self) -> None:
        scene = self._session.scene
        step = max(1, math.ceil(len(scene.names) / _FRUSTA))
        self._frusta: dict[int, Any] = {}
        size = 0.06 * self._start.distance
        poses = scene.cameras.camtoworlds
        for index in range(0, len(scene.names), step):
            width, height = scene.cameras.sizes[index].tolist()
            colour = _HELDOUT if bool(scene.heldout[index]) else _TRAIN
            handle = self._server.scene.add_camera_frustum(
                f"/cameras/{index:05d}", view_angle(scene, index), width / height, scale=size,
                thickness=1.5, thickness_units="screen", color=colour, variant="filled",
                wxyz=matrices_to_quats(poses[index, None, :3, :3])[0].numpy(),
                position=poses[index, :3, 3].numpy(), cast_shadow=False, receive_shadow=False,
                visible=False,
            )  # fmt: skip
            self._frusta[index] = handle
            handle.on_click(self._frustum_clicked(index))

    # The panel.

    def _add_controls(self, no_text: str) -> None:
        gui, look = self._server.gui, self._session.look
        self._layer = gui.add_dropdown(
            "Layer", tuple(_NAMES[layer] for layer in LAYERS), initial_value=_NAMES[look.layer]
        )
        self._clusters = gui.add_slider("Groups", 2, 24, 1, min(max(look.clusters, 2), 24),
                                        visible=look.layer == "kmeans")  # fmt: skip
        self._opacity = gui.add_slider(
            "Hide below", 0.0, 1.0, 0.01, min(max(look.opacity, 0.0), 1.0),
            hint="Gaussians of a lower opacity are not drawn and cannot be clicked at",
        )  # fmt: skip
        with gui.add_folder("Find"):
            gui.add_markdown(_HELP)
            self._mode = gui.add_dropdown("A click will", tuple(_MODE_OF))
            self._text = None
            if no_text:
                gui.add_markdown(f"*Words cannot be looked for: {plain(no_text)}*")
            else:
                self._text = gui.add_text("Words", look.text)
                self._find = gui.add_button("Find words")
            self._found = gui.add_markdown("")
            self._clear = gui.add_button("Clear")
        with gui.add_folder("Photos"):
            self._show = gui.add_checkbox("Show cameras", False)
            remark = self._photos.remark
            about = (
                "Click a camera to see its photo and features." if self._photos.available else ""
            )
            self._about = gui.add_markdown(f"*{plain(remark)}*" if remark else about)
            self._pictures: list[Any] = []
            self._places = gui.add_folder("View", visible=False)
        with gui.add_folder("Scene", expand_by_default=False):
            gui.add_markdown(facts(self._session.scene, len(self._session.drawn)))
        with gui.add_folder("This look as a command", expand_by_default=False):
            self._command = gui.add_markdown("")

    def _listen(self) -> None:
        scene, server = self._server.scene, self._server
        self._layer.on_update(self._changed)
        self._clusters.on_update(self._changed)
        self._opacity.on_update(self._changed)
        self._clear.on_click(lambda _: self._cleared())
        self._show.on_update(lambda _: self._frusta_visible(self._show.value))
        if self._text is not None:
            self._find.on_click(lambda _: self._words())
        for modifier, mode in ((None, None), ("shift", "add"), ("alt", "subtract")):
            scene.on_click(modifier=modifier)(self._scene_clicked(cast("Mode | None", mode)))

        @server.on_client_connect  # type: ignore[untyped-decorator]
        def _(client: Any) -> None:
            client.camera.on_update(self._moved)

    # What the user does.

    def _changed(self, _: Any) -> None:
        if self._quiet:
            return
        with self._lock:
            look = self._session.look
            look.layer = parse_layer(_LAYER_OF[self._layer.value])
            look.clusters = int(self._clusters.value)
            look.opacity = float(self._opacity.value)
            self.refresh()

    def _cleared(self) -> None:
        with self._lock:
            self._session.clear()
            self.refresh()

    def _words(self) -> None:
        with self._lock:
            if self._text is not None:
                self._session.find_text(self._text.value)
            self.refresh()

    def _scene_clicked(self, forced: Mode | None) -> Callable[[Any], None]:
        def clicked(event: Any) -> None:
            # A click at a camera arrives twice, here too; the order is not certain.
            time.sleep(_SAME_CLICK / 2)
            if time.monotonic() - self._frustum_clicked_at < _SAME_CLICK:
                return
            camera = event.client.camera
            pixel = 2 * math.tan(camera.fov / 2) / max(int(camera.image_height), 1)
            mode = forced or cast(Mode, _MODE_OF[self._mode.value])
            with self._lock:
                hit = self._session.click(_vector(event.ray_origin), _vector(event.ray_direction),
                                          pixel=pixel, mode=mode)  # fmt: skip
                if hit is None:
                    self._found.content = "*Nothing there.*"
                else:
                    self.refresh()

        return clicked

    def _frustum_clicked(self, index: int) -> Callable[[Any], None]:
        def clicked(_: Any) -> None:
            self._frustum_clicked_at = time.monotonic()
            self._show_view(index)

        return clicked

    def _moved(self, camera: Any) -> None:
        position, target, up = camera.position, camera.look_at, camera.up_direction
        self._viewmat = viewmat_of(_vector(position), _vector(target), _vector(up))
        if self._session.look.layer != "depth":
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(_SETTLE, self.refresh)
        self._timer.daemon = True
        self._timer.start()

    # What follows from it.

    def refresh(self) -> None:
        """Paint what the session says and bring the controls in line."""
        with self._lock:
            session = self._session
            try:
                colours = session.colours(self._viewmat)
            except Fit3dError as error:
                session.clear()
                colours = session.colours(self._viewmat)
                self._tell(f"*{plain(str(error))}*")
            else:
                self._tell(self._describe())
            repaint(self._splats, colours, session.opacities())
            self._mark()

    def _tell(self, found: str) -> None:
        look = self._session.look
        self._quiet = True
        try:
            self._layer.value = _NAMES[look.layer]
            self._clusters.visible = look.layer == "kmeans"
            if self._text is not None and self._text.value != look.text:
                self._text.value = look.text
            self._found.content = found
            # On one line nothing ends the block but its last line.
            line = look.command(self._archive, self._extra)
            shown = "".join(c if c.isprintable() else "?" for c in line)
            self._command.content = f"```\n{shown}\n```"
        finally:
            self._quiet = False

    def _describe(self) -> str:
        look = self._session.look
        lines = [f"- like {_point(point)}" for point in look.positives]
        lines += [f"- unlike {_point(point)}" for point in look.negatives]
        if look.text:
            lines.append(f"- {plain(look.text)}")
        scores = self._session.scores()
        if scores is None:
            return "*Nothing is looked for yet.*" if look.layer == "similarity" else ""
        return "\n".join([*lines, "", f"Scores {float(scores.min()):.2f} to "
                          f"{float(scores.max()):.2f}, bright is most alike."])  # fmt: skip

    def _mark(self) -> None:
        look = self._session.look
        wanted = [*((point, _POSITIVE) for point in look.positives),
                  *((point, _NEGATIVE) for point in look.negatives)]  # fmt: skip
        if self._markers is not None:
            self._markers.remove()
            self._markers = None
        if look.layer == "similarity" and wanted:
            # Points need no light; the shaders of lit spheres would take seconds to build.
            self._markers = self._server.scene.add_point_cloud(
                "/query",
                torch.stack([point for point, _ in wanted]).float().numpy(),
                np.array([colour for _, colour in wanted], np.uint8),
                point_size=0.02 * self._start.distance,
                point_shape="circle",
                precision="float32",
            )

    def _frusta_visible(self, visible: bool) -> None:
        for handle in self._frusta.values():
            handle.visible = visible

    def _show_view(self, index: int) -> None:
        scene = self._session.scene
        name = plain(scene.names[index])
        kind = "held out" if bool(scene.heldout[index]) else "used for lifting"
        with self._lock:
            for number, handle in self._frusta.items():
                usual = _HELDOUT if bool(scene.heldout[number]) else _TRAIN
                handle.color = _CHOSEN if number == index else usual
        if not self._photos.available:
            self._about.content = f"**{name}** ({kind})\n\n*{plain(self._photos.remark)}*"
            return
        self._about.content = f"**{name}** ({kind})\n\n*computing its features ...*"
        with self._photo_lock:
            try:
                shown, remark = self._photos.pictures(index), self._photos.remark
            except Fit3dError as error:  # no model: the photo alone is better than nothing
                remark = str(error)
                try:
                    shown = (("photo", self._photos.photo(index)),)
                except Fit3dError as missing:
                    shown, remark = (), str(missing)
            for picture in self._pictures:
                picture.remove()
            with self._places:
                self._pictures = [self._server.gui.add_image(picture, label=label, format="jpeg")
                                  for label, picture in shown]  # fmt: skip
            self._places.visible = bool(shown)
            self._about.content = f"**{name}** ({kind})" + (
                f"\n\n*{plain(remark)}*" if remark else ""
            )


def _vector(values: Any) -> Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


def _point(point: Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in point.tolist())
