"""Every command that a page shows is run, in order, against a fresh bank, and prints what the page says.

PGTELLER_WRITE_README=1 writes the output that it saw into the page instead of comparing.
"""

import os
import re
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from service.config import Settings
from service.embedded import find_binaries
from service.installation import ROOT
from service.local import LocalBank
from tests.cli.conftest import local_environment
from tests.cli.test_serve import serving
from tests.conftest import Bank

PAGES = ["README.md", "docs/movements.md"]
_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
_SQL = re.compile(r"```sql\n(.*?)```", re.DOTALL)
_END = "=== end of output ==="


def _run(commands: list[str], environment: dict[str, str]) -> list[str]:
    """Run the commands in one shell, as somebody who pastes them; return the output of each."""
    script = "\n".join(f"{command} 2>&1\necho '{_END}'" for command in commands)
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    return [part.strip("\n") for part in done.stdout.split(_END + "\n")[:-1]]


def _steady(text: str) -> str:
    """Replace what differs from one run to the next."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "2026-11-23T09:00:00.000000Z", text)
    return re.sub(r'"request_id":"[0-9a-f]{32}"', f'"request_id":"{"0" * 31}1"', text)


def test_every_page_with_commands_is_run() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    assert [str(page.relative_to(ROOT)) for page in pages if "```console" in page.read_text()] == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_what_its_commands_print(fresh_home: Path, page: str) -> None:
    path, home = ROOT / page, fresh_home
    readme = path.read_text()
    commands = [line[2:] for block in _BLOCK.findall(readme) for line in block.splitlines() if line[:2] == "$ "]
    with serving(local_environment(home), home / "output") as serve:
        here = [
            command.replace("http://127.0.0.1:8000", serve.url).replace("~/.local/share/pgteller", str(home))
            for command in commands
        ]
        binaries = f"{os.environ['PATH']}:{find_binaries()}"  # psql comes with the embedded PostgreSQL
        owner_url = LocalBank(Settings.from_environment(local_environment(home))).owner_url
        urls = {"BANK": serve.sql_url, "OWNER": owner_url}
        environment = {**os.environ, **local_environment(home), **urls, "PATH": binaries}
        outputs = iter(zip(commands, _run(here, environment), strict=True))

    def shown(block: re.Match[str]) -> str:
        parts = []
        for line in block[1].splitlines():
            if line.startswith("$ "):
                command, output = next(outputs)
                parts.append("\n".join([f"$ {command}", *([_steady(output)] if output else [])]))
        return "```console\n" + "\n".join(parts) + "\n```"

    actual = _BLOCK.sub(shown, readme)
    if os.environ.get("PGTELLER_WRITE_README"):
        path.write_text(actual)
    assert path.read_text() == actual


@pytest.mark.parametrize(
    ("lock", "together", "found"),
    [
        ("select from bank.account where account_id = 2 for update", 1, [True, True]),
        ("select from bank.account where account_id = 2 for share", 2, [True, False]),
        ("lock table bank.entry in access exclusive mode", 1, [True, False]),
        ("select from bank.account", 1, [False, False]),
    ],
)
def test_the_queries_of_a_slow_bank_find_who_holds_a_lock(
    bank: Bank, lock: str, together: int, found: list[bool]
) -> None:
    """As a superuser and as somebody who may read all statistics; the application sees nobody of another role."""
    queries = _SQL.findall((ROOT / "docs" / "slow.md").read_text())
    assert len(queries) == len(found)
    with ExitStack() as stack:
        watcher = stack.enter_context(psycopg.connect(bank.owner_url, autocommit=True, row_factory=dict_row))
        watcher.execute("select bank.open_account('Ada', 'EUR')")
        holders = [stack.enter_context(psycopg.connect(bank.owner_url)) for _ in range(together)]
        for holder in holders:
            holder.execute(lock.encode())
        time.sleep(1.1)  # the page asks for those who are at it for a second
        pids = {holder.info.backend_pid for holder in holders}

        def is_found(role: str, query: str) -> bool:
            with watcher.transaction(force_rollback=True):
                watcher.execute("create role watcher in role bank_owner, pg_read_all_stats")
                watcher.execute(f"set local role {role}".encode())
                rows = watcher.execute(query.encode()).fetchall()
            return pids <= {row["pid"] for row in rows if row["state"] == "idle in transaction"}

        for role in ("none", "watcher"):
            assert [is_found(role, query) for query in queries] == found, role
        assert not any(is_found("bank_app", query) for query in queries)
