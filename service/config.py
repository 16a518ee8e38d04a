"""The settings of the service. The environment is read here, once, and nowhere else."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Everything that can be set from outside; README.md lists each with its variable."""

    database_url: str | None = None
    """Where the service connects; without it an embedded PostgreSQL is run."""
    database_owner_url: str | None = None
    """Where migrations, `correct-times` and key management connect; database_url when unset."""
    app_password: str | None = None
    """`pgteller migrate` lets bank_app log in with this password; when unset, it leaves that role's login alone."""
    home: Path = Path.home() / ".local/share/pgteller"
    """Folder of the embedded PostgreSQL and of the development key."""
    pgbin: Path | None = None
    """Folder of initdb and postgres for the embedded PostgreSQL; the wheel's when unset."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0: one that is free."""
    workers: int = 2
    """Processes of gunicorn."""
    pool_connections_max: int = 8
    """Database connections of each worker; it opens up to three more, for readiness and for accounts in demand."""
    request_timeout_seconds: int = 10
    """When a request is answered at the latest, whatever it waits for: a lock, a connection, a silent server."""
    lock_timeout_ms: int = 50
    """How long a call waits for a lock before its requests are set aside: many times what a posting takes. 0, for tests
    alone: to the deadline, with a connection, so that one locked row holds up requests that do not name it."""
    body_bytes_max: int = 4_194_304
    url_bytes_max: int = 8192
    header_bytes_max: int = 16_384
    """All headers of a request together; up to 4 KiB more are taken when they come with what ends them."""
    header_count_max: int = 100
    first_byte_timeout_seconds: int = 30
    """How long a new connection may be silent."""
    headers_timeout_seconds: int = 15
    """How long a request may take from its first byte to the end of its headers."""
    body_timeout_seconds: int = 60
    """How long a body may take after the headers; also how long a client may let its answer wait."""
    connections_max: int = 4096
    """Open connections of each worker; fewer where the system allows it fewer files."""
    key_cache_seconds: int = 1
    """How long a worker trusts an API key that it has looked up; a revoked key is refused after that."""
    graceful_timeout_seconds: int = 20
    """How long requests in flight may take to finish when the service stops."""
    coalescer_flushes_max: int = 2
    """How many calls a worker has in flight for waiting postings; 0 sends each posting and enquiry by itself."""
    coalescer_queue_max: int = 10_000
    """How many postings, and how many enquiries, may wait in a worker before more are answered with 503."""
    hold_sweep_seconds: int = 60
    """How often each worker ends holds whose deadline has passed; 0: never. They do not count after it anyhow."""
    log_level: str = "info"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read the settings; raises ValueError that names the variable when one is not valid."""
        given = {field: environment[variable] for field, variable in VARIABLES.items() if environment.get(variable)}
        converted: dict[str, object] = {}
        for field, text in given.items():
            try:
                converted[field] = _CONVERTERS.get(field, str)(text)
            except ValueError as error:
                message = f"{VARIABLES[field]} is {text!r}, which is not valid: {error}"
                raise ValueError(message) from None
        settings = cls(**converted)  # type: ignore[arg-type]  # converted by field name just above
        if 2 * settings.lock_timeout_ms >= 1000 * settings.request_timeout_seconds:
            raise ValueError(
                f"LOCK_TIMEOUT_MS is {settings.lock_timeout_ms}, which is not valid: it is not less than half of "
                f"REQUEST_TIMEOUT_SECONDS, {settings.request_timeout_seconds}"
            )
        return settings

    def to_environment(self, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the environment of a process that is to find these settings, and the rest of ours."""
        rest = {name: value for name, value in environment.items() if name not in VARIABLES.values()}
        settings = {variable: getattr(self, field) for field, variable in VARIABLES.items()}
        return rest | {variable: str(value) for variable, value in settings.items() if value is not None}


VARIABLES = {
    "database_url": "DATABASE_URL",
    "database_owner_url": "DATABASE_OWNER_URL",
    "app_password": "BANK_APP_PASSWORD",
    "home": "PGTELLER_HOME",
    "pgbin": "PGBIN",
    "host": "HOST",
    "port": "PORT",
    "workers": "WEB_CONCURRENCY",
    "pool_connections_max": "POOL_CONNECTIONS_MAX",
    "request_timeout_seconds": "REQUEST_TIMEOUT_SECONDS",
    "lock_timeout_ms": "LOCK_TIMEOUT_MS",
    "body_bytes_max": "BODY_BYTES_MAX",
    "url_bytes_max": "URL_BYTES_MAX",
    "header_bytes_max": "HEADER_BYTES_MAX",
    "header_count_max": "HEADER_COUNT_MAX",
    "first_byte_timeout_seconds": "FIRST_BYTE_TIMEOUT_SECONDS",
    "headers_timeout_seconds": "HEADERS_TIMEOUT_SECONDS",
    "body_timeout_seconds": "BODY_TIMEOUT_SECONDS",
    "connections_max": "CONNECTIONS_MAX",
    "key_cache_seconds": "KEY_CACHE_SECONDS",
    "graceful_timeout_seconds": "GRACEFUL_TIMEOUT_SECONDS",
    "coalescer_flushes_max": "COALESCER_FLUSHES_MAX",
    "coalescer_queue_max": "COALESCER_QUEUE_MAX",
    "hold_sweep_seconds": "HOLD_SWEEP_SECONDS",
    "log_level": "LOG_LEVEL",
}

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


def _whole(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    def convert(text: str) -> int:
        number = int(text)
        if number < lowest:
            raise ValueError(f"it is less than {lowest}")
        if highest is not None and number > highest:
            raise ValueError(f"it is more than {highest}")
        return number

    return convert


_count, _positive = _whole(0), _whole(1)


def _log_level(text: str) -> str:
    if text.lower() not in LOG_LEVELS:
        raise ValueError(f"it is none of {', '.join(LOG_LEVELS)}")
    return text.lower()


def _postgresql_url(text: str) -> str:
    """Accept the schemes that hosting providers hand out; libpq knows both."""
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("it does not start with postgresql://")
    return text


_CONVERTERS: dict[str, Callable[[str], object]] = {
    "database_url": _postgresql_url,
    "database_owner_url": _postgresql_url,
    "home": Path,
    "pgbin": Path,
    "port": _whole(0, 65_535),
    "workers": _positive,
    "pool_connections_max": _positive,
    "request_timeout_seconds": _whole(1, 3600),
    "lock_timeout_ms": _count,
    "body_bytes_max": _count,
    "url_bytes_max": _positive,
    "header_bytes_max": _positive,
    "header_count_max": _positive,
    "first_byte_timeout_seconds": _positive,
    "headers_timeout_seconds": _positive,
    "body_timeout_seconds": _positive,
    "connections_max": _positive,
    "key_cache_seconds": _count,
    "graceful_timeout_seconds": _count,
    "coalescer_flushes_max": _count,
    "coalescer_queue_max": _positive,
    "hold_sweep_seconds": _count,
    "log_level": _log_level,
}
