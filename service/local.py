"""The bank of this machine: what PGTELLER_HOME holds, for use without a DATABASE_URL.

postgresql/         the embedded PostgreSQL, with the database `bank`
pgteller_service.password, teller.password   of the logins of the service and of people, mode 0600
development.key     an API key with every scope, mode 0600

Homes of earlier versions also have bank_app.password, of the role that both logged in as; it still does.
"""

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg import sql

from service import keys, logins
from service.config import Settings
from service.embedded import DirectoryInUseError, EmbeddedPostgres, EmbeddedPostgresError
from service.logins import SERVICE_LOGIN, Login
from service.migrate import migrate
from service.owner import OwnerConnection, call, connect
from service.poolers import PoolerInTheWayError
from service.watch import Watch

DATABASE = "bank"
PEOPLE_LOGIN = "teller"
"""Of whoever pastes the printed lines into psql."""
DEVELOPMENT_KEY_NAME = "development"
ATTACH_SECONDS = 30.0
"""How long to wait for the server of another process, which may just be starting."""
_FREE_BYTES_MIN = 64 * 2**20
"""With less room than that, a start that failed has probably failed for it: a new cluster takes about as much."""


class LocalBankError(RuntimeError):
    """There is no bank on this machine, or it cannot be reached; the message says what to do."""


class LocalBank:
    """The embedded PostgreSQL of settings.home and what belongs to it. Nothing is started by making one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.home = settings.home
        if not self.home.is_absolute():  # of a user without a home of his own
            raise LocalBankError(
                "there is no home folder: set PGTELLER_HOME to a folder, or DATABASE_URL to a database"
            )
        self.server = EmbeddedPostgres(self.home / "postgresql", pgbin=settings.pgbin)
        self.key_file = development_key_file(settings)

    @property
    def owner_url(self) -> str:
        """Where migrations, `correct-times` and key management connect: as the superuser."""
        return self.server.conninfo(DATABASE)

    @property
    def service_url(self) -> str:
        """Where the service connects."""
        return self._url(SERVICE_LOGIN)

    @property
    def people_url(self) -> str:
        """Where people connect, by psql or a program of their own."""
        return self._url(PEOPLE_LOGIN)

    @contextmanager
    def running(self, *, create: bool = False) -> Iterator[None]:
        """Keep the server up: as another process runs it, or else started here and stopped at the end.

        create: make the cluster when there is none; otherwise that raises LocalBankError.
        Raises EmbeddedPostgresError when the server does not start.
        """
        with self._in_home():
            has_data = self.server.has_data()
        if not create and not has_data:
            raise LocalBankError(
                f"there is no bank in {self.home} yet: `pgteller serve` makes one; "
                "or set DATABASE_URL to a database that has one"
            )
        try:
            self.start()
        except DirectoryInUseError as error:
            self._await_other(error)
        try:
            yield
        finally:
            self.server.stop()

    def start(self) -> None:
        """Start the server here; raises EmbeddedPostgresError or LocalBankError."""
        with self._in_home():
            self.server.start()

    def install(self) -> list[str]:
        """Create the database if need be and migrate it; return the ids of the migrations applied."""
        with Watch(self.server.conninfo("postgres")) as watch, watch.connect() as connection:
            create_database = sql.SQL("create database {}").format(sql.Identifier(DATABASE))
            with suppress(psycopg.errors.DuplicateDatabase):
                connection.execute(create_database)
        return migrate(self.owner_url)

    def prepare_service(self) -> str:
        """Give the service and people their logins, and the developer a key; return the key.

        All are kept from one start to the next. A key that was revoked or has lost a scope is replaced.
        """
        with Watch(self.owner_url) as watch, watch.connect() as connection, self._in_home():
            logins.ensure(connection, logins.service_login(self._settings, self._password(SERVICE_LOGIN)))
            logins.ensure(connection, Login(PEOPLE_LOGIN, self._password(PEOPLE_LOGIN)))
        with connect(self.owner_url) as owner, self._in_home():
            return self._development_key(owner)

    def _url(self, login: str) -> str:
        return self.server.conninfo(DATABASE, login, self._password(login))

    def _password(self, login: str) -> str:
        file = self.home / f"{login}.password"
        if not file.exists():
            _write_private(file, secrets.token_urlsafe(24))
        return file.read_text()

    def _development_key(self, owner: OwnerConnection) -> str:
        with suppress(FileNotFoundError):
            key = self.key_file.read_text().strip()
            (principal,) = call(owner, "authenticate", key_digest=keys.digest(key))
            if set(keys.SCOPES) <= set(principal["scopes"] or ()):
                return key
        key = keys.make()
        call(
            owner,
            "create_api_key",
            name=DEVELOPMENT_KEY_NAME,
            key_digest=keys.digest(key),
            scopes=list(keys.SCOPES),
        )
        _write_private(self.key_file, key + "\n")
        return key

    @contextmanager
    def _in_home(self) -> Iterator[None]:
        """Name the folder and the remedy when it cannot be used."""
        try:
            yield
        except OSError as error:
            user = f"user {os.geteuid()} may write to"
            raise LocalBankError(
                f"PGTELLER_HOME, {self.home}, cannot be used: {error.strerror}"
                f"{f': {error.filename}' if error.filename else ''}. "
                + ("Make room there" if error.errno == errno.ENOSPC else f"Make it a folder that {user}")
                + ", or set PGTELLER_HOME to another folder"
            ) from None
        except DirectoryInUseError:
            raise
        except EmbeddedPostgresError as error:
            free_bytes = shutil.disk_usage(self.home).free if self.home.is_dir() else _FREE_BYTES_MIN
            if free_bytes >= _FREE_BYTES_MIN:
                raise
            raise LocalBankError(
                f"only {free_bytes >> 20} MiB are free in PGTELLER_HOME, {self.home}: make room there, or set "
                f"PGTELLER_HOME to another folder. {error}"
            ) from None

    def _await_other(self, in_use: DirectoryInUseError) -> None:
        """Return when the server that another process runs on our directory accepts connections."""
        deadline = time.monotonic() + ATTACH_SECONDS
        while True:
            try:
                psycopg.connect(self.server.conninfo("postgres"), connect_timeout=5).close()
            except (psycopg.OperationalError, RuntimeError):  # RuntimeError: no cluster there yet
                if time.monotonic() > deadline:
                    raise in_use from None
                time.sleep(0.1)
            else:
                return


def development_key_file(settings: Settings) -> Path:
    """Return where the key of the local bank is kept, once there is one."""
    return settings.home / "development.key"


def owner_url(settings: Settings) -> str | None:
    """Return where the settings say that bank_owner is to connect, or None for the local bank.

    Raises PoolerInTheWayError where they say that a pooler is there.
    """
    if settings.database_owner_url is None and settings.database_url and settings.database_pooler == "transaction":
        raise PoolerInTheWayError
    return settings.database_owner_url or settings.database_url


@contextmanager
def database_url(settings: Settings, *, as_owner: bool) -> Iterator[str]:
    """Give the URL of the bank: from the settings, else that of the local bank, which is kept up meanwhile.

    as_owner: the caller will take the role bank_owner; otherwise bank_app.
    """
    configured = owner_url(settings) if as_owner else settings.database_url or settings.database_owner_url
    if configured is not None:
        yield configured
        return
    bank = LocalBank(settings)
    with bank.running():
        yield bank.owner_url


def _write_private(path: Path, text: str) -> None:
    """Write a file that only we can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    unfinished.replace(path)
