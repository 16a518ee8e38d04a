"""What an installation consists of: the files of sql/ and migrations/, the error catalogue, and their digest.

And whether this version works on what is installed in a database: docs/upgrades.md has the rule.
In a checkout the two folders stand beside this package; a wheel carries them inside it.
"""

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Self

_PACKAGE: Final = Path(__file__).resolve().parent
ROOT: Final = _PACKAGE if (_PACKAGE / "sql").is_dir() else _PACKAGE.parent
SQL: Final = ROOT / "sql"
MIGRATIONS: Final = ROOT / "migrations"

# Views tell ids of stripes from those of accounts; a view's row type is what functions return; grants name every
# function, so they come last.
_LOAD_ORDER: Final = ("ids/*.sql", "views/*.sql", "internal/*.sql", "api/*.sql", "admin/*.sql", "grants.sql")
_BREAKS_SERVICES: Final = re.compile(r"^(--|#) breaks: running services$", re.MULTILINE)


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


def _migration_files() -> list[Path]:
    return [path for path in MIGRATIONS.glob("[0-9]*") if not path.name.endswith(".rollback.sql")]


@cache
def last_migration_id() -> str:
    """Return the id of the newest migration of this version."""
    return max(path.stem for path in _migration_files())


def breaks_services(migration: Path) -> bool:
    """Return whether services of versions without the migration cannot go on after it."""
    return _BREAKS_SERVICES.search(migration.read_text(encoding="utf-8")) is not None


@cache
def breaking_migration_id() -> str:
    """Return the id of the newest migration of this version that breaks running services."""
    return max(path.stem for path in _migration_files() if breaks_services(path))


def release() -> str:
    """Return the version of this package."""
    return version("pgteller")


NOT_INSTALLED: Final = "the bank is not installed in it: run `pgteller migrate`"


@dataclass(frozen=True)
class Installed:
    """What bank.health() says is installed."""

    migration_id: str
    sql_digest: str
    release: str | None
    compatible_versions: Mapping[str, str]
    """Of each version that services may have: the digest, and the last migration that it was installed with."""
    breaking_migration_id: str | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self | None:
        """Return it, None where nothing is installed. Before 0010 the database does not say all of it."""
        if row["migration_id"] is None:
            return None
        versions = zip(row.get("compatible_digests") or (), row.get("compatible_migration_ids") or (), strict=False)
        return cls(
            row["migration_id"], row["sql_digest"], row.get("release"), dict(versions), row.get("breaking_migration_id")
        )

    @property
    def is_newest(self) -> bool:
        """Whether it is this version and none that came later."""
        return self._is_this and not self.is_broken

    @property
    def is_newer(self) -> bool:
        """Whether it is a version after this one, on which this one works.

        It may have the same functions and a later migration.
        """
        installed_with = self.compatible_versions.get(sql_digest())
        return (
            not self._is_this
            and not self.is_broken
            and installed_with is not None
            and installed_with >= last_migration_id()
        )

    @property
    def is_broken(self) -> bool:
        """Whether there was a migration that this version has not, and cannot follow."""
        return self.breaking_migration_id is not None and self.breaking_migration_id > last_migration_id()

    @property
    def _is_this(self) -> bool:
        return self.sql_digest == sql_digest() and self.migration_id == last_migration_id()

    @property
    def fault(self) -> str | None:
        """Why this version does not work on it, and what to do; None when it does."""
        if self.is_newest or self.is_newer:
            return None
        if self.migration_id > last_migration_id():
            return (
                f"this version is too old for the database, whose last migration is {self.migration_id}: "
                f"install version {self.release or 'that has it'}"
            )
        if self.is_broken:
            return (
                f"this version is too old for the database, which has {self.breaking_migration_id}, and no functions "
                "for it yet: run `pgteller migrate` of the version that has it"
            )
        if self.migration_id != last_migration_id():
            return (
                f"its last migration is {self.migration_id}, this version needs {last_migration_id()}: "
                "run `pgteller migrate`"
            )
        return "its functions are of another version: run `pgteller migrate`"
