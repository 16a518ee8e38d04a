"""The rules of this house, executable. When one fails, its docstring says what to do."""

import inspect
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from service import account_life, accounts, app, config, docs, holds, movements, pages, postings, transactions
from service.docs import header, sql_readme
from service.installation import MIGRATIONS, ROOT, SQL, error_catalogue, sql_files
from service.keys import SCOPES
from tests.conftest import Bank, Connection

# A request field is an argument of the function under another name only here.
_RENAMED = {
    "statement": {"limit": "page_size", "cursor": "before_version"},
    "account_changes": {"limit": "page_size", "cursor": "before_change_number"},
}


def _functions(owner: Connection) -> dict[str, dict[str, Any]]:
    rows = owner.execute(
        """
        select p.proname, p.prosecdef, p.proconfig, p.proargnames, p.pronargs,
               obj_description(p.oid) as comment, pg_get_userbyid(p.proowner) as owner
        from pg_proc as p where p.pronamespace = 'bank'::regnamespace
        """
    ).fetchall()
    return {str(row["proname"]): row for row in rows}


def _code_of(path: Path) -> str:
    """Return the file without its comments."""
    return re.sub(r"--[^\n]*", "", path.read_text(encoding="utf-8"))


def _sql_paths() -> list[Path]:
    return [path for path in sql_files() if path.name != "grants.sql"]


@pytest.mark.parametrize("path", sql_files(), ids=lambda path: path.stem)
def test_a_literal_with_a_backslash_means_the_same_in_every_session(path: Path) -> None:
    """Write it E'…' with each backslash doubled: a body in SQL is parsed in the session of whoever calls it."""
    for prefix, literal in re.findall(r"(\w?)'((?:[^']|'')*)'", _code_of(path)):
        assert "\\" not in literal or prefix in ("E", "e"), literal


@pytest.mark.parametrize("path", _sql_paths(), ids=lambda path: path.stem)
def test_a_file_creates_exactly_what_it_is_named_after(path: Path) -> None:
    created = re.findall(r"^create or replace (?:function|view) bank\.(\w+)", _code_of(path), re.MULTILINE)
    assert created == [path.stem]


def test_no_function_is_in_the_database_without_a_file(owner: Connection) -> None:
    assert set(_functions(owner)) == {path.stem for path in _sql_paths() if path.parent.name != "views"}


def test_public_functions_run_as_their_owner_with_a_fixed_search_path_and_a_comment(owner: Connection) -> None:
    functions = _functions(owner)
    for path in sorted((SQL / "api").glob("*.sql")):
        function = functions[path.stem]
        assert function["prosecdef"], path.stem
        assert "search_path=bank, pg_temp" in function["proconfig"], path.stem
        assert function["owner"] == "bank_owner", path.stem
        assert function["comment"], path.stem


def test_what_the_owner_calls_executes_nothing_of_a_schema_that_others_write_to(owner: Connection) -> None:
    functions = _functions(owner)
    called = [path.stem for path in (SQL / "admin").glob("*.sql")]
    for name in [*called, "_install", "_fill_in_reversals", "_mend_sequences"]:
        assert "search_path=bank, pg_temp" in (functions[name]["proconfig"] or []), name


def test_only_public_functions_run_as_their_owner(owner: Connection) -> None:
    definers = {name for name, function in _functions(owner).items() if function["prosecdef"]}
    assert definers == {path.stem for path in (SQL / "api").glob("*.sql")}


@pytest.mark.parametrize("path", sorted((SQL / "api").glob("*.sql")), ids=lambda path: path.stem)
def test_a_public_function_says_its_locks_errors_and_an_example(path: Path) -> None:
    text = "\n".join(header(path))
    for label in ("Locks:", "Errors", "Example:"):
        assert label in text


