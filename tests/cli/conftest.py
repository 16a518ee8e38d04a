"""The command, run in this process for speed; the banks that it works on; a service to import to."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, Protocol

import psycopg
import pytest
from click.testing import CliRunner, Result

from service import keys
from service.cli import main
from service.config import VARIABLES, Settings
from service.embedded import EmbeddedPostgres
from service.http_service import HttpService, claim_port
from service.owner import call, connect
from tests.conftest import Bank

_numbers = itertools.count(1)


class Run(Protocol):
    """Runs `pgteller ARGUMENTS` with these variables, and none of ours."""

    def __call__(self, *arguments: str, **environment: str) -> Result: ...


def run_command(arguments: tuple[str, ...], environment: Mapping[str, str]) -> Result:
    cleared: dict[str, str | None] = dict.fromkeys(VARIABLES.values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "execve", _refuse_to_become)
        return CliRunner().invoke(main, arguments, env={**cleared, **environment}, prog_name="pgteller")


def _refuse_to_become(program: str, *_: object) -> NoReturn:
    """Fail the test: a `serve` that should have refused would make a gunicorn of the whole run, which ends well."""
    pytest.fail(f"pgteller became {program}")


@pytest.fixture
def run(bank: Bank) -> Run:
    """The command on a fresh bank, reached by DATABASE_URL."""

    def run(*arguments: str, **environment: str) -> Result:
        urls = {"DATABASE_URL": bank.app_url, "DATABASE_OWNER_URL": bank.owner_url}
        return run_command(arguments, {**urls, **environment})

    return run


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A PGTELLER_HOME with nothing in it, which the tests of a module share."""
    yield from _home()


@pytest.fixture
def fresh_home() -> Iterator[Path]:
    """A PGTELLER_HOME with nothing in it."""
    yield from _home()


def _home() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="pgteller-home-"))
    yield directory
    EmbeddedPostgres(directory / "postgresql").destroy()  # its data may stand elsewhere, when run by root
    shutil.rmtree(directory)


def local_environment(home: Path) -> dict[str, str]:
    """The variables for the bank of this machine in `home`."""
    pgbin = os.environ.get("PGTELLER_TEST_PGBIN")
    return {"PGTELLER_HOME": str(home), "PORT": "0", **({"PGBIN": pgbin} if pgbin else {})}


@dataclass(frozen=True)
class Service:
    """A running HTTP service, with an API key."""

    bank: Bank
    url: str
    key: str


@pytest.fixture(scope="module")
def service(server: EmbeddedPostgres, template: str) -> Iterator[Service]:
    """The HTTP service on a bank that the tests of a module share."""
    bank = Bank(server, f"bank_cli_{next(_numbers)}")
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {bank.dbname} template {template} strategy wal_log")
        key = keys.make()
        with connect(bank.owner_url) as owner:
            call(owner, "create_api_key", name="tests", key_digest=keys.digest(key), scopes=list(keys.SCOPES))
        http = HttpService(claim_port(replace(Settings(), database_url=bank.app_url, port=0)))
        try:
            http.start()
            http.await_ready()
            yield Service(bank, http.url, key)
        finally:
            http.stop()
        connection.execute(f"drop database {bank.dbname} with (force)")
