"""Sessions of the service and the commands are set as the functions need them, whatever the database's defaults are."""

import asyncio
import itertools
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
from psycopg import sql

from service.config import Settings
from service.db import Pool
from service.embedded import EmbeddedPostgres
from service.errors import from_database
from service.migrate import migrate
from service.owner import connect
from service.postings import Item, Postings
from service.session import session_options
from tests.cli.conftest import run_command
from tests.conftest import Bank
from tests.helpers import call
from tests.http.conftest import balance_of, new_key, open_account, problem_of, transfer
from tests.http_server import HttpServer, create_key
from tests.pgbouncer import direct_only

DEFAULTS = [
    {"default_transaction_isolation": "serializable"},
    {"default_transaction_isolation": "repeatable read"},
    {"datestyle": "SQL, DMY", "array_nulls": "off", "standard_conforming_strings": "off", "timezone": "Asia/Tokyo"},
]
each_default = pytest.mark.parametrize("defaults", DEFAULTS, ids=[",".join(each.values()) for each in DEFAULTS])

# An answer that tells how the session is set that made it.
TELLTALE = """
    create or replace function bank.account(account_id bigint, ledger_id bigint default 1)
    returns bank.account_detail language plpgsql as $$
    begin
        raise exception using errcode = 'TLTEL', message = 'telltale', detail = jsonb_build_object(
            'isolation', current_setting('transaction_isolation'), 'zone', current_setting('timezone'),
            'date_style', current_setting('datestyle'), 'encoding', current_setting('client_encoding'),
            'work_mem', current_setting('work_mem')
        );
    end $$
"""
_numbers = itertools.count(1)


def set_defaults(bank: Bank, defaults: dict[str, str]) -> None:
    """Let new sessions of the database begin with these settings, and those of the application's role too."""
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        for name, value in defaults.items():
            literal = sql.Literal(value).as_string(superuser)
            superuser.execute(f"alter database {bank.dbname} set {name} = {literal}".encode())
            superuser.execute(f"alter role bank_app in database {bank.dbname} set {name} = {literal}".encode())


