"""What the figures depend on beside the code: commit, processor, server and service settings."""

import platform
import re
import shutil
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.load import THREADS, wrk_version
from benchmarks.server import SEED_THREADS, Bench

HERE = Path(__file__).resolve().parent
SERVICE_SETTINGS = ("workers", "pool_connections_max", "coalescer_flushes_max", "coalescer_queue_max")


def facts(bench: Bench) -> dict[str, Any]:
    """Return what is written beside the figures."""
    service = bench.service_settings()
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu(),
        "memory_gb": _memory_gb(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "postgresql": bench.shown_settings(),
        "seed": {"workers": service.workers, "threads": SEED_THREADS, "pool": SEED_THREADS},
        "service": {name: getattr(service, name) for name in SERVICE_SETTINGS},
        "generators": {"wrk": wrk_version(), "threads": THREADS, "pgbench protocol": "prepared"},
        "options": {
            name: str(value) if isinstance(value, Path) else value for name, value in asdict(bench.options).items()
        },
    }


def _commit() -> str:
    """Return the commit, with a + when something but the results differs from it; empty outside a checkout."""
    changes = _git("status", "--porcelain", "--", ":/", ":(exclude)results")
    return _git("rev-parse", "--short", "HEAD") + ("+" if changes else "")


def _git(*arguments: str) -> str:
    if shutil.which("git") is None:
        return ""
    done = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _cpu() -> str:
    """Return the processor's name and the number of cores."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) or [platform.processor()]
    return f"{len(names)} x {names[0]}"


def _memory_gb() -> int:
    found = re.search(r"MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    return round(int(found[1]) / 2**20) if found else 0