@pytest.mark.parametrize("path", sorted((SQL / "api").glob("*.sql")), ids=lambda path: path.stem)
def test_the_example_of_a_public_function_runs(app: Connection, owner: Connection, path: Path) -> None:
    app.execute(
        "select bank.open_account('Ada', 'EUR'), bank.open_account('Bob', 'EUR'), bank.open_account('Eve', 'JPY')"
    )
    app.execute("select bank.credit(2, 100000, 'salary-2026-11')")
    app.execute("select bank.authorise(2, 5000, 3)")
    owner.execute("select bank.create_ledger('Branch')")
    app.execute("select bank.open_account('Zoe', 'EUR', ledger_id => 2)")
    example = header(path)[-1].removeprefix("Example: ")
    if path.stem in ("credit", "find_transaction"):
        example = example.replace("12500", "100000")
    else:
        example = example.replace("transaction(1)", "transaction((select min(transaction_id) from bank.posting))")
    assert app.execute(example.encode()).description is not None


def test_every_error_that_sql_raises_or_records_is_in_the_catalogue_and_the_other_way_round() -> None:
    used: set[str] = set()
    for path in _sql_paths():
        code = _code_of(path)
        used.update(re.findall(r"_raise\(\s*'(\w+)'", code))
        for pair in re.findall(r"then '(invalid_argument)' else '(\w+)'", code):
            used.update(pair)
        used.update(re.findall(r"(?:failure_codes\[i\]|prior_code) := '(\w+)'", code))
        used.update(re.findall(r"then '(unknown_currency)'", code))
        used.update(re.findall(r"then '(hold_not_open|nothing_to_sweep|amount_too_small)'", code))
        if path.stem == "_post_legs":
            used.update(re.findall(r"select [\w.()]+, '(\w+)'", code))
        if path.stem in ("_rejection", "_limit_code"):
            used.update(re.findall(r"then '(\w+)'", code))
        for suffix in re.findall(r"\|\| '(_(?:amount|count)_exceeded)'", code):
            used.update(window + suffix for window in ("day", "week", "month"))
    used.discard("failure_code")
    assert used == {code for code, facts in error_catalogue().items() if facts["kind"] != "service"}


def test_every_error_of_the_service_is_in_the_catalogue_and_used() -> None:
    source = "".join(path.read_text() for path in (ROOT / "service").glob("*.py"))
    used = set(re.findall(r"Problem\(\s*\"(\w+)\"", source)) | set(re.findall(r"\"(outcome_unknown)\"", source))
    used |= set(re.findall(r"\"(database_unavailable)\" if", source))
    used -= {"invalid_argument"}  # of metadata so large that the database need not be asked
    assert used == {code for code, facts in error_catalogue().items() if facts["kind"] == "service"}


def test_the_database_has_the_catalogue(owner: Connection) -> None:
    rows = owner.execute("select code, sqlstate, http_status, kind from bank.error").fetchall()
    assert {row["code"]: (row["sqlstate"], row["http_status"], row["kind"]) for row in rows} == {
        code: (facts["sqlstate"], facts["http_status"], facts["kind"])
        for code, facts in error_catalogue().items()
        if facts["kind"] != "service"
    }


def test_an_sqlstate_stands_for_one_error() -> None:
    states = [facts["sqlstate"] for facts in error_catalogue().values() if "sqlstate" in facts]
    assert len(states) == len(set(states))


@pytest.mark.parametrize(
    ("request_form", "function"),
    [
        (accounts.OpenAccountRequest, "open_account"),
        (accounts.OpeningItem, "open_account"),
        (postings.CreditRequest, "credit"),
        (postings.DebitRequest, "debit"),
        (postings.TransferRequest, "transfer"),
        (pages.PageQuery, "statement"),
        (pages.PageQuery, "account_changes"),
        (holds.AuthoriseRequest, "authorise"),
        (holds.CaptureRequest, "capture"),
        (holds.VoidRequest, "void"),
        (movements.ExchangeRequest, "exchange"),
        (movements.SweepRequest, "sweep"),
        (movements.ReverseRequest, "reverse"),
        (movements.TransferToLedgerRequest, "transfer_to_ledger"),
        (movements.ExplainTransferRequest, "explain_transfer"),
        (account_life.FreezeAccountRequest, "freeze_account"),
        (account_life.ChangeRequest, "unfreeze_account"),
        (account_life.ChangeRequest, "close_account"),
        (account_life.ChangeRequest, "reopen_account"),
        (account_life.SetLimitRequest, "set_limit"),
        (transactions.FindTransactionQuery, "find_transaction"),
    ],
)
def test_request_fields_are_named_as_the_arguments(
    owner: Connection, request_form: type[msgspec.Struct], function: str
) -> None:
    fields = {_RENAMED.get(function, {}).get(field, field) for field in request_form.__struct_fields__}
    row = _functions(owner)[function]
    arguments = set(row["proargnames"][: row["pronargs"]])
    # The rest comes from the path, a header and the key.
    path = {"account_id", "hold_id", "transaction_id", "limit_kind"}
    assert arguments - fields <= {*path, "idempotency_key", "ledger_id", "changed_by"}
    assert fields <= arguments


