"""A next release, made of this one: with migrations and functions that do what those of releases do."""

import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

from service.installation import ROOT

NEXT_MIGRATIONS = ["9001.kinds", "9002.reference", "9003.reference_index", "9004.reference_check"]

_MIGRATIONS = {
    "9001.kinds": """
-- transactional: false
-- depends: 0001.ledger
set role bank_owner;
alter type bank.transaction_type add value if not exists 'fee';
""",
    "9002.reference": """
-- depends: 9001.kinds 0009.versions
set local role bank_owner;
alter table bank.transaction add column reference text;
alter table bank.account add column tier smallint not null default 0;
alter table bank.transaction add constraint transaction_reference check (reference <> '') not valid;
create table bank.fee (fee_id bigint primary key, transaction_type bank.transaction_type not null default 'fee');
""",
    "9003.reference_index": """
-- transactional: false
-- depends: 9002.reference
set role bank_owner;
drop index concurrently if exists bank.transaction_reference;
create index concurrently transaction_reference on bank.transaction (ledger_id, reference) where reference is not null;
""",
    "9004.reference_check": """
-- transactional: false
-- depends: 9002.reference
set role bank_owner;
alter table bank.transaction validate constraint transaction_reference;
""",
}
_ROLLBACK = "-- Of a release that only tests have.\nselect 1;\n"

# In which file what is replaced by what.
_CHANGES = {
    "sql/views/posting.sql": [("    t.legs\nfrom", "    t.legs,\n    t.reference\nfrom")],
    "sql/views/account_detail.sql": [("    a.stripes\nfrom", "    a.stripes,\n    a.tier\nfrom")],
    "sql/internal/_post_one.sql": [
        ("null, null, null\n    )::bank.posting", "null, null, null, null\n    )::bank.posting")
    ],
    "sql/internal/_post.sql": [
        ("null::numeric, null::jsonb\n    from", "null::numeric, null::jsonb, null::text\n    from")
    ],
    "sql/grants.sql": [("bank.health,\n", "bank.health,\nbank.reference_of,\n")],
}
_NEW_FUNCTION = """
create or replace function bank.reference_of(transaction_id bigint, ledger_id bigint default 1) returns text
language sql stable security definer set search_path = bank, pg_temp as $$
    select t.reference from bank.transaction as t
    where t.ledger_id = reference_of.ledger_id and t.transaction_id = reference_of.transaction_id
$$;
"""


def present(directory: Path) -> Path:
    """Copy this checkout, with what is not committed yet, and return where to."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "service", "sql", "migrations"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            if (ROOT / name).exists():
                archive.add(ROOT / name, name)
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        archive.extractall(directory, filter="data")
    return directory


def next_release(directory: Path) -> Path:
    """Make the next release in the directory and return it."""
    present(directory)
    for migration_id, text in _MIGRATIONS.items():
        (directory / "migrations" / f"{migration_id}.sql").write_text(text)
        (directory / "migrations" / f"{migration_id}.rollback.sql").write_text(_ROLLBACK)
    for name, changes in _CHANGES.items():
        path = directory / name
        text = path.read_text()
        for before, after in changes:
            assert text.count(before) == 1, (name, before)
            text = text.replace(before, after)
        path.write_text(text)
    (directory / "sql" / "api" / "reference_of.sql").write_text(_NEW_FUNCTION)
    return directory


def start(release: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start `pgteller ARGUMENTS` of a release, with these variables alone."""
    return subprocess.Popen(
        [sys.executable, "-m", "service.cli", *arguments],
        cwd=release,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(release: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `pgteller ARGUMENTS` of a release to its end."""
    process = start(release, *arguments, **environment)
    try:
        stdout, stderr = process.communicate(timeout=900)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
