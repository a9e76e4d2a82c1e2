from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ablations
from benchmarks.ablation_page import fill, missing, protocol, table
from benchmarks.ablation_rows import LIFT, PROBE, PROTOCOL, ROWS, TABLES, TUNE, Row
from benchmarks.recipes import STAGES
from fit3d_cli.config import resolve

PAGE = "# Ablations\n" + "".join(
    f"Words on {name}.\n<!-- {name} -->\nold\n<!-- end -->\n"
    for name in (*TABLES, "protocol", "missing")
)


def report(value: float, low: float, high: float, models: tuple[str, ...]) -> dict[str, Any]:
    def line(model: str) -> dict[str, Any]:
        names = ("recall@1patch", "recall@1patch:30-60deg", "rmse", "miou")
        figure = {"value": 0.25 if model == "base" else value, "n": 9, "low": 0.1, "high": 0.9}
        difference = {"value": value - 0.25, "n": 9, "low": low, "high": high}
        return {
            "model": model,
            "figures": dict.fromkeys(names, figure),
            "differences": {} if model == "base" else dict.fromkeys(names, difference),
        }

    drift = {"cosine": {"value": 0.875, "n": 8}, "norm_ratio": {"value": 0.8, "n": 8}}
    return {"rows": [line(model) for model in models], "drift": drift}


def row(value: float, low: float, high: float, *more: str) -> dict[str, Any]:
    made = report(value, low, high, ("base", "tuned", *more))
    return {
        "tune": {"cpu_seconds": 50.4, "seconds": 100.8, "peak_bytes": 2**29, "load": [3.0, 4.5]},
        "reports": {"corr": made, "depth": made, "seg": made},
    }


def lift(cosine: float) -> dict[str, Any]:
    capture = {
        "cpu_seconds": 10.0, "seconds": 20.0, "peak_bytes": 2**28, "load": [2.5, 3.0],
        "archive_bytes": 1_500_000, "feature_cosine_heldout": cosine,
    }  # fmt: skip
    other = {**capture, "peak_bytes": 2**27, "feature_cosine_heldout": cosine + 0.1}
    return {"captures": {"fox": capture, "shelf": other}}


def result(**rows: Any) -> dict[str, Any]:
    return {
        "protocol": PROTOCOL,
        "machine": {"cpu": "a processor", "cores": 2, "threads": 1},
        "lifts": {"base": lift(0.6), "features.dim-64": lift(0.7), "features.dim-16": lift(0.5)},
        "rows": {name.replace("_", "-"): made for name, made in rows.items()},
    }


def test_rows_are_settings_that_exist() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    known: set[str] = set()
    for line in ROWS:
        assert line.table in TABLES
        assert not line.same_as or (line.same_as in known and not line.tune)
        known |= {line.name} if not line.same_as else set()
        resolve("lift", sets=(*LIFT, *line.lift))
        tuned = resolve("finetune", sets=[f"finetune.{s}" for s in (*TUNE, *line.tune)])
        for setting in line.tune:  # what a row says counts, whatever all rows say
            path, _, text = setting.partition("=")
            value: Any = tuned.settings.finetune
            for name in path.split("."):
                value = getattr(value, name)
            assert value == text if isinstance(value, str) else value == float(text)
    resolve("probe", sets=PROBE)


def test_a_variant_is_named_by_what_differs() -> None:
    assert Row("x", "dim", "x").variant == "base"
    assert Row("x", "dim", "x", lift=("lift.features.dim=16",)).variant == "features.dim-16"
    told = Row("x", "dim", "x", tune=("lr=1",)).variant
    assert told == "base", "tuning takes the same archives"


def test_differences_and_noise() -> None:
    lines = table(result(l1=row(0.5, 0.2, 0.3), denoised=row(0.26, -0.1, 0.1)), "objective")
    head, _, base, first, second = lines.splitlines()
    assert head.startswith("| objective | recall |") and head.endswith("| tune CPU-s | tune MiB |")
    assert base.startswith("| base | 0.250 | 0.250 |")
    assert first.startswith("| l1 | 0.500 (+0.200 to +0.300) |")
    assert first.endswith("| 0.875 | 0.800 | 50 | 512 |")
    assert second.startswith(
        "| l1, denoised targets (2D control) | 0.260 (-0.100 to +0.100, noise)"
    )
    assert len({line.count("|") for line in lines.splitlines()}) == 1


def test_a_lifted_table_shows_what_the_lift_cost_and_only_what_was_lifted() -> None:
    made = result(l1=row(0.5, 0.2, 0.3), dim_16=row(0.4, 0.1, 0.2), dim_128=row(0.4, 0.1, 0.2))
    lines = table(made, "dim").splitlines()
    assert [line.split("|")[1].strip() for line in lines] == [
        "feature dimension", "---", "base", "64", "16",
    ]  # fmt: skip
    assert lines[3].endswith("| 20 | 256 | 3.0 | 0.750 | 50 | 512 |")
    assert len({line.count("|") for line in lines}) == 1


