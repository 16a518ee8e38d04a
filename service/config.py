"""The settings of the service, each declared once. The environment is read here, once, and nowhere else.

README.md, .env.example and `pgteller serve --help` are written from these declarations (`make docs`).
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from service import database_url

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
POOLERS = ("auto", "none", "transaction")
_SHOWN_CHARACTERS_MAX = 60
_LATIN_DIGITS = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})", re.ASCII)


SERVICE = ("serve", "import")
"""Of the commands, those that run the service."""
EVERY_COMMAND = ("serve", "migrate", "status", "verify", "correct-times", "import", "keys", "logins")


class SettingError(ValueError):
    """A setting is not valid; the message names it and says what is allowed."""


class Kind(Protocol):
    """What a setting may be."""

    @property
    def allowed(self) -> str:
        """Say what is allowed."""

    def read(self, text: str) -> object:
        """Return the value; raises ValueError, with a reason if that is more than what is allowed."""


@dataclass(frozen=True)
class Whole:
    """A whole number within bounds."""

    lowest: int
    highest: int

    @property
    def allowed(self) -> str:
        """Say the bounds."""
        return f"a whole number from {self.lowest} to {self.highest}"

    def read(self, text: str) -> int:
        """Read plain digits: int() would take other scripts', blanks and underscores too."""
        if not _LATIN_DIGITS.fullmatch(text) or not self.lowest <= int(text) <= self.highest:
            raise ValueError
        return int(text)


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """List them."""
        return f"one of {', '.join(self.words)}"

    def read(self, text: str) -> str:
        """Read it in any case, as loggers write their levels."""
        if text.lower() not in self.words:
            raise ValueError
        return text.lower()


class Folder:
    """A folder of this machine."""

    allowed = "a folder whose path begins with /"

    def read(self, text: str) -> Path:
        """Read a path that means the same wherever we are started."""
        if not text.startswith("/"):
            raise ValueError
        return Path(text)


class Host:
    """Where to listen."""

    allowed = "an IP address or a host name"

    def read(self, text: str) -> str:
        """Read an address without brackets or port."""
        try:
            ipaddress.ip_address(text)
        except ValueError:
            if not _HOST_NAME.fullmatch(text):
                raise ValueError from None
        return text


class DatabaseUrl:
    """Where a database is, as a URL or as libpq's key=value."""

    allowed = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or what else libpq takes"

    def read(self, text: str) -> str:
        """Read what libpq can read."""
        return database_url.checked(text)


class Password:
    """A password."""

    allowed = "any text"

    def read(self, text: str) -> str:
        """Read a text that PostgreSQL can take."""
        try:
            text.encode()
        except UnicodeError:
            raise ValueError("it is not UTF-8") from None
        return text


@dataclass(frozen=True)
class Setting:
    """The declaration of a setting."""

    variable: str
    kind: Kind
    meaning: str
    """One line, for README.md and the help."""
    default: str
    """As it is shown."""
    example: str
    """As .env.example has it."""
    is_secret: bool = False
    """Its value, or a part of it, is never shown."""
    used_by: tuple[str, ...] = SERVICE
    """The commands that read it."""
    is_of_service: bool = True
    """The processes of the service need it; what is of the commands alone is not handed on to them."""

    def read(self, text: str) -> Any:
        """Return the value of the variable; raises SettingError."""
        if text == "":
            raise SettingError(f"{self.variable} is empty, which is not valid: unset it for the default")
        try:
            return self.kind.read(text)
        except ValueError as error:
            # What has an @ may be a URL with a password that belongs elsewhere.
            value = "" if self.is_secret or "@" in text else f" {_quoted(text)}, which is"
            why = str(error) or f"allowed is {self.kind.allowed}"
            raise SettingError(f"{self.variable} is{value} not valid: {why}") from None


def _setting(variable: str, kind: Kind, default: object, meaning: str, *, shown: str | None = None, **more: Any) -> Any:
    more.setdefault("example", str(default))
    declared = Setting(variable, kind, meaning, shown or f"`{default}`", **more)
    return field(default=default, repr=not declared.is_secret, metadata={"setting": declared})


def _home() -> Path:
    """Return the folder of the user, or one that is not absolute when there is none: LocalBank then says so."""
    return Path(os.path.expanduser("~")) / ".local/share/pgteller"  # noqa: PTH111 - Path.home() raises


