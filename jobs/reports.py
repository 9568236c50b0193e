"""The parameters of a report."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

Order = Literal["user_id", "words"]


@dataclass(frozen=True, slots=True)
class ReportParameters:
    """Which posts a report counts, and what its result has.

    Counted are the posts with `created_at` in [`start`, `end`), of `user_ids`; None: all. The result has the `limit` users with
    the most words (None: all), ascending by user id, or descending by words and then ascending by user id. `histogram` adds the
    number of posts by their number of words.
    """

    start: datetime | None = None
    end: datetime | None = None
    user_ids: tuple[int, ...] | None = None
    order: Order = "user_id"
    limit: int | None = None
    histogram: bool = False

    def to_json(self) -> str:
        """A canonical text: equal for equal parameters. Instants are in UTC, user ids ascending and distinct; no defaults."""
        fields: dict[str, Any] = {
            **asdict(self),
            "start": None if self.start is None else self.start.isoformat(),
            "end": None if self.end is None else self.end.isoformat(),
            "user_ids": None if self.user_ids is None else sorted(set(self.user_ids)),
        }
        defaults = asdict(ReportParameters())
        return json.dumps({name: value for name, value in fields.items() if value != defaults[name]}, sort_keys=True)

    def to_body(self) -> str | None:
        """The body of the job; None: every parameter has its default."""
        return None if self == ReportParameters() else self.to_json()

    @classmethod
    def from_body(cls, text: str | None) -> "ReportParameters":
        """Read what `to_body` wrote."""
        if text is None:
            return cls()
        fields = json.loads(text)
        for name in ("start", "end"):
            if name in fields:
                fields[name] = datetime.fromisoformat(fields[name])
        if "user_ids" in fields:
            fields["user_ids"] = tuple(fields["user_ids"])
        return cls(**fields)
