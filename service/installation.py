"""What an installation consists of: the files of sql/ and migrations/, the error catalogue, and their digest.

In a checkout the two folders stand beside this package; a wheel carries them inside it.
"""

import hashlib
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Final

_PACKAGE: Final = Path(__file__).resolve().parent
ROOT: Final = _PACKAGE if (_PACKAGE / "sql").is_dir() else _PACKAGE.parent
SQL: Final = ROOT / "sql"
MIGRATIONS: Final = ROOT / "migrations"

# Views tell ids of stripes from those of accounts; a view's row type is what functions return; grants name every
# function, so they come last.
_LOAD_ORDER: Final = ("ids/*.sql", "views/*.sql", "internal/*.sql", "api/*.sql", "admin/*.sql", "grants.sql")


def sql_files() -> list[Path]:
    """Return the files of sql/ in the order in which they are loaded."""
    return [path for pattern in _LOAD_ORDER for path in sorted(SQL.glob(pattern))]


@cache
def error_catalogue() -> dict[str, dict[str, Any]]:
    """Return sql/errors.toml: code -> facts, in order of precedence."""
    with (SQL / "errors.toml").open("rb") as file:
        return tomllib.load(file)


@cache
def sql_digest() -> str:
    """Return a digest of all that sql/ would install; equal digests mean equal functions."""
    digest = hashlib.sha256()
    for path in [*sql_files(), SQL / "errors.toml"]:
        digest.update(path.relative_to(SQL).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def last_migration_id() -> str:
    """Return the id of the newest migration of this version."""
    return max(path.stem for path in MIGRATIONS.glob("[0-9]*") if not path.name.endswith(".rollback.sql"))
