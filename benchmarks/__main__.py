"""All CPU benchmarks: one command, one table at the end, one JSON file per part.

    python -m benchmarks [--scene FILE.f3d] [--workspace DIR] [--out DIR] [--adam-steps 500]

Without ``--scene`` the seeded room is used. Each part runs in its own process, so that one's
memory is not another's. ``--workspace`` adds the backbone's tokens and the comparison with Adam,
which takes the longest: seconds per step, two runs of ``--adam-steps`` (0 leaves it out).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import machine, options, results

PARTS = ("splat", "targets", "sweep", "lift", "finetune_step")


def main() -> int:
    """Run the parts one after another; 1 if one failed."""
    made = options.parser(__doc__ or "")
    made.set_defaults(out=Path("bench-out"))
    made.add_argument("--adam-steps", type=int, default=500)
    parsed = made.parse_args()
    out = parsed.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    words, skip = [], False
    for word in sys.argv[1:]:
        if word.split("=")[0] in ("--out", "--adam-steps"):
            skip = "=" not in word
        elif skip:
            skip = False
        else:
            words.append(word)
    parts = {part: words for part in PARTS}
    if parsed.workspace and parsed.scene and parsed.adam_steps:
        parts["lift_vs_adam"] = [*words, "--steps", str(parsed.adam_steps)]
    failed, written = [], []
    for part, given in parts.items():
        path = out / f"{part}.json"
        path.unlink(missing_ok=True)
        print(f"== {part}", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{part}", *given, "--out", str(path)],
            cwd=machine.ROOT, stdout=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if done.returncode or not path.is_file():
            failed.append(part)
        else:
            written.append(json.loads(path.read_text(encoding="utf-8")))
    for result in written[:1]:
        print(results.header(result))
    print(results.table(written))
    print(f"JSON in {out}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
