"""The load generators, pgbench for SQL and wrk for HTTP, and what is kept of one run of either."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.embedded import EmbeddedPostgres

SCRIPTS = Path(__file__).resolve().parent / "workloads"
THREADS = min(2, os.cpu_count() or 1)
"""Of the generator, which shares the machine with what it measures."""


class LoadError(RuntimeError):
    """A load generator failed; the message is what it said."""


@dataclass(frozen=True)
class Measure:
    """One run of one workload."""

    rate: float
    """Items a second that succeeded: transfers, requests or whatever the workload counts."""
    calls: int
    """Calls that succeeded; each has the workload's number of items."""
    failed: int
    """Calls that did not; they are in no other figure."""
    seconds: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None


def pgbench(
    server: EmbeddedPostgres,
    database: str,
    script: str | None,
    *,
    connections: int,
    seconds: int,
    seed: int,
    items: int = 1,
    variables: Mapping[str, int] = {},
) -> Measure:
    """Run a script of workloads/ or peers/, or pgbench's own TPC-B-like one, and read the time of every call.

    script: relative to benchmarks/; None for TPC-B. variables: what the script knows as :name.
    """
    with tempfile.TemporaryDirectory(prefix="pgteller-pgbench-") as logs:
        arguments = ["--no-vacuum", "--protocol=prepared", f"--client={connections}"]
        arguments += [f"--jobs={min(THREADS, connections)}", f"--time={seconds}", f"--random-seed={seed}"]
        arguments += ["--log", f"--log-prefix={logs}/log"]
        arguments += [f"--define={name}={value}" for name, value in variables.items()]
        arguments += [f"--file={SCRIPTS.parent / script}"] if script is not None else []
        output = run_pgbench(server, database, arguments)
        times_us, failed = _read_logs(Path(logs))
    found = re.search(r"tps = ([\d.]+)", output)
    if found is None or not times_us:
        raise LoadError(f"pgbench finished no call of {script or 'TPC-B'}:\n{output}")
    rate = float(found[1])
    return Measure(
        rate=rate * items,
        calls=len(times_us),
        failed=failed,
        seconds=len(times_us) / rate,
        p50_ms=quantile(times_us, 0.5) / 1000,
        p99_ms=quantile(times_us, 0.99) / 1000,
        max_ms=times_us[-1] / 1000,
    )


def run_pgbench(server: EmbeddedPostgres, database: str, arguments: Sequence[str]) -> str:
    """Run the pgbench that belongs to the server and return what it prints; raises LoadError."""
    command = [str(server.binaries / "pgbench"), *arguments, server.conninfo(database)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "ERROR" in line] or [done.stderr]
        raise LoadError(f"pgbench: {errors[0]}")
    return done.stdout


def _read_logs(folder: Path) -> tuple[list[int], int]:
    """Return the microseconds of every call that succeeded, in ascending order, and how many failed."""
    times = [line.split(maxsplit=3)[2] for path in folder.iterdir() for line in path.read_text().splitlines()]
    succeeded = sorted(int(time) for time in times if time.isdigit())
    return succeeded, len(times) - len(succeeded)


def quantile(ascending: Sequence[float], fraction: float) -> float:
    """Return the value that `fraction` of the values do not exceed."""
    return ascending[min(len(ascending) - 1, int(fraction * len(ascending)))]


def wrk_version() -> str | None:
    """Return the version of wrk; None when it is not installed."""
    if shutil.which("wrk") is None:
        return None
    shown = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False)
    return (shown.stdout + shown.stderr).partition(" [")[0].strip()


def wrk(
    url: str, script: str, *, connections: int, seconds: int, items: int = 1, variables: Mapping[str, str | int] = {}
) -> Measure:
    """Run a Lua script of workloads/, which finds the variables in its environment. A non-2xx answer is a failure."""
    threads = min(THREADS, connections)
    command = ["wrk", f"--threads={threads}", f"--connections={connections}", f"--duration={seconds}s"]
    command += ["--timeout=30s", f"--script={SCRIPTS / script}", url]
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SCRIPTS, env=environment)
    if done.returncode != 0 or "{" not in done.stdout:
        raise LoadError(f"wrk: {done.stdout}{done.stderr}")
    found = json.loads(done.stdout[done.stdout.rindex("{") :])
    succeeded = found["requests"] - found["refused"]
    if succeeded <= 0:
        raise LoadError(f"wrk got no successful answer from {url} with {script}: {found}")
    elapsed = found["microseconds"] / 1e6
    return Measure(
        rate=succeeded * items / elapsed,
        calls=succeeded,
        failed=found["refused"] + found["broken"],
        seconds=elapsed,
        p50_ms=found["p50_us"] / 1000,
        p99_ms=found["p99_us"] / 1000,
        max_ms=found["max_us"] / 1000,
    )
