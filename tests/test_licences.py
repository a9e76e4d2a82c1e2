"""Everything that fit3d needs or offers may be used beside the Apache licence."""

from __future__ import annotations

import re
from importlib import metadata

import pytest

packaging = pytest.importorskip("packaging.requirements")

# Words of SPDX expressions and of classifiers; copyleft that reaches into our code is not here.
ALLOWED = re.compile(
    r"(the )?(mit(-cmu)?|bsd|0bsd|[23]-clause bsd|bsd-[23]-clause( license)?|apache([ -]2\.0)?|"
    r"apache software|psf-2\.0|python software foundation|isc|iscl|zlib|cc0-1\.0|bsl-1\.0|"
    r"hpnd|cnri-python|llvm-exception|mpl-2\.0|mozilla public license 2\.0 \(mpl 2\.0\))"
    r"( licen[sc]e.*)?( \(\w+\))?",
    re.IGNORECASE,
)
# Their metadata names no licence; what their licence files say.
READ_BY_HAND = {
    "gsplat": "Apache-2.0",
    "pyliblzfse": "MIT",
}


def closure() -> set[str]:
    """Names of everything that ``pip install 'fit3d[all]'`` brings on this platform."""
    found: set[str] = set()
    waiting = [("fit3d", frozenset({"all"}))]
    while waiting:
        name, extras = waiting.pop()
        for line in metadata.requires(name) or ():
            need = packaging.Requirement(line)
            wanted = need.marker is None or any(
                need.marker.evaluate({"extra": extra}) for extra in (extras or {""}) | {""}
            )
            known = need.name.lower().replace("_", "-")
            if not wanted or (known in found and not need.extras):
                continue
            try:
                metadata.version(need.name)
            except metadata.PackageNotFoundError:
                continue  # torch's CUDA packages beside a CPU build of torch
            found.add(known)
            waiting.append((need.name, frozenset(need.extras)))
    return found - {"fit3d"}


def licences(name: str) -> list[str]:
    """The words in which a package names its licences."""
    about = metadata.metadata(name)
    named = [about.get("License-Expression") or ""]
    if not named[0]:
        named = [c.rsplit(" :: ", 1)[-1] for c in about.get_all("Classifier") or ()
                 if c.startswith("License :: ") and c != "License :: OSI Approved"]  # fmt: skip
    if not any(named):
        named = (about.get("License") or "").strip().splitlines()[:1]
    split = [word for text in named for word in re.split(r"\s+(?:AND|OR|WITH)\s+", text)]
    return [word.strip() for word in split if word.strip()]


def test_every_dependency_has_a_licence_that_fits() -> None:
    names = closure()
    assert {"torch", "numpy", "viser", "pycolmap", "timm"} <= names
    for name in sorted(names - READ_BY_HAND.keys()):
        found = licences(name)
        assert found, f"{name} names no licence: read its licence file"
        for words in found:
            assert ALLOWED.fullmatch(words), f"{name}: {words}"


@pytest.mark.parametrize("words", ["GPL-3.0-or-later", "GNU General Public License v3 (GPLv3)",
                                   "AGPL-3.0", "CC-BY-NC-4.0", "Proprietary"])  # fmt: skip
def test_what_does_not_fit_is_refused(words: str) -> None:
    assert not ALLOWED.fullmatch(words)
