"""A disk that fills up: postings are refused with 503 until there is room, and nothing acknowledged is lost."""

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psycopg
import pytest

from service.embedded import EmbeddedPostgres
from tests.cli.conftest import local_environment
from tests.cli.test_serve import Serve, serving
from tests.http_server import violations, wait_for

DISK_BYTES = 200 << 20
POSTINGS_MAX = 2000

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a tmpfs")

_numbers = itertools.count(1)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of its own for the bank; a skip where none can be mounted."""
    directory = Path(tempfile.mkdtemp(prefix="pgteller-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0755", "tmpfs", str(directory)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        if not mounted:
            pytest.skip("a tmpfs cannot be mounted here: that takes root and CAP_SYS_ADMIN")
        home = directory / "home"
        yield home
        EmbeddedPostgres(home / "postgresql").destroy()
    finally:
        if mounted:
            subprocess.run(["umount", str(directory)], check=True)
        directory.rmdir()


def fill(disk: Path) -> Path:
    """Leave no room on the disk; return the file that takes it."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    with suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(512))
    return filler


def test_the_bank_outlives_a_full_disk_and_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    with serving(local_environment(small_disk), tmp_path / "output") as serve:
        headers = {"Authorization": f"Bearer {serve.key}"}
        with httpx.Client(base_url=serve.url, headers=headers, timeout=60) as client:
            opening = {"Idempotency-Key": "open"}
            opened = client.post("/v1/accounts", json={"holder_name": "Ada", "currency": "EUR"}, headers=opening)
            account_id = opened.json()["account_id"]
            acknowledged = [post(client, account_id) for _ in range(5)]
            assert {answer.status_code for answer in acknowledged} == {201}

            filler = fill(small_disk)
            refused = post_until_refused(client, serve, account_id, acknowledged)
            assert refused.status_code == 503, refused.text
            assert refused.json()["code"] in ("database_unavailable", "outcome_unknown"), refused.text
            # PostgreSQL is tried again, and cannot start: its recovery needs room too.
            wait_for(lambda: serve.output.count("starting it again in") >= 2, "two attempts to start it failed", 120)
            assert "are free in" in serve.output
            assert serve.process.poll() is None
            # The first one may get a connection from before the crash, which cannot tell what became of it.
            wait_for(lambda: post(client, account_id).json()["code"] == "database_unavailable", "nothing is sent", 60)

            filler.unlink()
            wait_for(lambda: post(client, account_id, acknowledged).status_code == 201, "it posts again", 60)
            found = check(serve, account_id)
            assert {answer.json()["transaction_id"] for answer in acknowledged} <= found
        assert serve.stop() == 0


def post(client: httpx.Client, account_id: int, acknowledged: list[httpx.Response] | None = None) -> httpx.Response:
    answer = client.post(
        f"/v1/accounts/{account_id}/credit",
        json={"amount_minor": 1},
        headers={"Idempotency-Key": f"full-disk-{next(_numbers)}"},
    )
    assert answer.status_code in (201, 503), answer.text
    if acknowledged is not None and answer.status_code == 201:
        acknowledged.append(answer)
    return answer


def post_until_refused(
    client: httpx.Client, serve: Serve, account_id: int, acknowledged: list[httpx.Response]
) -> httpx.Response:
    """Post until there is no room for the write-ahead log; a new segment of it is begun each time to get there."""
    for _ in range(POSTINGS_MAX):
        answer = post(client, account_id, acknowledged)
        if answer.status_code != 201:
            return answer
        with suppress(psycopg.OperationalError), psycopg.connect(owner_url(serve), autocommit=True) as connection:
            connection.execute("select pg_switch_wal()")
    raise AssertionError("the disk was never full")


def owner_url(serve: Serve) -> str:
    home = Path(serve.sql_url.partition("host=")[2].partition("&")[0].replace("%2F", "/")).parents[2]
    return EmbeddedPostgres(home / "postgresql").conninfo("bank")


def check(serve: Serve, account_id: int) -> set[int]:
    """Return the ids of the account's transactions; nothing is wrong in the ledger."""
    with psycopg.connect(owner_url(serve), row_factory=psycopg.rows.dict_row) as connection:
        assert violations(connection) == []
        rows = connection.execute("select transaction_id from bank.entry where account_id = %s", [account_id])
        return {row["transaction_id"] for row in rows}
