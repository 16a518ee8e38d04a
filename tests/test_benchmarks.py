"""The harness runs from end to end with tiny sizes. No figure is looked at: timings belong in benchmarks/."""

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bars, load, report, run

BENCHMARKS = Path(run.__file__).parent
WORKLOADS = [workload for workloads in run.WORKLOADS.values() for workload in workloads]
SQL = ["tpcb", "ceiling", "transfer"]
BATCH = ["ceiling_batch_100_c2", "batch_100_c2"]
SLOW = ["slow_none", "slow_row"]
HTTP = ["http_noop_post", "http_transfer", "http_balance"]

needs_wrk = pytest.mark.skipif(load.wrk_version() is None, reason="wrk is not installed")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the raw figures of tiny benchmarks, all on one server."""
    folder = tmp_path_factory.mktemp("results")
    tiny = ["--seconds", "1", "--rounds", "1", "--warm-up", "0", "--accounts", "200", "--tpcb-scale", "1"]
    tiny += ["--lock-seconds", "1", "--results", str(folder)]
    assert run.main([*tiny, "--only", *SQL, *BATCH, *HTTP, *SLOW]) == 0
    return folder


def groups(results: Path) -> dict[str, Any]:
    [path] = results.glob("*.json")
    return dict(report.read(path)["groups"])


def test_sql_workloads_run_without_a_failure_and_the_ledger_verifies(results: Path) -> None:
    for name, workloads in (("sql", SQL), ("batch", BATCH)):
        group = groups(results)[name]
        assert list(group["runs"]) == workloads, group["notes"]
        assert all(run["calls"] > 0 and run["failed"] == 0 for [run] in group["runs"].values())
        assert (group["violations"], group["rejected"]) == (0, 0)


@needs_wrk
def test_http_workloads_run_without_a_refused_request_and_the_ledger_verifies(results: Path) -> None:
    group = groups(results)["http"]
    assert list(group["runs"]) == HTTP, group["notes"]
    assert all(run["calls"] > 0 and run["failed"] == 0 for [run] in group["runs"].values())
    assert (group["violations"], group["rejected"]) == (0, 0)


def test_requests_are_answered_beside_a_locked_row_and_those_for_it_are_granted_in_the_end(results: Path) -> None:
    group = groups(results)["slow"]
    assert list(group["runs"]) == SLOW, group["notes"]
    assert all(run["calls"] > 0 and run["failed"] == 0 for [run] in group["runs"].values())
    assert group["figures"]["slow_row: waiting, 201"] == 200
    assert (group["violations"], group["rejected"]) == (0, 0)


def test_results_are_printed_with_their_bars(results: Path) -> None:
    [path] = results.glob("*.json")
    printed = report.text(report.read(path))
    assert "bank.transfer, uniform" in printed
    assert "verify(): 0 violations. Transfers rejected: 0." in printed
    [line] = [line for line in printed.splitlines() if "uniform / TPC-B-like" in line]
    assert re.search(r">= 1.30 \| +[0-9.]+ \| +(held|missed) \|", line)


def test_the_page_shows_every_plot_and_is_the_same_when_drawn_again(results: Path) -> None:

    def drawn() -> dict[str, str]:
        report.draw(results, list(results.glob("*.json")))
        return {path.name: path.read_text() for path in results.iterdir() if path.suffix != ".json"}

    files = drawn()
    assert {"README.md", "bars.svg", "batch.svg", "sql.svg"} <= set(files)
    assert all(f"({name})" in files["README.md"] for name in files if name.endswith(".svg"))
    assert drawn() == files


def test_every_workload_has_a_name_of_its_own_and_its_script() -> None:
    names = [workload.name for workload in WORKLOADS]
    assert len(names) == len(set(names))
    for workload in WORKLOADS:
        if workload.script is not None:
            folder = load.SCRIPTS if workload.script.endswith(".lua") else BENCHMARKS
            assert (folder / workload.script).is_file(), workload.name


def test_every_script_is_of_a_workload_or_used_by_one() -> None:
    scripts = {Path(workload.script).name for workload in WORKLOADS if workload.script is not None}
    source = "".join(path.read_text() for path in [*BENCHMARKS.glob("*.py"), *load.SCRIPTS.glob("*.lua")])
    for path in [*load.SCRIPTS.iterdir(), *(BENCHMARKS / "peers").glob("*.*")]:
        assert path.name in scripts or path.stem in source, path.name


def test_every_bar_and_every_base_of_a_ratio_names_something_that_is_measured() -> None:
    names = {workload.name for workload in WORKLOADS} | {"growth_20m", "growth_20m_base"}
    names |= {"unkeyed_bytes", "keyed_bytes"}
    assert {bar.of for bar in bars.BARS} | {bar.to for bar in bars.BARS if bar.to is not None} <= names
    assert set(bars.BASES.values()) <= names


def test_every_workload_is_explained() -> None:
    text = (BENCHMARKS / "README.md").read_text()
    for group in run.GROUPS:
        assert f"`{group}`" in text, group
