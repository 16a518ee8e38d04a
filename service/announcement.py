"""What `pgteller serve` says when it is ready: what a newcomer needs next."""

import shlex
import shutil

from service.local import PEOPLE_LOGIN, LocalBank

_FIND_ACCOUNT_ID = r"""sed -n 's/.*"account_id": *\([0-9]*\).*/\1/p'"""
_NEW_KEY = '-H "Idempotency-Key: $(date +%s%N)"'
_NEWEST_BALANCES = "select * from bank.account_balance order by account_id desc limit 5"


def announcement(bank: LocalBank, url: str, key: str) -> str:
    """Return the address, the key, and lines that work when pasted, into a fresh bank and into a used one."""
    account = f"{url}/v1/accounts/$ACCOUNT"
    opened = _curl(f"{url}/v1/accounts", key, '{"holder_name": "Ada Lovelace", "currency": "EUR"}')
    credited = _curl(f"{account}/credit", key, '{"amount_minor": 12500}')
    psql = "psql" if shutil.which("psql") else shlex.quote(str(bank.server.binaries / "psql"))
    return f"""
pgteller is ready at {url} (Ctrl-C stops it)

API key  {key}
         named development, all scopes; kept in {bank.key_file}
SQL      {bank.people_url}
         {PEOPLE_LOGIN}, who may call and read; `pgteller logins create NAME` makes others

Open an account, credit it, ask for its balance; then the newest balances in SQL:

ACCOUNT=$({opened} {_NEW_KEY} | {_FIND_ACCOUNT_ID}); echo "account $ACCOUNT"
{credited} {_NEW_KEY}; echo
{_curl(f"{account}/balance", key)}; echo
{psql} {shlex.quote(bank.people_url)} -c '{_NEWEST_BALANCES}'
"""


def _curl(url: str, key: str, body: str | None = None) -> str:
    command = f"curl -sS {url} -H 'Authorization: Bearer {key}'"
    return command if body is None else f"{command} -H 'Content-Type: application/json' -d '{body}'"
