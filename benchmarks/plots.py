"""The plots of the page of results, as SVG that is the same for the same figures."""

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pygal
from pygal.style import CleanStyle

from benchmarks.bars import BARS

WIDTH = 840
ROW_HEIGHT = 26


def draw(folder: Path, groups: Mapping[str, Any], values: Mapping[str, float]) -> dict[str, str]:
    """Write NAME.svg for everything that there are figures for; return the titles by name."""
    charts = {"bars": _bars(values)}
    for name, group in groups.items():
        if name == "batch":
            charts[name] = _batches(values)
        elif name == "connections":
            charts[name] = _connections(values)
        elif name == "growth":
            charts[name] = _growth(group, values)
        elif name == "storage":
            charts[name] = _storage(values)
        elif group["runs"]:
            charts[name] = _workloads(f"{name}: a second, median", group)
    for name, chart in charts.items():
        # The generator signs with the date.
        svg = re.sub(r"<!--.*?-->", "", chart.render(is_unicode=True), flags=re.DOTALL)
        (folder / f"{name}.svg").write_text(svg + "\n", encoding="utf-8")
    return {name: str(chart.config.title) for name, chart in charts.items()}


def _style(chart: type, title: str, rows: int = 12, **options: Any) -> Any:
    style = CleanStyle(font_family="sans-serif", label_font_size=12, major_label_font_size=12, value_font_size=11)
    return chart(
        title=title, style=style, width=WIDTH, height=110 + rows * ROW_HEIGHT, js=(), no_prefix=True,
        disable_xml_declaration=True, pretty_print=False, truncate_label=-1, truncate_legend=-1, **options,
    )  # fmt: skip


def _bars(values: Mapping[str, float]) -> Any:
    """Each bar of issue 3 as 100 %, and how much of it was reached; what may be at most so much is turned round."""
    found = [(bar, measured) for bar in BARS if (measured := bar.measured(values)) is not None]
    chart = _style(
        pygal.HorizontalBar, "Reached, in percent of what issue 3 asks for (100 is enough)", len(found),
        show_legend=False, print_values=True, formatter=lambda value: f"{value:.0f}",
    )  # fmt: skip
    chart.x_labels = [bar.what for bar, _ in reversed(found)]
    shares = [100 * (bar.bound / value if bar.at_most else value / bar.bound) for bar, value in reversed(found)]
    chart.add("reached", [{"value": share, "color": "#2a7f3f" if share >= 100 else "#b5442e"} for share in shares])
    return chart


def _workloads(title: str, group: Mapping[str, Any]) -> Any:
    """A line for each workload."""
    chart = _style(
        pygal.HorizontalBar, title, len(group["runs"]), show_legend=False, print_values=True, formatter=_thousands
    )
    names = list(reversed(group["runs"]))
    chart.x_labels = [group["titles"][name] for name in names]
    chart.add("a second", [statistics.median(run["rate"] for run in group["runs"][name]) for name in names])
    return chart


def _batches(values: Mapping[str, float]) -> Any:
    chart = _style(pygal.Line, "post_transfers: transfers a second by items a call", formatter=_thousands)
    series = {"ceiling": "ceiling_batch_{}_c{}", "post_transfers": "batch_{}_c{}"}
    return _lines(
        chart, (1, 10, 100, 1_000, 10_000), values,
        {f"{title}, {c} conn.": pattern.format("{}", c) for title, pattern in series.items() for c in (1, 2)},
    )  # fmt: skip


def _connections(values: Mapping[str, float]) -> Any:
    chart = _style(pygal.Line, "bank.transfer: a second by connections", formatter=_thousands, show_legend=False)
    return _lines(chart, (1, 2, 4, 8, 16, 32, 64, 128, 256), values, {"bank.transfer": "transfer_c{}"})


def _growth(group: Mapping[str, Any], values: Mapping[str, float]) -> Any:
    chart = _style(pygal.Line, "bank.transfer: a second by transfers in the ledger", formatter=_thousands)
    labels = [name.removesuffix("_transfers") for name in group["figures"] if name.endswith("_transfers")]
    patterns = {
        "transfer": "growth_{}", "beside it, smallest history": "growth_{}_base",
        "with random UUID": "growth_{}_keyed", "beside it, with random UUID": "growth_{}_keyed_base",
    }  # fmt: skip
    return _lines(chart, labels, values, patterns)


def _storage(values: Mapping[str, float]) -> Any:
    chart = _style(pygal.StackedBar, "Bytes a transfer (at most 450 asked for)", formatter=_thousands)
    chart.x_labels = ["without keys", "with keys"]
    for part in ("heap", "index"):
        chart.add(part, [values[f"{keyed}_{part}_bytes"] for keyed in ("unkeyed", "keyed")])
    return chart


def _lines(chart: Any, positions: Sequence[object], values: Mapping[str, float], patterns: Mapping[str, str]) -> Any:
    """Add a line for each pattern that has values, over the positions that any has."""
    known = [position for position in positions if any(p.format(position) in values for p in patterns.values())]
    chart.range = (0, max([values.get(p.format(at), 0.0) for at in known for p in patterns.values()], default=1.0))
    chart.x_labels = [f"{position:,}" if isinstance(position, int) else str(position) for position in known]
    for title, pattern in patterns.items():
        points = [values.get(pattern.format(position)) for position in known]
        if any(point is not None for point in points):
            chart.add(title, points)
    return chart


def _thousands(value: float) -> str:
    return f"{value:,.0f}"
