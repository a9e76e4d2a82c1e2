"""Write requirements*.lock: what CI installs, every version and sha256 fixed.

``python .ci/lock.py`` asks pip what it would install for ``.[dev]`` under constraints.txt and the
package index for the digests of the files of those versions that Linux on x86-64 with this Python
could use. ``make setup LOCKED=1`` installs exactly that: a changed file is refused. What has no
wheel goes into requirements-source.lock, because building it needs the others first.
"""

from __future__ import annotations

import html.parser
import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urldefrag

ROOT = Path(__file__).resolve().parent.parent
INDEX = "https://pypi.org/simple"
BUILD = ("scikit-build-core>=0.10", "nanobind>=2.4", "cmake", "ninja", "torch")
PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"
USABLE = re.compile(
    rf"-({PYTHON}-{PYTHON}|cp3\d+-abi3|(py2\.)?py3(11)?-none)"
    r"-(any|[a-z0-9_.]*linux[a-z0-9_.]*x86_64[a-z0-9_.]*)\.whl$"
)


class Links(html.parser.HTMLParser):
    """File names and digests of an index page."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep a link that carries a digest."""
        url, fragment = urldefrag(dict(attrs).get("href") or "")
        if tag == "a" and fragment.startswith("sha256="):
            self.files[unquote(url.rsplit("/", 1)[-1])] = fragment.removeprefix("sha256=")


def resolved() -> list[dict[str, str]]:
    """What pip would install: name, version, file and its sha256."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet",
             "--no-build-isolation", "--report", report.name, "-c", str(ROOT / "constraints.txt"),
             *BUILD, f"{ROOT}[dev]"], check=True,
        )  # fmt: skip
        items = json.loads(Path(report.name).read_text())["install"]
    found = []
    for item in items:
        info = item["download_info"]
        if "archive_info" not in info:
            continue  # fit3d itself
        found.append(
            {
                "name": re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(),
                "version": item["metadata"]["version"].split("+")[0],
                "file": unquote(info["url"].rsplit("/", 1)[-1]),
                "sha256": info["archive_info"]["hashes"]["sha256"],
            }
        )
    return sorted(found, key=lambda one: one["name"])


def digests(one: dict[str, str]) -> list[str]:
    """The digests of every file of a version that could be taken here."""
    if one["name"] == "torch":  # the CPU wheel alone: pip would prefer the one with CUDA
        return [one["sha256"]]
    links = Links()
    with urllib.request.urlopen(f"{INDEX}/{one['name']}/", timeout=60) as answer:
        links.feed(answer.read().decode())
    stem = re.compile(
        rf"{one['name'].replace('-', '[-_.]+')}-{re.escape(one['version'])}(-|\.tar\.gz$)", re.I
    )
    wheels = {d for name, d in links.files.items() if stem.match(name) and USABLE.search(name)}
    sources = {d for name, d in links.files.items() if stem.match(name) and name.endswith(".gz")}
    # A source archive runs code when it is installed: only where there is no wheel.
    return sorted((wheels or sources) | {one["sha256"]})


def main() -> None:
    """Write both locks."""
    head = (
        "# What CI installs; written by .ci/lock.py, not by hand. Linux on x86-64, "
        f"Python {sys.version_info.major}.{sys.version_info.minor}.\n"
    )
    wheels, sources = [head], [head]
    for one in resolved():
        hashes = "".join(f" \\\n    --hash=sha256:{digest}" for digest in digests(one))
        kind = wheels if one["file"].endswith(".whl") else sources
        kind.append(f"{one['name']}=={one['version']}{hashes}\n")
    (ROOT / "requirements.lock").write_text("".join(wheels))
    (ROOT / "requirements-source.lock").write_text("".join(sources))


if __name__ == "__main__":
    main()