def test_the_fields_of_a_request_for_legs_become_the_arguments(owner: Connection) -> None:
    leg = movements.Leg(account_id=2, amount_minor=-1)
    request = movements.PostLegsRequest(legs=[leg], conditions=[movements.Condition(account_id=2, version=7)])
    arguments = request.arguments()
    assert (arguments["account_ids"], arguments["amounts_minor"]) == ([2], [-1])
    assert arguments["conditions"] == '[{"account_id":2,"version":7}]'
    row = _functions(owner)["post_legs"]
    assert set(row["proargnames"][: row["pronargs"]]) == {*arguments, "idempotency_key", "ledger_id"}


def _resources() -> list[tuple[str, str]]:
    """Return the path and the class of every resource; several when methods of a path have their own."""
    lines = re.findall(r"add_route\(\"([^\"]+)\", (.*)\)\n", inspect.getsource(app))
    return [(path, name) for path, made in lines for name in re.findall(r"(\w+)\(", made) if name != "Methods"]


def test_every_public_function_for_callers_has_a_route() -> None:
    """The docstring of a resource begins with METHOD path: bank.function."""
    functions = {"health", "has_entries_from_the_future", "read_only_reason"}  # /health/ready
    readme = (ROOT / "README.md").read_text()
    for path, name in _resources():
        if path.startswith("/v1/"):
            documented = re.match(r"([A-Z]+) ([^?:]+)(?:\?\S*)?: bank\.(\w+)\.", str(getattr(app, name).__doc__))
            assert documented is not None, name
            method, documented_path, function = documented.groups()
            assert documented_path == path, name
            assert hasattr(getattr(app, name), f"on_{method.lower()}"), name
            assert f"`{method} {path}" in readme, name
            assert f"`bank.{function}`" in readme, name
            functions.add(function)
    # For SQL callers and the service's own use.
    assert functions == {path.stem for path in (SQL / "api").glob("*.sql")} - {
        "authenticate",
        "balances",
        "end_expired_holds",
        "locked_rows",
        "post",
        "principals",
        "require_success",
        "verify",
        "verify_slice",
    }


def test_every_resource_under_v1_names_a_scope() -> None:
    names = [name for path, name in _resources() if path.startswith("/v1/")]
    assert names
    for name in names:
        assert getattr(app, name).scope in SCOPES


@pytest.mark.parametrize(("file", "current"), [("README.md", docs.readme), (".env.example", docs.env_example)])
def test_the_settings_are_documented_as_they_are_declared(file: str, current: Callable[[], str]) -> None:
    """Run `make docs` and commit what it writes."""
    text = (ROOT / file).read_text()
    assert text == current()
    for setting in config.DECLARED.values():
        assert setting.variable in text


def test_a_setting_is_declared_once_in_one_line_with_a_valid_example() -> None:
    settings = list(config.DECLARED.values())
    assert len({setting.variable for setting in settings}) == len(settings)
    for setting in settings:
        assert "\n" not in setting.meaning
        if setting.example:
            setting.read(setting.example)


def test_compose_hands_every_setting_of_the_service_on() -> None:
    """Null in the file: as it is set outside. A new setting is added there, or here with the reason why it is not."""
    environment = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["web"]["environment"]
    fixed = {"DATABASE_URL", "HOST", "PORT"}  # by the containers and their network
    of_service = {setting.variable for setting in config.DECLARED.values() if setting.is_of_service}
    assert {name for name, value in environment.items() if value is None} == of_service - fixed


