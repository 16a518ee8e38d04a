"""What the URL of a database says, as libpq reads it, and what of it may be shown.

What libpq cannot read is never shown, not even in part: nobody knows then which part is the password.
"""

import json
import re
from collections.abc import Iterable
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

_SCHEMES = ("postgresql://", "postgres://")
_SHOWN = ("service", "user", "host", "hostaddr", "port", "dbname")
_SECRETS = (
    "password",
    "passfile",
    "sslkey",
    "sslpassword",
    "oauth_client_secret",
    "scram_client_key",
    "scram_server_key",
)
_HIDDEN = "***"
_SECRET_CHARACTERS_MIN = 8
"""What is shorter is part of many a word, and libpq quotes nothing of a text that it could read."""

# With more @ or / than that libpq takes a part of the password for a host, a port or a database.
_UNAMBIGUOUS = re.compile(r"[a-z]+://(?:[^:@/]*(?::[^@/]*)?@)?[^@]*")
_PORTS = re.compile(r"[0-9]*(?:,[0-9]*)*")

# What libpq says of a text that it cannot read, without the part of the text that it quotes.
_REASONS = {
    "invalid percent-encoded token": "a % in it is not followed by two hexadecimal digits; a % itself is written %25",
    "forbidden value %00": "it has a %00 in it",
    "unexpected spaces": "it has a blank in it; a blank is written %20",
    "invalid URI query parameter": "it has a parameter after the ? that libpq does not know",
    "extra key/value separator": "it has a = too many after the ?; a = in a value is written %3D",
    "missing key/value separator": "it has a parameter without = after the ?; a ? in a password is written %3F",
    'missing "="': "it has a word without =; a URL begins with postgresql://, and in `host=… dbname=…` a "
    "value with blanks stands in single quotes",
    "unterminated quoted string": "it has a quote that does not end",
    "invalid connection option": "it has a parameter that libpq does not know",
}


def checked(text: str) -> str:
    """Return the text if libpq can read it; raises ValueError that says why not, and does not quote it."""
    if "://" in text.partition("=")[0] and not text.startswith(_SCHEMES):
        raise ValueError("a URL begins with postgresql:// or postgres://, in small letters and without a +driver")
    if text.startswith(_SCHEMES) and not _UNAMBIGUOUS.fullmatch(text):
        raise ValueError("an @ in a user's name, a password or a parameter is written %40, and a / in a password %2F")
    try:
        asked = conninfo_to_dict(text)
    except psycopg.Error as error:
        said = str(error)
        reasons = [reason for beginning, reason in _REASONS.items() if said.startswith(beginning)]
        raise ValueError(*(reasons or ["libpq cannot read it"])) from None
    except UnicodeError:
        raise ValueError("it is not UTF-8") from None
    if not _PORTS.fullmatch(str(asked.get("port", ""))):
        raise ValueError("its port is not a number; in a password, / is written %2F and : is written %3A")
    return text


def shown(database_url: str) -> str:
    """Return where a URL leads: user, host, port and database, and nothing else of it."""
    try:
        asked = conninfo_to_dict(checked(database_url))
    except ValueError:
        return "a database whose URL libpq cannot read"
    said = {name: quote(str(asked[name]), safe="/,:") for name in _SHOWN if asked.get(name)}
    hosts = said.get("host", "")
    login = f"{said.pop('user')}@" if "user" in said else ""
    address = ""
    if "/" not in hosts and "hostaddr" not in said:
        names = said.pop("host", "").split(",")
        ports = said.pop("port", "").split(",")
        ports = ports * len(names) if len(ports) == 1 else ports
        bracketed = [f"[{name}]" if ":" in name else name for name in names]
        pairs = zip(bracketed, ports, strict=False)
        address = ",".join(f"{name}:{port}" if port else name for name, port in pairs)
    dbname = said.pop("dbname", "")
    query = "&".join(f"{name}={value}" for name, value in said.items())
    return f"postgresql://{login}{address}/{dbname}{'?' if query else ''}{query}"


def secrets_of(database_url: str) -> set[str]:
    """Return what must not be shown: what is secret in a URL, as it is written and as it is meant.

    With a secret in it the URL itself must not be shown either.
    """
    asked = conninfo_to_dict(database_url)
    meant = {str(asked[name]) for name in _SECRETS if asked.get(name)}
    return ({database_url} if meant else set()) | meant | {quote(value, safe="") for value in meant}


def without(text: str, secrets: Iterable[str]) -> str:
    """Return the text with stars where a secret was, the longest first: one may be a part of another."""
    written = {form for secret in secrets for form in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1])}
    for form in sorted(written, key=len, reverse=True):
        if len(form) >= _SECRET_CHARACTERS_MIN:
            text = text.replace(form, _HIDDEN)
    return text
