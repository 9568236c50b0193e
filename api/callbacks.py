"""Callback URLs of new jobs. The SSRF guard checks them before a job is accepted."""

from dataclasses import dataclass

from api.models import MessageIn, ReportIn
from api.problems import Problem, invalid
from api.shapes import FieldProblem
from infra.webhooks.guard import Guard, Refused


@dataclass(frozen=True, slots=True)
class CallbackUrls:
    """Resolves the callback URL of a job. `default`: for jobs without the field; `enabled`: signing secrets exist."""

    guard: Guard
    default: str | None
    enabled: bool

    def resolve(self, submission: MessageIn | ReportIn) -> str | None:
        """The request's callback URL, else the default. None: no callbacks.

        Raises:
            Problem: 422, this installation does not call the URL.
        """
        if "callback_url" not in submission.model_fields_set:
            return self.default
        url = submission.callback_url
        if url is None:
            return None
        if not self.enabled:
            raise _invalid("callbacks_off", "is not supported here: POSTHASTE_CALLBACK_SECRETS is not set")
        try:
            self.guard.check(url)
        except Refused as error:
            raise _invalid("refused_url", str(error)) from error
        return url


def _invalid(code: str, detail: str) -> Problem:
    return invalid(FieldProblem("/callback_url", code, detail))