def test_the_environment_is_read_in_one_place() -> None:
    readers = [
        path.name for path in (ROOT / "service").glob("*.py") if re.search(r"os\.(environ|getenv)", path.read_text())
    ]
    # The launcher hands on what it was given to what it becomes.
    assert set(readers) <= {"config.py", "launcher.py"}


def test_sql_is_issued_in_few_places() -> None:
    callers = {
        path.name
        for path in (ROOT / "service").glob("*.py")
        if re.search(r"\.execute\(|\.executemany\(", path.read_text())
    }
    of_the_commands = {
        "adopt.py",
        "local.py",
        "logins.py",
        "logins_command.py",
        "migrate.py",
        "migration_account.py",
        "migration_lock.py",
        "owner.py",
        "prerequisites.py",
        "rights.py",
        "watch.py",
    }
    assert callers <= {"db.py", *of_the_commands}


def test_what_is_installed_is_written_in_ascii() -> None:
    """A database of another encoding than UTF-8 may not have the character."""
    for path in [*(ROOT / "sql").rglob("*.sql"), ROOT / "sql" / "errors.toml", *(ROOT / "migrations").glob("*")]:
        if path.is_file():
            assert path.read_bytes().isascii(), path


def test_every_sql_migration_has_a_rollback() -> None:
    for path in MIGRATIONS.glob("[0-9]*.sql"):
        if not path.name.endswith(".rollback.sql"):
            assert path.with_name(f"{path.stem}.rollback.sql").exists(), path.name
    for path in MIGRATIONS.glob("[0-9]*.py"):
        assert re.search(r"step\(\w+, \w+\)", path.read_text()), path.name


def _statements(path: Path) -> list[str]:
    return [" ".join(statement.lower().split()) for statement in _code_of(path).split(";")]


def _migration_fault(path: Path, new_tables: set[str]) -> str | None:
    """Return what would stop a running bank, as far as the text tells."""
    transactional = not re.search(r"^-- transactional: false$", path.read_text(encoding="utf-8"), re.MULTILINE)
    for statement in _statements(path):
        index = re.match(r"create (?:unique )?index (concurrently )?.*?\bon (bank\.\w+)", statement)
        table = re.match(r"alter table (?:only )?(bank\.\w+)", statement)
        if index and index[2] not in new_tables and not index[1]:
            return f"make it concurrently: {statement}"
        if re.match(r"(create|drop) (unique )?index concurrently", statement) and transactional:
            return f"say `-- transactional: false`: {statement}"
        if "add value" in statement and (transactional or "if not exists" not in statement):
            return f"say `if not exists`, and `-- transactional: false`: {statement}"
        if table and table[1] not in new_tables:
            added = re.findall(r"add (?:constraint \w+ )?(?:check|foreign key) ?\(.*?(?=, add |, drop |$)", statement)
            if any(not constraint.endswith("not valid") for constraint in added):
                return f"add it not valid, and validate it in another migration: {statement}"
            if re.search(r"add (?:constraint \w+ )?(?:unique|primary key|exclude) ?(?!using index)\(", statement):
                return f"make the index concurrently, and add it `using index`: {statement}"
            if re.search(r"\b(set not null|alter column \w+ (set data )?type)\b", statement):
                return f"reads or rewrites the table: {statement}"
            if "validate constraint" in statement and transactional:
                return f"say `-- transactional: false`: {statement}"
    return None


def _new_tables(path: Path) -> set[str]:
    return {found[1] for each in _statements(path) if (found := re.match(r"create table (bank\.\w+)", each))}


