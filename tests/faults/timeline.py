"""When each fault was, when each attempt of a request was, and what the one did to the other."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.faults.scene import RECOVERY_SECONDS_MAX

MARGIN_SECONDS = 2.0
"""By which an answer may come later than the service's deadline for it."""
UNRELATED_SECONDS_MAX = 2.0
"""How long a request over HTTP may take that names no locked account. It takes milliseconds."""

ROW_LOCK = "row locked"
WORKER_STOPS = "worker stopped"


class Attempt(NamedTuple):
    """A request that was sent once."""

    client: int
    way: str
    began_at: float
    ended_at: float
    what: str
    """The answer's status and code, or the name of the exception instead."""
    is_final: bool
    is_bystander: bool
    """It names only accounts that no fault is about."""

    @property
    def seconds(self) -> float:
        return self.ended_at - self.began_at


class Window(NamedTuple):
    """The time of one fault, until all is as it was, as far as the fault knows."""

    name: str
    began_at: float
    ended_at: float

    def overlap_seconds(self, attempt: Attempt) -> float:
        return max(0.0, min(self.ended_at, attempt.ended_at) - max(self.began_at, attempt.began_at))


@dataclass(frozen=True)
class Effect:
    """What one fault did."""

    window: Window
    answered: int
    """Requests over HTTP that got a final answer meanwhile."""
    longest_seconds: float
    """Of the attempts over HTTP at its time."""
    unrelated_seconds: float
    """The longest that was begun meanwhile over HTTP by those whose accounts no fault is about."""
    first_seconds: float
    """After its end, until the first request got a final answer."""
    everybody_seconds: float
    """After its end, until every client had got one."""


def effects(windows: Sequence[Window], attempts: Iterable[Attempt], clients: int) -> list[Effect]:
    in_order = sorted(attempts, key=_ended_at)
    return [_effect(window, _near(window, in_order), clients) for window in windows]


def _near(window: Window, in_order: Sequence[Attempt]) -> Sequence[Attempt]:
    """Return the attempts that ended during the fault, or so soon after it that they can have been kept by it."""
    first = bisect_left(in_order, window.began_at, key=_ended_at)
    return in_order[first : bisect_left(in_order, window.ended_at + RECOVERY_SECONDS_MAX, key=_ended_at)]


def _ended_at(attempt: Attempt) -> float:
    return attempt.ended_at


def _effect(window: Window, near: Sequence[Attempt], clients: int) -> Effect:
    during = [attempt for attempt in near if attempt.began_at < window.ended_at and attempt.way == "OverHttp"]
    unrelated = [attempt for attempt in during if attempt.is_bystander and attempt.began_at >= window.began_at]
    first_of: dict[int, float] = {}
    for attempt in near:
        if attempt.is_final and attempt.ended_at >= window.ended_at:
            after_seconds = attempt.ended_at - window.ended_at
            first_of[attempt.client] = min(after_seconds, first_of.get(attempt.client, after_seconds))
    return Effect(
        window,
        answered=sum(attempt.is_final and attempt.ended_at < window.ended_at for attempt in during),
        longest_seconds=max((attempt.seconds for attempt in during), default=0.0),
        unrelated_seconds=max((attempt.seconds for attempt in unrelated), default=0.0),
        first_seconds=min(first_of.values(), default=float("inf")),
        everybody_seconds=max(first_of.values()) if len(first_of) == clients else float("inf"),
    )


def table(found: Iterable[Effect]) -> str:
    """Return the faults of each name in a line, the worst of each figure."""
    by_name: defaultdict[str, list[Effect]] = defaultdict(list)
    for effect in found:
        by_name[effect.window.name].append(effect)
    head = ("fault", "times", "seconds", "answers/s", "longest s", "unrelated s", "first after s", "all after s")
    lines = [head]
    for name, those in sorted(by_name.items()):
        seconds = sum(effect.window.ended_at - effect.window.began_at for effect in those)
        lines.append(
            (
                name,
                str(len(those)),
                f"{seconds:.1f}",
                f"{sum(effect.answered for effect in those) / seconds:.0f}",
                f"{max(effect.longest_seconds for effect in those):.2f}",
                f"{max(effect.unrelated_seconds for effect in those):.2f}" if name == ROW_LOCK else "",
                f"{max(effect.first_seconds for effect in those):.2f}",
                f"{max(effect.everybody_seconds for effect in those):.2f}",
            )
        )
    return "\n".join(f"{line[0]:28}" + "".join(f"{cell:>15}" for cell in line[1:]) for line in lines)


def overlong(windows: Sequence[Window], attempts: Iterable[Attempt], deadline_seconds: float) -> list[str]:
    """Return the attempts over HTTP that were without an answer for longer than the deadline.

    While a worker is stopped its time stands still.
    """
    stops = [window for window in windows if window.name == WORKER_STOPS]
    seconds_max = deadline_seconds + MARGIN_SECONDS
    return [
        f"{attempt.what} after {attempt.seconds:.1f} s"
        for attempt in attempts
        if attempt.way == "OverHttp"
        and attempt.seconds > seconds_max
        and attempt.seconds - sum(stop.overlap_seconds(attempt) for stop in stops) > seconds_max
    ]


def stopped_by_a_lock(found: Iterable[Effect]) -> list[str]:
    """Return the row locks that kept requests waiting which name other accounts."""
    return [
        f"{effect.unrelated_seconds:.1f} s at a lock of {effect.window.ended_at - effect.window.began_at:.1f} s"
        for effect in found
        if effect.window.name == ROW_LOCK and effect.unrelated_seconds > UNRELATED_SECONDS_MAX
    ]
