"""The evidence of a run, which the account checks. Instants are seconds since the epoch, by one clock."""

from dataclasses import dataclass, field

ALWAYS = float("inf")


@dataclass(frozen=True, slots=True)
class Step:
    """One version of one job, recorded by a trigger in the ledger."""

    job: str
    version: int
    status: str
    previous: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of the ledger's table of attempts."""

    job: str
    revision: int
    outcome: str
    reason: str | None
    charged: bool
    ended_at: float


@dataclass(slots=True)
class Request:
    """One raw request at the provider. `answer`: a status code, `hang`, `reset`, or None without an answer."""

    key: str
    at: float
    answer: object = None
    answered_at: float = ALWAYS


@dataclass(slots=True)
class Callback:
    """One raw request at the callback receiver. `answer`: as in `Request`."""

    id: str
    job: str
    sequence: int
    type: str
    verified: bool
    answer: object = None


@dataclass(frozen=True, slots=True)
class Observation:
    """A status that a client read, between its request and the answer."""

    job: str
    requested_at: float
    answered_at: float
    status: str


@dataclass(frozen=True, slots=True)
class CacheWrite:
    """One SET in Redis. `job` is None where Redis lost all its data."""

    at: float
    job: str | None = None
    version: int = 0
    milliseconds: int = 0


@dataclass(slots=True)
class Fault:
    """One injected fault, and the anomalies that it can excuse.

    `duplicates_requests`: a message may reach the provider once more. `loses_messages`: RabbitMQ, or a frozen consumer, may
    lose messages. `delays_visibility`: a commit may become visible later, by the length of the fault.
    """

    name: str
    target: str
    started_at: float
    ended_at: float = ALWAYS
    duplicates_requests: bool = False
    loses_messages: bool = False
    delays_visibility: bool = False
    note: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.target}".strip()


@dataclass(slots=True)
class Evidence:
    """The input of the account.

    `max_staleness`: seconds for which a status may be outdated. `slow_after`: seconds after which a provider's answer may miss
    the timeout. `sweep_after_seconds`: seconds after which the sweep misses a message.
    """

    max_attempts: int
    max_staleness: float
    lease_seconds: float
    slow_after: float
    sweep_after_seconds: float
    max_callback_attempts: int
    ids_by_key: dict[str, set[str]] = field(default_factory=dict)  # by idempotency key: the ids that 202s named
    unexpected_answers: list[str] = field(default_factory=list)  # neither 202 nor 503
    steps: list[Step] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    at_most_once: set[str] = field(default_factory=set)
    requests: list[Request] = field(default_factory=list)
    jobs_with_callback: dict[str, str] = field(default_factory=dict)  # the kind of each job that has a callback URL
    parents: dict[str, str] = field(default_factory=dict)  # the job of each callback
    callbacks: list[Callback] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    cache_writes: list[CacheWrite] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    republications: list[tuple[str, int, float]] = field(
        default_factory=list
    )  # job, version, instant of the repeated outbox row
    remaining: dict[str, int] = field(default_factory=dict)  # work that should be gone, by name
    failed_injections: list[str] = field(default_factory=list)
    unexpected_exits: list[str] = field(default_factory=list)