def test_a_migration_does_not_stop_a_running_bank() -> None:
    """Those up to 0008 came before the rule. CONTRIBUTING.md says how it is done."""
    for path in sorted(MIGRATIONS.glob("[0-9]*.sql")):
        if path.stem > "0009" and not path.name.endswith(".rollback.sql"):
            assert _migration_fault(path, _new_tables(path)) is None, path.name


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("create index i on bank.entry (created_at);", "concurrently"),
        ("create index concurrently i on bank.entry (created_at);", "transactional: false"),
        ("-- transactional: false\ncreate index concurrently i on bank.entry (created_at);", None),
        ("create table bank.fee (a int); create index i on bank.fee (a);", None),
        ("alter table bank.account add constraint c check (a > 0);", "not valid"),
        ("alter table bank.account add constraint c check (a > 0) not valid;", None),
        ("alter table bank.account add column a int, add check (a > 0), add column b int;", "not valid"),
        ("alter table bank.account add foreign key (a) references bank.ledger;", "not valid"),
        ("alter table bank.account add constraint u unique (a);", "using index"),
        ("alter table bank.account alter column a set not null;", "reads or rewrites"),
        ("alter table bank.account alter column a type bigint;", "reads or rewrites"),
        ("alter table bank.account validate constraint c;", "transactional: false"),
        ("alter type bank.transaction_type add value 'fee';", "if not exists"),
        ("-- transactional: false\nalter type bank.transaction_type add value if not exists 'fee';", None),
        ("alter table bank.account add column a int;", None),
    ],
)
def test_the_check_of_migrations_sees_what_would_stop_a_running_bank(
    tmp_path: Path, text: str, fault: str | None
) -> None:
    path = tmp_path / "9999.sql"
    path.write_text(text)
    found = _migration_fault(path, _new_tables(path))
    assert (found is None) == (fault is None), found
    assert fault is None or fault in str(found)


@pytest.mark.parametrize("path", [*sql_files(), *sorted(MIGRATIONS.glob("*.sql"))], ids=lambda path: path.name)
def test_sql_keeps_clear_of_what_a_distributed_installation_cannot_do(path: Path) -> None:
    """DESIGN section 10: if a rule really has to go, change the design first."""
    code = _code_of(path).lower()
    for forbidden in (
        r"create\s+(or\s+replace\s+)?trigger",
        r"\bmerge\s+into\b",
        r"pg_(try_)?advisory",
        r"on\s+conflict\s+on\s+constraint",
        r"\b(small)?serial\b",
        r"\bas (int|integer|smallint) generated",
        r"\bfloat[48]?\b|\bdouble precision\b|\breal\b",
    ):
        assert not re.search(forbidden, code), forbidden


def test_every_key_of_a_ledgers_table_begins_with_the_ledger(owner: Connection) -> None:
    rows = owner.execute(
        """
        select i.indrelid::regclass::text as table_name, a.attname
        from pg_index as i
        inner join pg_attribute as a on i.indrelid = a.attrelid and i.indkey[0] = a.attnum
        where i.indisunique and i.indrelid in (
            select attrelid from pg_attribute where attname = 'ledger_id' and attnum > 0
        ) and i.indrelid in (select oid from pg_class where relnamespace = 'bank'::regnamespace)
        """
    ).fetchall()
    assert rows
    assert {row["attname"] for row in rows} == {"ledger_id"}


def test_money_is_never_a_float(owner: Connection) -> None:
    rows = owner.execute(
        """
        select table_name, column_name, data_type from information_schema.columns
        where table_schema = 'bank' and column_name like '%minor%'
        """
    ).fetchall()
    assert rows
    exact = {"exchange_residue_minor": "numeric"}  # a fraction of a minor unit, exact
    assert {row["data_type"] for row in rows if row["column_name"] not in exact} == {"bigint"}
    assert {row["data_type"] for row in rows if row["column_name"] in exact} == {"numeric"}
    for path in (ROOT / "service").glob("*.py"):
        assert not re.search(r"float\([^\"-]", path.read_text()), path.name


def test_the_generated_documentation_is_current() -> None:
    """Run `make docs` and commit what it writes."""
    assert (SQL / "README.md").read_text() == sql_readme()


def test_architecture_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for room in {Path(room).parts[0] for room in rooms}:
        assert room in text, room
    for path in (ROOT / "service").glob("*.py"):
        assert path.name in text, path.name


def test_files_name_no_path_of_a_machine() -> None:
    found = subprocess.run(
        ["git", "grep", "-nE", r"/(root|home)/[a-z.]+/|/work/"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.splitlines()
    assert [line for line in found if not line.startswith("tests/test_house.py")] == []


def test_a_clone_of_the_template_has_no_violations(bank: Bank) -> None:
    with bank.connect() as connection:
        assert connection.execute("select * from bank.verify(null)").fetchall() == []
