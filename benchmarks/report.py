"""Tables, the page of results and its plots, from the raw figures.

    python -m benchmarks.report [FILE ...]

draws benchmarks/results/README.md and the plots beside it anew: from these files, or from every complete one there is,
in which case the newest measurement of each group counts.
"""

import argparse
import importlib.util
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.bars import BARS, BASES
from benchmarks.plan import Group

RESULTS = Path(__file__).resolve().parent / "results"
ACCOUNTS_OF_THE_PAGE = 100_000

Raw = dict[str, Any]
"""A file: what it depends on (machine.facts), and groups by name."""


def write(path: Path, about: Mapping[str, Any], groups: Mapping[str, Group]) -> None:
    """Write the raw figures of a run."""
    path.parent.mkdir(exist_ok=True)
    document = {**about, "groups": {name: asdict(group) for name, group in groups.items()}}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Raw:
    """Read them; each group knows where it comes from."""
    raw: Raw = json.loads(path.read_text(encoding="utf-8"))
    for group in raw.get("groups", {}).values():
        group["source"] = {"file": path.name, "commit": raw["commit"], "at": raw["at"], "options": raw["options"]}
    return raw


def values(raw: Raw) -> dict[str, float]:
    """Return the median rate of each workload, and each figure."""
    found: dict[str, float] = {}
    for group in raw["groups"].values():
        found |= group["figures"]
        found |= {name: statistics.median(run["rate"] for run in runs) for name, runs in group["runs"].items()}
    return found


def text(raw: Raw) -> str:
    """Return all tables, readable in a terminal and in Markdown."""
    parts = []
    for name, group in raw["groups"].items():
        parts += [f"\n### {name}\n", *_group_lines(name, group)]
    parts += ["\n### What issue 3 asks for\n", *_bar_lines(values(raw)), "", _about_line(raw)]
    return "\n".join(parts)


def _group_lines(name: str, group: dict[str, Any]) -> list[str]:
    lines = []
    if group["runs"]:
        lines += _table([_HEADER, *_rows(name, group)])
    if group["figures"]:
        figures = [(figure.replace("_", " "), f"{value:,.1f}") for figure, value in group["figures"].items()]
        lines += [*([""] if lines else []), *_table([("figure", "value"), *figures])]
    lines += [""] if lines else []
    lines += [f"Note: {note}." for note in group["notes"]]
    if group["violations"] is not None:
        lines.append(f"verify(): {group['violations']} violations. Transfers rejected: {group['rejected']}.")
    return lines


_HEADER = ("workload", "median/s", "min", "max", "ratio", "p50 ms", "p99 ms", "max ms", "failed")


def _rows(name: str, group: dict[str, Any]) -> list[tuple[str, ...]]:
    medians = {workload: statistics.median(run["rate"] for run in runs) for workload, runs in group["runs"].items()}
    rows = []
    for workload, runs in group["runs"].items():
        rates = [run["rate"] for run in runs]
        base = medians.get(f"{workload}_base") or medians.get(BASES.get(name, ""))
        rows.append(
            (
                group["titles"][workload],
                *(f"{rate:,.0f}" for rate in (medians[workload], min(rates), max(rates))),
                f"{medians[workload] / base:.2f}" if base else "",
                *(_latency(runs, quantity) for quantity in ("p50_ms", "p99_ms", "max_ms")),
                f"{sum(run['failed'] for run in runs):,}",
            )
        )
    return rows


def _latency(runs: Sequence[Mapping[str, Any]], quantity: str) -> str:
    """Return the median over the runs; of the maxima the highest."""
    known = [run[quantity] for run in runs if run[quantity] is not None]
    if not known:
        return ""
    return f"{max(known) if quantity == 'max_ms' else statistics.median(known):,.2f}"


