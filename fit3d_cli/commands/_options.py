"""What every verb shares: the common options and the run that they describe."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import json
import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO, cast

import typer

from fit3d_cli.commands._terminal import Plain, escaped, escaped_json
from fit3d_cli.errors import CaptureError, Fit3dError

if TYPE_CHECKING:
    from fit3d_cli.commands._estimate import Estimate
    from fit3d_cli.config import Resolved
    from fit3d_cli.progress import OnEvent

DEFAULT_WORKSPACE = Path("fit3d-out")
PANEL = "Common options"

Device = Literal["auto", "cpu", "cuda"]

# An option of a verb is None unless it was given: the defaults live in settings/.
Backbone = Annotated[
    str | None, typer.Option(metavar="NAME", help="Backbone preset or timm model name.")
]
Weights = Annotated[
    str | None, typer.Option(metavar="FILE", help="Local .safetensors weights of the backbone.")
]
Captures = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where the photos lie, if they were moved.")
]


def _parameters() -> list[inspect.Parameter]:
    """The common options, as parameters that a command's signature gets appended."""

    def declare(
        workspace: Annotated[
            Path | None,
            typer.Option(
                metavar="DIR", help="Where results go (fit3d-out).", rich_help_panel=PANEL
            ),
        ] = None,
        profile: Annotated[
            str | None,
            typer.Option(
                metavar="NAME|FILE", help="Settings from a TOML profile.", rich_help_panel=PANEL
            ),
        ] = None,
        sets: Annotated[
            list[str] | None,
            typer.Option(
                "--set", metavar="KEY=VALUE", help="One setting; repeatable.", rich_help_panel=PANEL
            ),
        ] = None,
        device: Annotated[
            Device | None, typer.Option(help="Where to compute (auto).", rich_help_panel=PANEL)
        ] = None,
        seed: Annotated[
            int | None,
            typer.Option(
                min=0, max=2**31 - 1, metavar="N", help="Same seed, same bytes on a CPU (0).",
                rich_help_panel=PANEL,
            ),
        ] = None,
        as_json: Annotated[
            bool | None,
            typer.Option(
                "--json", help="One JSON object on stdout.", rich_help_panel=PANEL,
                show_default=False,
            ),
        ] = None,
        dry_run: Annotated[
            bool | None,
            typer.Option(
                "--dry-run", help="Show the settings and where each came from; do nothing.",
                rich_help_panel=PANEL, show_default=False,
            ),
        ] = None,
        quiet: Annotated[
            bool | None,
            typer.Option(
                "--quiet", "-q", help="No progress.", rich_help_panel=PANEL, show_default=False
            ),
        ] = None,
        verbose: Annotated[
            int,
            typer.Option(
                "-v", "--verbose", count=True, help="Log more, with times; -vv for everything.",
                rich_help_panel=PANEL, show_default=False,
            ),
        ] = 0,
        debug: Annotated[
            bool | None,
            typer.Option(
                "--debug", help="Tracebacks with errors.", rich_help_panel=PANEL,
                show_default=False,
            ),
        ] = None,
    ) -> None: ...  # fmt: skip

    signature = inspect.signature(declare, eval_str=True)
    return [p.replace(kind=p.KEYWORD_ONLY) for p in signature.parameters.values()]


COMMON = _parameters()
COMMON_NAMES = tuple(parameter.name for parameter in COMMON)


