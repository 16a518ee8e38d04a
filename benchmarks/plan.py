"""What a run consists of: options, workloads, and the groups in which workloads are measured in turn."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load import LoadError, Measure

SINGLE_ROUND = {"connections", "statements", "berka"}
"""Groups without a bar of issue 3: the short run gives them one round."""


@dataclass(frozen=True)
class Options:
    """How long, how often and how much."""

    seconds: int
    rounds: int
    full: bool = False
    only: tuple[str, ...] = ()
    """Groups or workloads; all when empty."""
    accounts: int = 100_000
    tpcb_scale: int = 50
    seed: int = 1
    warm_up_seconds: int = 1
    """Each workload is run so long before its runs count; 0: not at all."""
    lock_seconds: int = 20
    """How long rows are kept locked in group slow, whose runs last so long."""
    pgledger: Path | None = None
    tigerbeetle: str | None = None
    growth: tuple[int, ...] = (100_000, 1_000_000, 5_000_000, 20_000_000)
    """At how many transfers growth is measured; the first one is what the others are compared with."""

    def round_numbers(self, group: str) -> range:
        """Return the rounds to run; 0, which warms up, is the first one if any time is given to it."""
        rounds = 1 if group in SINGLE_ROUND and not self.full else self.rounds
        return range(0 if self.warm_up_seconds else 1, rounds + 1)

    def run_seconds(self, round_number: int) -> int:
        """Return how long a workload is run in this round; the first one warms up."""
        return self.seconds if round_number else self.warm_up_seconds

    def wants(self, group: str, workload: "Workload") -> bool:
        """Whether this workload of this group is to be run."""
        if self.only and group not in self.only and workload.name not in self.only:
            return False
        return self.full or not workload.full or workload.name in self.only


@dataclass(frozen=True)
class Workload:
    """A row of a table of workloads: what is called, where, and from how many connections."""

    name: str
    title: str
    script: str | None
    """Of workloads/ or peers/; None for what pgbench has built in."""
    target: str
    """A database, or for HTTP a service."""
    connections: int
    items: int = 1
    """How many transfers a call has."""
    variables: Mapping[str, str | int] = field(default_factory=dict)
    full: bool = False
    """Left out of the short run."""


@dataclass
class Group:
    """What was measured together, and what the ledger looked like afterwards."""

    titles: dict[str, str] = field(default_factory=dict)
    runs: dict[str, list[Measure]] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    """What is no rate: bytes, ratios."""
    violations: int | None = None
    """Found by bank.verify(null) afterwards; None when there was no ledger of ours in it."""
    rejected: int = 0
    """Transfers of ours that were recorded as failures."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""

    def add(self, workload: Workload, measure: Measure) -> None:
        """Keep a run of a workload, and say so."""
        self.titles[workload.name] = workload.title
        self.runs.setdefault(workload.name, []).append(measure)
        number = len(self.runs[workload.name])
        failed = f"  {measure.failed} failed" if measure.failed else ""
        print(f"  {number}  {workload.title:62} {measure.rate:10,.0f}/s{failed}", flush=True)

    def note(self, text: str) -> None:
        """Keep what was left out, and say so."""
        self.notes.append(text)
        print(f"  note: {text}", flush=True)


def interleave(
    group: Group,
    workloads: Sequence[Workload],
    rounds: Iterable[int],
    measure: Callable[[Workload, int], Measure],
) -> None:
    """Measure every workload once a round, so that a slow minute of the machine hits all of them.

    measure: is given the number of the round too. Round 0, if there is one, warms up: connections open, caches
    fill, pages are touched, and no figures are kept. A workload whose generator fails is noted and left out
    from then on.
    """
    failing: set[str] = set()
    for number in rounds:
        for workload in workloads:
            if workload.name in failing:
                continue
            try:
                measured = measure(workload, number)
            except LoadError as error:
                if number == 0:
                    continue  # one second may be too short to open hundreds of connections
                failing.add(workload.name)
                group.note(f"{workload.title} failed: {' '.join(str(error).split())[:300]}")
            else:
                if number:
                    group.add(workload, measured)