def _bar_lines(found: Mapping[str, float]) -> list[str]:
    rows = [("what", "bar", "measured", "")]
    for bar in BARS:
        measured = bar.measured(found)
        sign = "<=" if bar.at_most else ">="
        verdict = "not measured" if measured is None else "held" if bar.is_held(measured) else "missed"
        shown = "" if measured is None else _number(measured, bar.to)
        rows.append((bar.what, f"{sign} {_number(bar.bound, bar.to)}", shown, verdict))
    return _table(rows)


def _number(value: float, to: str | None) -> str:
    return f"{value:,.0f}" if to is None else f"{value:.2f}"


def _about_line(raw: Raw) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in raw["postgresql"].items())
    service = ", ".join(f"{name} {value}" for name, value in raw["service"].items())
    generators = ", ".join(f"{name} {value}" for name, value in raw["generators"].items())
    options = raw["options"]
    return (
        f"Commit {raw['commit']}, {raw['at']}. {raw['cpu']}, {raw['memory_gb']} GB, Linux {raw['kernel']}, Python "
        f"{raw['python']}. PostgreSQL: {settings}. Service: {service}. Generators: {generators}. {options['rounds']} "
        f"rounds of {options['seconds']} seconds, {options['accounts']:,} accounts, TPC-B scale "
        f"{options['tpcb_scale']}, seed {options['seed']}."
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table whose columns are aligned; all but the first to the right."""
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(_padded(row, widths)) + " |" for row in rows]
    rule = "| " + " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]) + " |"
    return [lines[0], rule, *lines[1:]]


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]


# ---- the page ----------------------------------------------------------------------------------------------


def draw(folder: Path, files: Sequence[Path] = ()) -> None:
    """Write README.md and the plots into the folder; nothing when no file can be used."""
    if importlib.util.find_spec("pygal") is None:
        print("The page and its plots were not drawn: they need pip install -e '.[bench]'", file=sys.stderr)
        return
    from benchmarks import plots  # noqa: PLC0415 - needs pygal, and nothing else here does

    raws = [read(path) for path in files] or [raw for path in sorted(folder.glob("*.json")) if _fit(raw := read(path))]
    if not raws:
        return
    merged: Raw = {**raws[-1], "groups": {}}
    for raw in raws:
        merged["groups"] |= raw["groups"]
    titles = plots.draw(folder, merged["groups"], values(merged))
    parts = [
        "# Results",
        "",
        "Drawn by `python -m benchmarks.report` from the raw figures in this folder: the newest complete measurement "
        "of each group.\nWhat each workload is, and what the figures leave out: [../README.md](../README.md).",
        "",
        "## What issue 3 asks for",
        "",
        *_bar_lines(values(merged)),
    ]
    sources = {group["source"]["file"] for group in merged["groups"].values()}
    if len(sources) > 1:
        parts += ["", "Groups come from different runs, so a ratio across groups compares different moments."]
    parts += [line for name, title in titles.items() if name == "bars" for line in ("", f"![{title}]({name}.svg)")]
    for name, group in merged["groups"].items():
        source = group["source"]
        options = source["options"]
        parts += ["", f"## {name}", ""]
        parts.append(
            f"`{source['file']}`, commit {source['commit']}, "
            f"{options['rounds']} rounds of {options['seconds']} seconds."
        )
        parts += ["", *_group_lines(name, group)]
        parts += ["", f"![{titles[name]}]({name}.svg)"] if name in titles else []
    parts += ["", "## Machine", "", _about_line(merged), ""]
    (folder / "README.md").write_text("\n".join(parts), encoding="utf-8")


def _fit(raw: Raw) -> bool:
    """Whether a file may stand on the page: of today's form, with all workloads of its groups and all accounts."""
    if "groups" not in raw or not raw["groups"] or raw["options"]["accounts"] != ACCOUNTS_OF_THE_PAGE:
        return False
    return set(raw["options"]["only"]) <= set(raw["groups"])


def main() -> int:
    """Draw the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the page")
    options = parser.parse_args()
    draw(options.results, options.files)
    return 0


if __name__ == "__main__":
    sys.exit(main())
