"""What issue 3 asks for, and whether a run reached it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """The value of one workload or figure, or its ratio to another's, and its bound."""

    what: str
    of: str
    to: str | None
    bound: float
    at_most: bool = False

    def measured(self, values: Mapping[str, float]) -> float | None:
        """Return the value or ratio; None when a part of it was not measured."""
        if self.of not in values or (self.to is not None and not values.get(self.to)):
            return None
        return values[self.of] / (1 if self.to is None else values[self.to])

    def is_held(self, measured: float) -> bool:
        """Whether the bound is reached."""
        return measured <= self.bound if self.at_most else measured >= self.bound


BARS = (
    Bar("SQL transfer, 16 connections, uniform / TPC-B-like", "transfer", "tpcb", 1.3),
    Bar("SQL credit, one settlement account / uniform transfer", "credit", "transfer", 0.8),
    Bar("HTTP transfer, 64 connections / no-op POST", "http_transfer", "http_noop_post", 0.5),
    Bar("HTTP transfer / the seed's design", "http_transfer", "http_seed", 20),
    Bar("HTTP transfer a second (TigerBeetle's Python client: 4,700)", "http_transfer", None, 4_700),
    Bar("HTTP transfer, two accounts, a second (TigerBeetle: 5,300)", "http_two_accounts", None, 5_300),
    Bar("HTTP transfer, one hot account / uniform", "http_hot", "http_transfer", 0.9),
    Bar("post_transfers, 1,000 items, 2 connections / ceiling", "batch_1000_c2", "ceiling_batch_1000_c2", 0.75),
    Bar("post_transfers, 10,000 items, 2 connections / ceiling", "batch_10000_c2", "ceiling_batch_10000_c2", 0.75),
    Bar("post_transfers, 1,000 items, 2 connections, a second", "batch_1000_c2", None, 40_000),
    Bar("HTTP batch of 1,000 / SQL batch of 1,000 beside it", "http_batch", "http_sql_batch", 0.6),
    Bar("HTTP balance / no-op GET", "http_balance", "http_noop_get", 0.7),
    Bar("SQL transfer at 20 million transfers / at 100,000", "growth_20m", "growth_20m_base", 0.9),
    Bar("bytes a transfer, indexes included, without keys", "unkeyed_bytes", None, 450, at_most=True),
    Bar("bytes a transfer, indexes included, with keys", "keyed_bytes", None, 450, at_most=True),
)

BASES = {
    "sql": "tpcb",
    "batch": "ceiling_batch_1000_c2",
    "connections": "transfer_c16",
    "http": "http_noop_post",
    "statements": "statement_newest",
    "berka": "berka_http",
}
"""What the ratios of a group's table are to; growth's are to its smallest history."""