@dataclass(frozen=True)
class Run:
    """One call of one verb.

    Attributes:
        verb: The command's name.
        workspace: Directory of all results.
        profile: Profile name or file; empty for none.
        sets: ``key=value`` texts.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: Of every random draw.
        as_json: One JSON object on stdout instead of tables.
        dry_run: Show settings, do nothing.
        quiet: No progress on stderr.
        verbose: Number of ``-v``.
        out: The real stdout. While a verb runs, ``sys.stdout`` is stderr, so that nothing a
            library prints can spoil the result.
    """

    verb: str
    workspace: Path
    profile: str
    sets: tuple[str, ...]
    device: str
    seed: int
    as_json: bool
    dry_run: bool
    quiet: bool
    verbose: int
    out: TextIO

    def resolve(self, flags: Mapping[str, tuple[str, Any]] | None = None) -> Resolved:
        """Settings of this verb from defaults, profile, ``--set`` and ``flags``."""
        from fit3d_cli.config import resolve

        return resolve(self.verb, profile=self.profile, sets=self.sets, flags=flags)

    def show_settings(
        self, resolved: Resolved, inputs: Mapping[str, Any], estimate: Estimate | None = None
    ) -> None:
        """The answer to ``--dry-run``: settings, what else is known, what it would take."""
        from fit3d_cli.commands import _show

        common = {
            "workspace": str(self.workspace),
            "device": self.device,
            "seed": self.seed,
            "profile": self.profile,
        }
        plain = {key: _plain(value) for key, value in inputs.items()}
        if self.as_json:
            self.emit(
                {
                    "verb": self.verb,
                    "dry_run": True,
                    "inputs": plain,
                    "common": common,
                    "settings": resolved.to_dict(),
                    **({"estimate": estimate.to_dict()} if estimate else {}),
                }
            )
        else:
            told = estimate.told(self.workspace) if estimate else {}
            _show.settings(self.out, resolved, {**plain, **common, **told})

    def emit(self, data: Mapping[str, Any]) -> None:
        """Write the one JSON object of ``--json``; NaN and infinity become null."""
        text = json.dumps(_plain(data), allow_nan=False, ensure_ascii=False)
        self.out.write(f"{escaped_json(text)}\n")

    @contextlib.contextmanager
    def progress(self, stages: Sequence[str] = ()) -> Iterator[OnEvent]:
        """A listener that shows progress on stderr for the length of a block.

        Args:
            stages: How the names of the verb's stages end, in order, where they are known.
        """
        from fit3d_cli.commands import _watch

        with _watch.watch(
            sys.stderr, quiet=self.quiet, verbose=self.verbose, stages=stages
        ) as listener:
            yield listener

    def workspace_option(self) -> str:
        """What a suggested command needs to find this workspace again."""
        if self.workspace == DEFAULT_WORKSPACE:
            return ""
        return f" --workspace {shlex.quote(str(self.workspace))}"

    def hint(self, command: str) -> None:
        """Name the next sensible command, on stderr."""
        if not self.quiet and not self.as_json:
            print(f"next: {escaped(command)}", file=sys.stderr)


def common_options(body: Callable[..., None]) -> Callable[..., None]:
    """Give a command the common options; its first parameter gets them as a ``Run``.

    The same options may stand before the verb; those after it win, ``--set`` adds up.
    """

    @functools.wraps(body)
    def command(ctx: typer.Context, **options: Any) -> None:
        own = {name: options.pop(name) for name in COMMON_NAMES}
        merged = merge(ctx.obj or {}, own)
        configure_logging(int(merged["verbose"] or 0))
        run = Run(
            verb=ctx.info_name or "",
            workspace=merged["workspace"] or DEFAULT_WORKSPACE,
            profile=merged["profile"] or "",
            sets=tuple(merged["sets"] or ()),
            device=merged["device"] or "auto",
            seed=merged["seed"] or 0,
            as_json=bool(merged["as_json"]),
            dry_run=bool(merged["dry_run"]),
            quiet=bool(merged["quiet"]),
            verbose=int(merged["verbose"] or 0),
            out=cast(TextIO, Plain(sys.stdout)),
        )
        with contextlib.redirect_stdout(sys.stderr):
            body(run, **options)

    own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    own = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in own]
    _set_signature(command, [context, *own, *COMMON])
    return command


def common_callback(body: Callable[..., None]) -> Callable[..., None]:
    """Let the common options stand before the verb: ``body(ctx, given, **own)``."""

    @functools.wraps(body)
    def callback(ctx: typer.Context, **options: Any) -> None:
        given = {name: options.pop(name) for name in COMMON_NAMES}
        body(ctx, given, **options)

    own = list(inspect.signature(body, eval_str=True).parameters.values())[2:]
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    own = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in own]
    _set_signature(callback, [context, *own, *COMMON])
    return callback


def _set_signature(function: Callable[..., None], parameters: list[inspect.Parameter]) -> None:
    """Typer reads a function's signature and its annotations; give it both."""
    del function.__wrapped__  # type: ignore[attr-defined]  # inspect would follow it
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}


def merge(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Common options from before and after the verb."""
    merged = {
        name: before.get(name) if after.get(name) is None else after[name] for name in COMMON_NAMES
    }
    merged["sets"] = [*(before.get("sets") or ()), *(after.get("sets") or ())]
    merged["verbose"] = (before.get("verbose") or 0) + (after.get("verbose") or 0)
    return merged


def configure_logging(verbose: int) -> None:
    """Send log records, and with ``-v`` Python warnings, to stderr, one line each."""
    import warnings

    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("fit3d: %(levelname)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    if verbose:
        logging.captureWarnings(True)
    else:
        # Third-party deprecation chatter is for developers; ours is raised as errors.
        warnings.simplefilter("ignore")


def require(paths: Sequence[Path], *, hint: str, error: type[Fit3dError] = CaptureError) -> None:
    """Refuse paths that do not exist, before anything is computed.

    Raises:
        Fit3dError: Of type ``error``, naming the first path that is missing.
    """
    for path in paths:
        if not path.exists():
            raise error("no such file or directory", where=path, hint=_nearest(path) or hint)


def _nearest(path: Path) -> str:
    """A name in the same folder that may have been meant."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f"did you mean {path.parent / near[0]}?" if near else ""


def _plain(value: Any) -> Any:
    """JSON types only."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if value - value == 0 else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
