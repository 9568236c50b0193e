"""What a run leaves behind, for the account. Instants are seconds since the epoch by the machine's one clock."""

from dataclasses import dataclass, field

ALWAYS = float("inf")


@dataclass(frozen=True, slots=True)
class Step:
    """One version of one job, as a trigger in the ledger saw it being written."""

    job: str
    version: int
    status: str
    was: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of the ledger's attempts: a claim that ended."""

    job: str
    revision: int
    outcome: str
    reason: str | None
    charged: bool
    ended: float


@dataclass(slots=True)
class Request:
    """One raw request at the provider. `answer`: a status code, `hang`, `reset`, or None where it never got to one."""

    key: str
    at: float
    answer: object = None
    answered: float = ALWAYS


@dataclass(slots=True)
class Callback:
    """One raw request at the receiver of callbacks: what it says of which job. `answer` as of a `Request`."""

    id: str
    job: str
    sequence: int
    type: str
    verified: bool
    answer: object = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What a client was told of a job's status, between asking and being answered."""

    job: str
    asked: float
    answered: float
    status: str


@dataclass(frozen=True, slots=True)
class CacheWrite:
    """One SET in Redis, or (`job` None) the moment at which all it knew was gone."""

    at: float
    job: str | None = None
    version: int = 0
    milliseconds: int = 0


@dataclass(slots=True)
class Fault:
    """One fault that was injected, and what it can excuse.

    `repeats`: a message may reach the provider once more. `loses`: messages are gone, or held by nobody who acts. `stalls`:
    what was committed may have become visible later by its whole length.
    """

    name: str
    target: str
    begun: float
    ended: float = ALWAYS
    repeats: bool = False
    loses: bool = False
    stalls: bool = False
    note: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.target}".strip()


@dataclass(slots=True)
class Evidence:
    """Everything that the account looks at.

    `limit`: attempts, `callback_limit`: of callbacks; `promised`: seconds for which a status may be wrong; `patience`: seconds
    after which a provider's answer may come too late; `sweep_after`: seconds after which a message is missed.
    """

    limit: int
    promised: float
    lease: float
    patience: float
    sweep_after: float
    callback_limit: int
    accepted: dict[str, set[str]] = field(default_factory=dict)  # by idempotency key: the ids that 202s named
    refused: list[str] = field(default_factory=list)  # answers that no client should get
    steps: list[Step] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    at_most_once: set[str] = field(default_factory=set)
    requests: list[Request] = field(default_factory=list)
    wanting: dict[str, str] = field(default_factory=dict)  # the kind of each job whose ends are to be told
    parents: dict[str, str] = field(default_factory=dict)  # of each callback in the ledger, the job of which it tells
    callbacks: list[Callback] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    cache: list[CacheWrite] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    republished: list[tuple[str, int, float]] = field(default_factory=list)  # job, version, when: outbox rows made again
    left: dict[str, int] = field(default_factory=dict)  # what is not empty that should be
    not_done: list[str] = field(default_factory=list)  # faults that could not be injected: the run showed less than it says
    ended_by_themselves: list[str] = field(default_factory=list)
