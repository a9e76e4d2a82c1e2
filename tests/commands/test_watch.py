"""Progress as a person sees it: on a terminal, in a log, quietly."""

from __future__ import annotations

import io

import pytest

from fit3d_cli.commands import _watch
from fit3d_cli.commands._watch import Pace, Times, duration, line, watch
from fit3d_cli.progress import Progress, in_order, one_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (12.4, "12 s"), (80, "1:20"), (7390, "2:03:10")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_pace_is_that_of_the_last_half_minute() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace(Progress("a", 0, 1000)) == ""
    clock.now += 100
    pace(Progress("a", 10, 1000))  # slow at first
    for step in range(1, 41):
        clock.now += 1
        told = pace(Progress("a", 10 + 20 * step, 1000))
    assert told == "20.0/s  ETA 9.5 s"
    assert pace(Progress("a", 1000, 1000)).endswith("/s")
    pace.restart()
    assert pace(Progress("b", 5, 10)) == ""
    clock.now += 8
    assert pace(Progress("b", 7, 10)) == "4.0 s each  ETA 12 s"


def test_times_add_up_per_stage() -> None:
    clock = Clock()
    times = Times(clock)
    for stage, seconds in (("a", 1.0), ("b", 2.0), ("a", 4.0)):
        times(Progress(stage, 0, 1))
        clock.now += seconds
    times.stop()
    assert times.seconds == {"a": 5.0, "b": 2.0}


def test_a_line_says_where_how_fast_and_how_good() -> None:
    event = Progress("room: geometry", 3, 9, "PSNR 21 dB", (2, 5), (3, 7))
    assert line(event, "2.0/s  ETA 3.0 s") == (
        "[2/5 3/7] room: geometry  3/9  2.0/s  ETA 3.0 s  PSNR 21 dB"
    )
    assert line(Progress("x", 3, 0)) == "x  3"


def test_stages_are_numbered_in_their_order() -> None:
    seen: list[Progress] = []
    listen = in_order(one_of(seen.append, 2, 3), ("photos", "geometry", "features"))
    for stage in ("prepare", "a: photos", "triangulate", "a: geometry", "b: photos"):
        listen(Progress(stage, 0, 1))
    assert [event.place for event in seen] == [(0, 0), (1, 3), (1, 3), (2, 3), (1, 3)]
    assert {event.item for event in seen} == {(2, 3)}
    assert one_of(seen.append, 1, 1) == seen.append


def run(err: io.StringIO, **options: object) -> str:
    with watch(err, **options) as on_event:  # type: ignore[arg-type]
        for done in range(501):
            on_event(Progress("room: geometry", done, 500, f"PSNR {done / 20:.1f} dB"))
        on_event(Progress("room: features", 0, 1))
        on_event(Progress("room: features", 1, 1, "cosine 0.81"))
    return err.getvalue()


def test_a_log_gets_few_lines_with_the_figures() -> None:
    lines = run(io.StringIO(), quiet=False, stages=("geometry", "features")).splitlines()
    assert len(lines) == 4
    assert lines[0] == "[1/2] room: geometry  0/500  PSNR 0.0 dB"
    assert lines[1].startswith("[1/2] room: geometry  500/500  0.") and "PSNR 25.0 dB" in lines[1]
    assert lines[3].endswith("cosine 0.81")
    assert not any(mark in "".join(lines) for mark in "\r\x1b")


def test_a_slow_log_tells_rate_and_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(_watch.time, "monotonic", clock)
    err = io.StringIO()
    shown = _watch._Lines(err)
    shown._pace = Pace(clock)
    for done in range(61):
        shown(Progress("room: geometry", done, 1000))
        clock.now += 1
    lines = err.getvalue().splitlines()
    assert len(lines) == 7, "one at the start, then one every ten seconds"
    assert lines[-1] == "room: geometry  60/1000  1.0/s  ETA 15:40"


def test_a_terminal_keeps_a_line_per_finished_stage() -> None:
    shown = run(Terminal(), quiet=False)
    assert "room: geometry  500/500" in shown and "cosine 0.81" in shown


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_quiet_is_silent(kind: type[io.StringIO]) -> None:
    assert run(kind(), quiet=True, verbose=2) == ""


def test_verbose_tells_the_time_of_each_stage() -> None:
    lines = run(io.StringIO(), quiet=False, verbose=1).splitlines()
    assert [text.rsplit("  ", 1)[0] for text in lines[-2:]] == [
        "time: room: geometry", "time: room: features",
    ]  # fmt: skip


def test_an_error_ends_the_bar_and_passes() -> None:
    with pytest.raises(ValueError, match="boom"), watch(Terminal(), quiet=False) as on_event:
        on_event(Progress("a", 0, 3))
        raise ValueError("boom")
