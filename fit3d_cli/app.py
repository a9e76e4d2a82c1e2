"""The ``fit3d`` command: mounts the verbs and owns the only error handler."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from fit3d_cli import __version__
from fit3d_cli.commands import (
    compare,
    demo,
    doctor,
    export,
    finetune,
    info,
    lift,
    probe,
    render,
    viz,
)
from fit3d_cli.commands._options import common_callback, common_options
from fit3d_cli.errors import Fit3dError, SettingsError
from fit3d_cli.explain import EXIT_USAGE
from fit3d_cli.explain import explain as explain_failure

EXIT_INTERRUPTED = 130
EXIT_PIPE = 141
EXIT_TERMINATED = 143
_ASK_AGAIN = 2.0  # seconds, longer than it takes to remove temporary files

VERBS: tuple[Callable[..., None], ...] = (
    lift.lift,
    render.render,
    finetune.finetune,
    probe.probe,
    compare.compare,
    viz.viz,
    demo.demo,
    info.info,
    export.export,
    doctor.doctor,
)


class Terminated(BaseException):
    """SIGTERM arrived; raised so that temporary files are removed on the way out."""


def build() -> typer.Typer:
    """The command-line application with every verb mounted."""
    application = typer.Typer(
        name="fit3d",
        no_args_is_help=False,
        invoke_without_command=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    application.callback()(common_callback(_root))
    for verb in VERBS:
        application.command(name=verb.__name__)(common_options(verb))
    return application


def _root(
    ctx: typer.Context,
    given: dict[str, Any],
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Make 2D vision backbones 3D-aware: lift, render, finetune, probe, compare.

    Common options may stand before or after the verb. Start with: fit3d doctor
    """
    ctx.obj = given
    if version:
        sys.stdout.write(f"fit3d {__version__}\n")
        raise typer.Exit()
    if ctx.invoked_subcommand is None:
        sys.stdout.write(ctx.get_help() + "\n")
        raise typer.Exit()


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; never raises.

    Codes: 0 done, 1 some items failed, 2 bad input or settings, 3 environment, 4 a bug of
    ours, 130 and 143 interrupted, 141 nobody reads our output any more.
    """
    out = sys.stdout
    try:
        command = typer.main.get_command(build())
        with command.make_context("fit3d", list(argv)) as context:
            command.invoke(context)
        out.flush()
        return 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except BrokenPipeError:
        return EXIT_PIPE
    except (KeyboardInterrupt, Terminated) as stop:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if "--debug" in argv:
            traceback.print_exc(file=sys.stderr)
        sys.stderr.write(f"fit3d: interrupted - {how_to_resume(argv)}\n")
        return EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED
    except Exception as error:
        if "--debug" in argv:
            traceback.print_exc(file=sys.stderr)
        failure, code = explain(error)
        sys.stderr.write(f"fit3d: error: {failure}\n")
        if "--json" in argv:
            out.write(json.dumps({"error": _fields(failure, code)}) + "\n")
        return code


# What an interrupted verb leaves behind; everything else is written whole or not at all.
KEPT = {
    "lift": "finished scenes, tokens, and the geometry up to its last checkpoint are kept",
    "finetune": "targets and the last checkpoint are kept",
    "probe": "the tokens that were computed are kept",
    "demo": "finished scenes, checkpoints and tokens are kept",
    "render": "finished pictures are kept",
    "viz": "finished pictures are kept",
}


def how_to_resume(argv: Sequence[str]) -> str:
    """What is kept of an interrupted command line, and how to go on."""
    verb = next((word for word in argv if word in {v.__name__ for v in VERBS}), "")
    kept = KEPT.get(verb, "nothing half-written is left")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return f"{kept}; run the same torchrun command again to go on"
    return f"{kept}; to go on: {shlex.join(['fit3d', *argv])}"


def explain(error: Exception) -> tuple[Fit3dError, int]:
    """Any exception as a failure with a remedy, and the exit code."""
    if hasattr(error, "format_message"):  # typer's own, whichever click it is built on
        return _usage(error), EXIT_USAGE
    return explain_failure(error)


def _usage(error: Any) -> Fit3dError:
    """A complaint of the option parser in our one-line form."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "fit3d"
    parameter = getattr(error, "param", None)
    where, what, hint = path, error.message, f"see {path} --help"
    if hasattr(error, "option_name"):
        where, what = error.option_name, what.split(":")[0]
        near = getattr(error, "possibilities", None)
        hint = f"did you mean {' or '.join(sorted(near))}?" if near else hint
    elif parameter is not None:
        is_option = parameter.param_type_name == "option"
        where = parameter.opts[0] if is_option else parameter.metavar or parameter.name
        what = what or f"this {parameter.param_type_name} is missing"
    what, _, near = what.partition(". Did you mean ")
    hint = f"did you mean {near}" if near else hint
    what = what.removeprefix("Value error, ").rstrip(".")
    return SettingsError(what[:1].lower() + what[1:], where=where, hint=hint)


def _fields(failure: Fit3dError, code: int) -> dict[str, Any]:
    return {
        "where": failure.where,
        "what": failure.what,
        "hint": failure.hint,
        "exit_code": code,
    }


def main() -> NoReturn:
    """Entry point of the ``fit3d`` script."""
    if "_FIT3D_COMPLETE" in os.environ:  # the shell asks for completions
        build()(prog_name="fit3d")
    # torch's OpenMP workers spin between operations and would take the cores from our own
    # kernels' threads: measured on two busy cores, a fitting step took seven times as long. It
    # must be said before torch is imported; who sets the variable keeps the last word.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A lost process of a shared training is one line of ours, not a stack of C++ frames.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    _end_at(_on_signal)
    code = run(sys.argv[1:])
    _end_at(_give_up)  # all is said and written
    if code == EXIT_PIPE:
        # The interpreter flushes stdout at exit and would complain a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def _end_at(handler: Callable[[int, FrameType | None], NoReturn]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _on_signal(signum: int, frame: FrameType | None) -> NoReturn:
    """Stop the verb; asks again until it is heard. Who cannot wait sends a second signal.

    What is raised while a finaliser runs is dropped by the interpreter, and with it the user's
    wish to stop.
    """
    _end_at(_give_up)
    signal.signal(signal.SIGALRM, lambda _, again: _on_signal(signum, again))
    signal.setitimer(signal.ITIMER_REAL, _ASK_AGAIN)
    raise KeyboardInterrupt if signum == signal.SIGINT else Terminated


def _give_up(signum: int, frame: FrameType | None) -> NoReturn:
    """End at once: what has a final name is whole, and the next run removes what has not."""
    if os.isatty(2):
        os.write(2, b"\x1b[?25h")  # a progress bar had hidden the cursor
    os._exit(128 + signum)