_ADDRESS = ("serve", "status", "import")
_TIMEOUTS = (*SERVICE, "migrate")
_LONGEST_SECONDS = 86_400


@dataclass(frozen=True)
class Settings:
    """Everything that can be set from outside."""

    database_url: str | None = _setting(
        "DATABASE_URL",
        DatabaseUrl(),
        None,
        "where the service connects, PostgreSQL 15 to 18; where neither it nor DATABASE_OWNER_URL is set pgteller runs "
        "one of its own in PGTELLER_HOME",
        shown="an embedded PostgreSQL",
        example="postgresql://pgteller_service:password@localhost:5432/bank",
        is_secret=True,
        used_by=EVERY_COMMAND,
    )
    database_owner_url: str | None = _setting(
        "DATABASE_OWNER_URL",
        DatabaseUrl(),
        None,
        "a role that may create roles; for an upgrade, a member of bank_owner; status and verify use it where "
        "DATABASE_URL is not set",
        shown="`DATABASE_URL`",
        example="postgresql://admin:password@localhost:5432/bank",
        is_secret=True,
        used_by=("migrate", "correct-times", "keys", "logins", "status", "verify"),
        is_of_service=False,
    )
    database_pooler: str = _setting(
        "DATABASE_POOLER",
        Choice(POOLERS),
        "auto",
        "whether a pooler such as PgBouncer is between the service and PostgreSQL: auto finds out, none and "
        "transaction tell, see docs/poolers.md",
        used_by=("serve", "status", "verify", "import"),
    )
    app_password: str | None = _setting(
        "BANK_APP_PASSWORD",
        Password(),
        None,
        "the password that `pgteller migrate` gives the role bank_app; unset, its login stays as it is",
        shown="unset",
        example="",
        is_secret=True,
        used_by=("migrate",),
        is_of_service=False,
    )
    service_password: str | None = _setting(
        "SERVICE_PASSWORD",
        Password(),
        None,
        "the password of pgteller_service, the service's login, which `pgteller migrate` makes with it",
        shown="unset",
        example="",
        is_secret=True,
        used_by=("migrate",),
        is_of_service=False,
    )
    home: Path = _setting(
        "PGTELLER_HOME",
        Folder(),
        _home(),
        "what the embedded PostgreSQL keeps, its passwords, and the development key",
        shown="`~/.local/share/pgteller`",
        example="/srv/pgteller",
        used_by=EVERY_COMMAND,
        is_of_service=False,
    )
    pgbin: Path | None = _setting(
        "PGBIN",
        Folder(),
        None,
        "the folder of `initdb` and `postgres` for the embedded PostgreSQL",
        shown="the wheel's PostgreSQL 18",
        example="/usr/lib/postgresql/17/bin",
        used_by=EVERY_COMMAND,
        is_of_service=False,
    )
    host: str = _setting("HOST", Host(), "127.0.0.1", "address to listen on", used_by=_ADDRESS)
    port: int = _setting("PORT", Whole(0, 65_535), 8000, "port to listen on; 0: one that is free", used_by=_ADDRESS)
    workers: int = _setting("WEB_CONCURRENCY", Whole(1, 512), 2, "worker processes")
    pool_connections_max: int = _setting(
        "POOL_CONNECTIONS_MAX",
        Whole(1, 10_000),
        8,
        "database connections of each worker; it opens up to three more, for readiness and for accounts in demand",
    )
    request_timeout_seconds: int = _setting(
        "REQUEST_TIMEOUT_SECONDS",
        Whole(1, 3600),
        10,
        "when a request is answered at the latest, whatever it waits for: a lock, a connection, a silent server; "
        "migrate sets the service's login by it",
        used_by=_TIMEOUTS,
    )
    # Many times what a posting takes. 0, for tests alone: to the deadline, with a connection, so that one locked row
    # holds up requests that do not name it.
    lock_timeout_ms: int = _setting(
        "LOCK_TIMEOUT_MS",
        Whole(0, 1_799_999),
        50,
        "how long a call waits for a lock before its requests are set aside, without a connection; less than half of "
        "REQUEST_TIMEOUT_SECONDS; migrate sets the service's login by it",
        used_by=_TIMEOUTS,
    )
    body_bytes_max: int = _setting("BODY_BYTES_MAX", Whole(0, 1 << 30), 4_194_304, "the largest body that is read")
    url_bytes_max: int = _setting("URL_BYTES_MAX", Whole(1, 1 << 20), 8192, "the longest URL")
    header_bytes_max: int = _setting("HEADER_BYTES_MAX", Whole(1, 1 << 24), 16_384, "all headers of a request together")
    header_count_max: int = _setting("HEADER_COUNT_MAX", Whole(1, 10_000), 100, "headers of a request")
    first_byte_timeout_seconds: int = _setting(
        "FIRST_BYTE_TIMEOUT_SECONDS", Whole(1, _LONGEST_SECONDS), 30, "how long a new connection may be silent"
    )
    headers_timeout_seconds: int = _setting(
        "HEADERS_TIMEOUT_SECONDS", Whole(1, _LONGEST_SECONDS), 15, "how long the headers of a request may take"
    )
    body_timeout_seconds: int = _setting(
        "BODY_TIMEOUT_SECONDS",
        Whole(1, _LONGEST_SECONDS),
        60,
        "how long a body may take after the headers, and a client to read its answer",
    )
    connections_max: int = _setting(
        "CONNECTIONS_MAX",
        Whole(1, 1_000_000),
        4096,
        "connections of each worker, fewer where the system allows it fewer files; at the limit the oldest without a "
        "request, or idle, gives way to a new one",
    )
    key_cache_seconds: int = _setting(
        "KEY_CACHE_SECONDS", Whole(0, 3600), 1, "how long a worker trusts an API key that it has looked up"
    )
    graceful_timeout_seconds: int = _setting(
        "GRACEFUL_TIMEOUT_SECONDS",
        Whole(0, 3600),
        20,
        "how long requests in flight may take when the service stops; whatever stops it has to wait longer",
    )
    coalescer_flushes_max: int = _setting(
        "COALESCER_FLUSHES_MAX",
        Whole(0, 1000),
        2,
        "calls that a worker has in flight for waiting postings; 0 sends each request alone",
    )
    coalescer_queue_max: int = _setting(
        "COALESCER_QUEUE_MAX",
        Whole(1, 10_000_000),
        10_000,
        "postings, and balance enquiries, that may wait in a worker before more are answered with 503",
    )
    hold_sweep_seconds: int = _setting(
        "HOLD_SWEEP_SECONDS",
        Whole(0, _LONGEST_SECONDS),
        60,
        "how often each worker takes expired holds out of the books, where they no longer count; 0: never",
    )
    log_level: str = _setting("LOG_LEVEL", Choice(LOG_LEVELS), "info", "what the log leaves out")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read the settings; raises SettingError that names the variable when one is not valid."""
        given = {name: setting for name, setting in DECLARED.items() if setting.variable in environment}
        settings = cls(**{name: setting.read(environment[setting.variable]) for name, setting in given.items()})
        if 2 * settings.lock_timeout_ms >= 1000 * settings.request_timeout_seconds:
            raise SettingError(
                f"LOCK_TIMEOUT_MS is {settings.lock_timeout_ms}, which is not valid: it is not less than half of "
                f"REQUEST_TIMEOUT_SECONDS, {settings.request_timeout_seconds}"
            )
        return settings

    def to_environment(self, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the environment of a process of the service: its settings, and what is not ours.

        What only the commands need, such as the owner's URL, is left out: the service must not have it.
        """
        rest = {name: value for name, value in environment.items() if name not in VARIABLES.values()}
        ours = {s.variable: getattr(self, name) for name, s in DECLARED.items() if s.is_of_service}
        return rest | {variable: str(value) for variable, value in ours.items() if value is not None}

    def secrets(self) -> set[str]:
        """Return the texts that nothing may show."""
        urls = [url for url in (self.database_url, self.database_owner_url) if url is not None]
        passwords = {password for password in (self.app_password, self.service_password) if password}
        return passwords.union(*map(database_url.secrets_of, urls))


def _declared(declaration: "Field[Any]") -> Setting:
    setting: Setting = declaration.metadata["setting"]
    return setting


DECLARED: dict[str, Setting] = {declaration.name: _declared(declaration) for declaration in fields(Settings)}
VARIABLES = {name: setting.variable for name, setting in DECLARED.items()}


def _quoted(text: str) -> str:
    """Return a value that may be shown, but not all of one that is very long."""
    return repr(text if len(text) <= _SHOWN_CHARACTERS_MAX else text[:_SHOWN_CHARACTERS_MAX] + "…")
