"""The seed's design, as an engineer would write it: Flask, SQLAlchemy's ORM, SELECT ... FOR UPDATE, psycopg, gunicorn.

Two tables, Account and Transaction, in the seed's columns; money is numeric instead of the seed's float. A transfer
locks both accounts in the order of their ids with one query, checks the funds, writes one row for each side and
commits. There is no idempotency, no authentication and no validation beyond types, which is to its advantage.

Settings: gunicorn's gthread workers, as many as ours has, each with SEED_THREADS threads; a pool with a connection for
every thread of a worker, so that nobody waits for one; SQLAlchemy's own defaults otherwise.
"""

import os
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from flask import Flask, request
from sqlalchemy import ForeignKey, Numeric, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

THREADS = int(os.environ["SEED_THREADS"])


class Base(DeclarativeBase):
    """What the tables have in common: nothing."""


class Account(Base):
    """Who has how much."""

    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    holder: Mapped[str]
    balance: Mapped[Decimal] = mapped_column(Numeric(20, 2))


class Transaction(Base):
    """What was done to an account."""

    __tablename__ = "transaction"
    transaction_id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"), index=True)
    amount: Mapped[Decimal] = mapped_column(Numeric(20, 2))
    transaction_type: Mapped[str]
    transaction_status: Mapped[str]
    timestamp: Mapped[datetime]


def create_database(url: str, accounts: int) -> None:
    """Make the tables, and accounts from 1 on with money to spend."""
    engine = create_engine(_sqlalchemy_url(url))
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "insert into account (holder, balance) select 'Load', 1000000000 from generate_series(1, %s)", (accounts,)
        )
    engine.dispose()


def create_app() -> Flask:
    """Return the application over DATABASE_URL; gunicorn calls this in each worker."""
    engine = create_engine(_sqlalchemy_url(os.environ["DATABASE_URL"]), pool_size=THREADS, max_overflow=0)
    sessions = sessionmaker(engine)
    app = Flask(__name__)

    @app.post("/v1/transfers")
    def transfer() -> tuple[dict[str, Any], int]:
        body = request.get_json()
        amount = Decimal(body["amount_minor"]) / 100
        with sessions.begin() as session:
            return _transfer(session, int(body["debit_account_id"]), int(body["credit_account_id"]), amount)

    @app.get("/v1/accounts/<int:account_id>/balance")
    def balance(account_id: int) -> tuple[dict[str, Any], int]:
        with sessions() as session:
            account = session.get(Account, account_id)
            if account is None:
                return {"error": "account not found"}, 404
            return {"account_id": account.id, "balance": str(account.balance)}, 200

    return app


def _transfer(session: Session, debit_id: int, credit_id: int, amount: Decimal) -> tuple[dict[str, Any], int]:
    locked = select(Account).where(Account.id.in_([debit_id, credit_id])).order_by(Account.id).with_for_update()
    accounts = {account.id: account for account in session.scalars(locked)}
    if len(accounts) != 2:
        return {"error": "account not found"}, 404
    status = "Success" if accounts[debit_id].balance >= amount else "Failure"
    if status == "Success":
        accounts[debit_id].balance -= amount
        accounts[credit_id].balance += amount
    now = datetime.now(UTC).replace(tzinfo=None)
    debit = Transaction(
        account_id=debit_id, amount=amount, transaction_type="Debit", transaction_status=status, timestamp=now
    )
    credit = Transaction(
        account_id=credit_id, amount=amount, transaction_type="Credit", transaction_status=status, timestamp=now
    )
    session.add_all([debit, credit])
    session.flush()
    return {"transaction_id": debit.transaction_id, "transaction_status": status}, 201 if status == "Success" else 422


def _sqlalchemy_url(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)
