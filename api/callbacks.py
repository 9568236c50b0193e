"""Where clients want to be called when a job ends: their URL is looked at before the job is accepted."""

from dataclasses import dataclass

from api.models import MessageIn, ReportIn
from api.problems import FieldError, Problem
from infra.webhooks.guard import Guard, Refused


@dataclass(frozen=True, slots=True)
class CallbackUrls:
    """Which URL a job's ends are told to. `default`: of jobs that say nothing; `on`: whether there are secrets to sign with."""

    guard: Guard
    default: str | None
    on: bool

    def resolve(self, submission: MessageIn | ReportIn) -> str | None:
        """The URL that the client names, else the default; None where it names `null`, or there is none.

        Raises:
            Problem: 422, the URL is not one that this installation calls.
        """
        if "callback_url" not in submission.model_fields_set:
            return self.default
        url = submission.callback_url
        if url is None:
            return None
        if not self.on:
            detail = "this installation makes no callbacks: POSTHASTE_CALLBACK_SECRETS is not set"
            raise _not_valid("callbacks_off", detail)
        try:
            self.guard.check(url)
        except Refused as error:
            raise _not_valid("refused_url", str(error)) from error
        return url


def _not_valid(code: str, detail: str) -> Problem:
    return Problem(422, "validation", "Not valid: /callback_url.", errors=[FieldError("/callback_url", code, detail)])