def story(client: httpx.Client) -> None:
    """Postings of each kind, many at a time."""
    ada, bob = open_account(client, balance_minor=100), open_account(client)
    assert transfer(client, ada, bob, 10).status_code == 201
    hold = {"account_id": ada, "amount_minor": 5, "expires_at": "2090-01-02T03:04:05Z"}
    held = client.post("/v1/holds", json=hold, headers=new_key())
    assert held.status_code == 201, held.text
    read = client.get(f"/v1/holds/{held.json()['transaction_id']}").json()
    assert read["expires_at"].startswith("2090-01-02T03:04:05")
    one = {"debit_account_id": ada, "credit_account_id": bob, "amount_minor": 1}
    batch = [one, {**one, "description": "\\'"}]
    rows = client.post("/v1/transfers/batch", json={"transfers": batch}, headers=new_key()).json()["transfers"]
    assert [(row["transaction_status"], row["description"]) for row in rows] == [("success", None), ("success", "\\'")]
    key = new_key()
    legs = [{"account_id": ada, "amount_minor": -3}, {"account_id": bob, "amount_minor": 3}]
    answers = [client.post("/v1/transactions", json={"legs": legs}, headers=key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert transfer(client, ada, bob, 1000).json()["code"] == "insufficient_funds"
    assert client.post("/v1/sweeps?dry_run=true", json={"debit_account_id": bob, "credit_account_id": ada}, headers=key)
    assert (balance_of(client, ada), balance_of(client, bob)) == (85, 15)


@direct_only("a pooler takes no `options`")
@each_default
def test_the_service_and_the_commands_work_whatever_the_database_defaults_to(
    bank: Bank, defaults: dict[str, str]
) -> None:
    set_defaults(bank, defaults)
    urls = {"DATABASE_URL": bank.app_url, "DATABASE_OWNER_URL": bank.owner_url}
    key, _ = create_key(bank)
    http = HttpServer(f"{bank.app_url}&options={quote('-c work_mem=7MB')}", workers=1)
    try:
        http.start()
        with http.client(key) as client:
            story(client)
            for command in (["migrate"], ["verify"], ["status"], ["keys", "create", "shop"], ["keys", "list"]):
                result = run_command(tuple(command), urls)
                # Nothing listens where `status` looks for the service, which is no failure.
                assert result.exit_code == 0, result.output
            with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
                superuser.execute(TELLTALE)
            told = problem_of(client.get("/v1/accounts/1"), 400, "telltale")
        expected = {"isolation": "read committed", "zone": "UTC", "encoding": "UTF8", "work_mem": "7MB"}
        assert {name: told[name] for name in expected} == expected
        assert told["date_style"].startswith("ISO")
        assert "Traceback" not in http.log()
    finally:
        http.stop()
    for role in ("bank_owner", "bank_app"):
        with connect(bank.owner_url, role) as connection:
            assert connection.execute("show transaction_isolation").fetchall() == [
                {"transaction_isolation": "read committed"}
            ]


@each_default
def test_migrations_are_applied_at_read_committed(server: EmbeddedPostgres, defaults: dict[str, str]) -> None:
    bank = Bank(server, f"sessions_{next(_numbers)}")
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as superuser:
        superuser.execute(f"create database {bank.dbname}".encode())
    try:
        with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
            superuser.execute("create table told (isolation text, strings text)")
            superuser.execute("grant insert on told to public")
            superuser.execute("""
                create function tell() returns event_trigger language plpgsql as $$ begin
                    insert into public.told
                    values (current_setting('transaction_isolation'), current_setting('standard_conforming_strings'));
                end $$
            """)
            superuser.execute("create event trigger tell on ddl_command_end execute function tell()")
            for name, value in defaults.items():
                literal = sql.Literal(value).as_string(superuser)
                superuser.execute(f"alter database {bank.dbname} set {name} = {literal}".encode())
            migrate(bank.owner_url)
            assert superuser.execute("select distinct * from told").fetchall() == [("read committed", "on")]
    finally:
        with psycopg.connect(server.conninfo("postgres"), autocommit=True) as superuser:
            superuser.execute(f"drop database {bank.dbname} with (force)".encode())


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("-c work_mem=7MB", {"work_mem": "7MB"}),
        (r"-c application_name=a\ b -c default_transaction_isolation=serializable", {"application_name": "a b"}),
        ("", {}),
    ],
)
def test_options_of_the_url_are_kept_and_ours_win(bank: Bank, asked: str, kept: dict[str, str]) -> None:
    url = f"{bank.owner_url}&options={quote(asked)}"
    options = session_options(url, application_name=r"back\slash and blank") if not kept else session_options(url)
    with psycopg.connect(url, options=options) as connection:
        for name, value in {**kept, "transaction_isolation": "read committed"}.items():
            assert connection.execute("select current_setting(%s)", [name]).fetchone() == (value,)
        if not kept:
            assert connection.execute("show application_name").fetchone() == (r"back\slash and blank",)


def test_the_name_that_the_url_gives_to_the_sessions_is_kept(bank: Bank) -> None:
    http = HttpServer(f"{bank.app_url}&application_name=till-7", workers=1)
    try:
        http.start()
        query = "select distinct application_name from pg_stat_activity where usename = 'bank_app' and datname = %s"
        with psycopg.connect(bank.owner_url) as superuser:
            assert superuser.execute(query, [bank.dbname]).fetchall() == [("till-7",)]
    finally:
        http.stop()


def test_a_letter_that_the_database_does_not_have_is_the_fault_of_its_request_alone(server: EmbeddedPostgres) -> None:
    bank = Bank(server, f"sessions_{next(_numbers)}")
    create = f"create database {bank.dbname} template template0 encoding 'WIN1252' locale 'C'"
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as superuser:
        superuser.execute(create.encode())
    try:
        migrate(bank.owner_url)
        with bank.connect() as app:
            ada, bob = (call(app, "open_account", "Ada", "EUR", None)["account_id"] for _ in range(2))
        texts = ["\u20ac", "\U0001f3e6", "\u2003", "caf\u00e9", None]
        chosen = replace(Settings(), database_url=bank.owner_url, coalescer_flushes_max=1)

        async def post() -> list[dict[str, Any] | BaseException]:
            async with Pool(chosen) as pool:
                postings = Postings(pool, chosen)
                items = [Item("transfer", ada, bob, 1, f"k{n}", text, None, "{}") for n, text in enumerate(texts)]
                return await asyncio.gather(*(postings.submit(1, item) for item in items), return_exceptions=True)

        outcomes = asyncio.run(post())
        codes = [
            from_database(each).body["code"] if isinstance(each, psycopg.Error) else each["description"]  # type: ignore[index]
            for each in outcomes
        ]
        assert codes == [texts[0], "invalid_request", "invalid_request", texts[3], None]
    finally:
        with psycopg.connect(server.conninfo("postgres"), autocommit=True) as superuser:
            superuser.execute(f"drop database {bank.dbname} with (force)".encode())