def test_assembly_shows_every_model() -> None:
    lines = table(result(l1_nce=row(0.5, 0.2, 0.3, "concat", "fused")), "assembly").splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "base",
        "tuned",
        "concat",
        "fused",
    ]


def test_what_was_not_run_is_said() -> None:
    made = result(l1=row(0.5, 0.2, 0.3), swin={"error": "exit 3: no"}, cosine=row(0.5, 0.2, 0.3))
    del made["rows"]["cosine"]["reports"]["seg"]
    assert table(made, "assembly") == "Not run."
    listed = missing(made).splitlines()
    assert "- trainable part, Swin block: failed" in listed
    assert "- trainable part, full: not run" in listed, "it repeats a row that was not"
    assert not any(line.startswith("- objective, l1:") for line in listed)
    assert "- objective, cosine: not run (seg)" in listed
    (line,) = (x for x in table(made, "objective").splitlines() if x.startswith("| cosine"))
    assert "| 0.500 (+0.200 to +0.300) | - | 0.875 |" in line


def test_the_protocol_tells_the_load() -> None:
    text = protocol(result(l1=row(0.5, 0.2, 0.3)))
    assert "load average while it ran 2.5 to 4.5" in text and "were 2.0 times" in text
    for setting in (*LIFT, *PROBE, *(f"finetune.{s}" for s in TUNE)):
        assert setting in text


def test_only_the_blocks_of_the_page_change() -> None:
    made = result(l1=row(0.5, 0.2, 0.3))
    page = fill(PAGE, made)
    assert "old" not in page and "Words on dim." in page
    assert fill(page, made) == page
    with pytest.raises(ValueError, match="solver"):
        fill(PAGE.replace("<!-- solver -->", ""), made)


def test_a_command_is_measured_and_a_failure_told(tmp_path: Path) -> None:
    runner = ablations.Runner(tmp_path, tmp_path / "w", tmp_path / "work", 0)
    with pytest.raises(ablations.CommandError, match=r"exit 2: .*no such file") as caught:
        runner.run("lift", str(tmp_path / "absent"))
    assert "fit3d lift" in str(caught.value)
    found, measured = runner.run("doctor", "--dry-run")
    assert found and measured["cpu_seconds"] > 0.05 and measured["peak_bytes"] > 2**24


def test_a_failed_row_is_noted_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def tune(self: ablations.Runner, line: Row) -> dict[str, Any]:
        ran.append(line.name)
        return dict(row(0.5, 0.2, 0.3)["tune"])

    def probe(self: ablations.Runner, line: Row, task: str, camvid: Path) -> dict[str, Any]:
        ran.append(f"{line.name}:{task}")
        if ran.count("l1:depth") == 1 and line.name == "l1":
            raise ablations.CommandError("exit 1: broken")
        return dict(row(0.5, 0.2, 0.3)["reports"][task])

    monkeypatch.setattr(ablations.Runner, "tune", tune)
    monkeypatch.setattr(ablations.Runner, "probe", probe)
    monkeypatch.setattr(ablations.Runner, "lift", lambda self, settings, variant: lift(0.5))
    monkeypatch.setattr(ablations, "camvid_tree", lambda *words: tmp_path)
    monkeypatch.setattr(
        ablations.machine, "describe", lambda threads: {"cpu": "", "cores": 2, "threads": 1}
    )
    out = tmp_path / "out.json"
    words = ["x", "--data", ".", "--weights", ".", "--workspace", str(tmp_path), "--out", str(out)]
    words += ["--row", "l1", "--row", "l1-nce", "--row", "dim-64"]
    monkeypatch.setattr(sys, "argv", words)
    assert ablations.main() == 1
    made = json.loads(out.read_text())
    assert made["rows"]["l1"]["error"] == "exit 1: broken"
    assert set(made["rows"]["l1"]["reports"]) == {"corr"}, "what was measured is kept"
    assert set(made["lifts"]) == {"base", "features.dim-64"}, "a repeated row is only lifted"
    done = len(ran)
    assert done == 2 + 1 + 4
    assert ablations.main() == 0, "the second run mends what failed"
    assert ran[done:] == ["l1:depth", "l1:seg"]
    monkeypatch.setattr(ablations, "PROTOCOL", {})
    with pytest.raises(SystemExit, match="another protocol"):
        ablations.main()
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    monkeypatch.setattr(sys, "argv", ["x", "--out", str(out), "--page", str(page)])
    monkeypatch.setattr(ablations.machine, "describe", None)
    assert ablations.main() == 0
    assert "| l1 | 0.500 (+0.200 to +0.300)" in page.read_text()


def test_the_split_is_that_of_the_recipes() -> None:
    stage = STAGES[ablations.STAGE]
    assert stage.scored not in stage.tuned_on
