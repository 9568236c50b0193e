"""The texts of the OpenAPI document: each field's meaning and example, the headers, and the problems of an operation."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from api import models, schedule_models
from api.operations import Operation

_ID = "0190163d-8694-739b-aea5-966c26f8ad91"
_AT = "2026-11-22T04:00:00.000Z"
_LATER = "2026-11-22T04:00:00.081Z"
_URL = "https://example.com/hooks/posthaste"
_CHECKS = {"postgres": "up", "rabbitmq": "up", "redis": "up", "tasks": "up"}
_MESSAGE_LINKS = {"self": f"/messages/{_ID}", "status": f"/message/{_ID}/status"} | {
    name: f"/messages/{_ID}/{name}" for name in ("attempts", "callbacks", "events")
}
_REPORT = f"/api/2.0/report/jobs/{_ID}"
_SCHEDULE = "/api/2.0/report/schedules/nightly"
_REPORT_LINKS = {"self": _REPORT} | {name: f"{_REPORT}/{name}" for name in ("status", "events", "callbacks", "result")}

# By name, or by `Shape.name` where one shape differs. The second value is an example of answers.
FIELDS: dict[str, tuple[str, Any]] = {
    "active": ("Whether the client has a usable key with the scope `reports`. Without one, the schedule rests.", True),
    "age_seconds": ("The time since the job was accepted or requeued.", 3600.5),
    "attempts": ("The number of attempts.", 1),
    "AttemptsOut.data": ("The attempts, oldest first.", None),
    "body": ("The text, as the provider receives it: at most 65,536 bytes of UTF-8.", "Hello"),
    "MessageOut.body": ("The text. `null`: the message was sent, and bodies are not retained.", "Hello"),
    "BatchOut.data": ("One entry for each message, in order.", None),
    "callback_url": ("The URL of signed callbacks. `null` disables the default callback.", None),
    "CallbacksOut.data": ("The callbacks, oldest first.", None),
    "charged": ("Whether the attempt counts against the limit.", True),
    "checks": ("Each dependency, and the tasks of the process: `up` or `down`.", _CHECKS),
    "client": ("The client of the schedules. Default: the key's own. Others need the scope `admin`.", None),
    "ScheduleOut.client": ("The client of the schedule and of its reports.", "shop"),
    "code": ("The stable code.", "validation"),
    "created_at": ("The instant of acceptance.", _AT),
    "ScheduleOut.created_at": ("The instant of the creation.", _AT),
    "cron": ("Five fields: minute, hour, day of month, month, day of week. They match a date.", "0 6 * * *"),
    "Callback.created_at": ("The instant of the final status.", _AT),
    "cursor": ("The `next_cursor` of the previous page.", None),
    "data": ("The items of the page, in order.", None),
    "delivery": ("The policy for an unknown outcome: retry, or stop for an operator.", "at_least_once"),
    "destination": ("The address at the provider. It has no control characters.", "+15550001"),
    "detail": ("A sentence for people.", "Not valid: /body."),
    "FieldProblem.detail": ("A sentence for people.", "Field required"),
    "discarded": ("The ids of the discarded jobs.", [_ID]),
    "dry_run": ("`true` lists the jobs, and changes nothing.", None),
    "ended_at": ("The instant of the attempt's end.", _LATER),
    "errors": ("The invalid fields.", None),
    "expired": ("The ids of the jobs that are past their deadline.", []),
    "extend": ("`true` gives expired jobs a new deadline.", None),
    "failed_after": ("The earliest failure.", None),
    "failed_at": ("The instant of the failure.", _LATER),
    "failed_before": ("The latest failure.", None),
    "filter": ("A dead letter matches every field. `{}` matches all.", None),
    "finished_at": ("The instant of the final status.", _LATER),
    "from": ("The earliest `created_at` of counted posts.", None),
    "format": ("The media type of the result. It overrides `Accept`.", None),
    "histogram": ("`words` adds the number of posts by their number of words.", None),
    "id": ("The job's id.", _ID),
    "AcceptedOut.id": ("The message's id. `GET /message/{id}/status` reports its status.", _ID),
    "Callback.id": ("The `webhook-id` of the callback.", _ID),
    "ReportAcceptedOut.id": ("The report's id. `GET /api/2.0/report/jobs/{id}/status` reports its status.", _ID),
    "ids": ("The ids of dead letters, from `GET /dead-letters`. `null` selects all.", None),
    "HistogramOut.data": ("The posts by their number of words, ascending.", None),
    "ResultOut.histogram": ("The posts by their number of words. Whole results of reports with `histogram` have it.", None),
    "index": ("The item's position in the request, from 0.", 0),
    "kind": ("The kind of job.", "message"),
    "last_at": ("The instant of the last run. `null`: there was none.", _LATER),
    "last_job": ("The id of the last report. `null`: there is none, or retention has deleted it.", _ID),
    "last_status": ("The status of the last report.", "completed"),
    "last_reason": ("The reason of the last attempt.", "http_400"),
    "ReportOut.last_reason": ("The reason of the last attempt.", None),
    "limit": ("The maximum number of items in the answer.", None),
    "DeadLetterBatch.limit": ("The maximum number of jobs.", None),
    "DeadLetterRequeue.limit": ("The maximum number of jobs.", None),
    "ReportIn.limit": ("The number of users with the most words. `null`: all users.", None),
    "ScheduledReportOut.limit": ("The number of users with the most words. `null`: all users.", None),
    "Parameters.limit": ("The number of users with the most words.", None),
    "ResultQuery.limit": ("The rows of a page. Without it, the answer has all rows.", None),
    "links": ("The paths of related operations, by name.", _MESSAGE_LINKS),
    "AcceptedOut.links": ("The paths of the message, by name.", {name: _MESSAGE_LINKS[name] for name in ("self", "status")}),
    "DeadLetterOut.links": ("The paths of the job, by name.", {name: _MESSAGE_LINKS[name] for name in ("self", "attempts")}),
    "ScheduleOut.links": ("The paths of the schedule and of its last report.", {"self": _SCHEDULE, "last_job": _REPORT}),
    "ReportAcceptedOut.links": ("The paths of the report, by name.", _REPORT_LINKS),
    "ReportOut.links": ("The paths of the report, by name.", _REPORT_LINKS),
    "message": ("A sentence for people.", "Report job submitted"),
    "messages": ("The messages, each as in `POST /messages`. An invalid one has a problem in its place.", None),
    "metadata": (f"The client's own JSON: at most {models.MAX_METADATA:,} bytes, numbers of 64 bits.", {"order": 17}),
    "n": ("The number of the attempt within its revision.", 1),
    "name": ("The name of the service.", "posthaste"),
    "ScheduleIn.name": ("The name, unique for the client. `null`: a name from the other fields.", None),
    "ScheduleOut.name": ("The name, unique for the client. Callbacks have it as `reference`.", "nightly"),
    "next_at": ("The instant of the next run.", _LATER),
    "next_attempt_at": ("The instant of the next attempt. `null`: no retry waits.", None),
    "next_cursor": ("The `cursor` of the next page. `null`: this is the last page.", None),
    "of_about": ("The approximate number of all posts. It equals `posts` once the report is completed.", 5000),
    "of_partitions": ("The number of all partitions.", 12),
    "order": ("`words`: most words first, then by user id.", None),
    "outcome": ("The result: for example `accepted`, `retryable`, `rejected`, `unknown` or `lease_lost`.", "accepted"),
    "parameters": ("The parameters of the report, as in its request. Defaults are absent.", None),
    "partitions": ("The number of counted partitions.", 12),
    "pointer": ("The field as a JSON pointer (RFC 6901), or `?name` in a query string.", "/body"),
    "posts": ("The number of counted posts.", 5000),
    "LengthOut.posts": ("The number of posts with this number of words.", 12),
    "posts_per_second": ("The rate since the last claim. `null`: not measured yet.", 500_000),
    "priority": ("Workers take `high` messages first.", "normal"),
    "problem": ("The reason why the item was not accepted.", None),
    "progress": ("The progress of the count. `null`: it has not begun.", None),
    "provider": ("A configured provider. `null`: the default provider.", "sandbox"),
    "DeadLetterFilter.provider": ("The provider of a message.", None),
    "DeadLetterOut.provider": ("The provider of a message.", "sandbox"),
    "DeadLetterQuery.provider": ("The provider of a message.", None),
    "DeadLetterRequeue.provider": ("The new provider of the messages. `null` keeps each one's own.", None),
    "provider_code": ("The HTTP status of the provider's answer.", 200),
    "DeadLetterOut.provider_code": ("The HTTP status of the provider's last answer.", 400),
    "provider_message_id": ("The provider's own id of the message.", None),
    "ran_seconds": ("The duration of the attempt.", 0.05),
    "reason": ("The stable code of the last failure, for example `http_400`.", None),
    "DeadLetterOut.reason": ("The stable code of the failure.", "http_400"),
    "reference": ("The client's own name of the message, returned unchanged.", "order-17"),
    "replayed": ("The item was accepted before, under the same `Idempotency-Key`.", True),
    "request_id": ("The request's id. Logs contain it.", "5f0c7f4e4d8c4b0f8f5d6a7b8c9d0e1f"),
    "report": ("The parameters of each report, as in `POST /api/2.0/report/posts`.", None),
    "requeued": ("The ids of the requeued jobs.", [_ID]),
    "restarts": ("The number of lost snapshots. After each, the report began again.", 0),
    "revision": ("The number of requeues.", 0),
    "schema": ("The schema revision that the release needs.", "0012"),
    "seconds_left": ("The estimated time until the last partition is counted. `null`: not measured yet.", 0.0),
    "sequence": ("The version of the job that the callback reports.", 3),
    "snapshot_at": ("The instant of the snapshot. Later posts are not counted.", _AT),
    "status": ("The job's status.", "sent"),
    "AcceptedOut.status": ("The status at the acceptance.", "queued"),
    "BatchItemOut.status": ("The status of an accepted item.", "queued"),
    "Callback.status": ("The callback's own status.", "sent"),
    "DeadLetterOut.status": ("The job's status.", "failed"),
    "ItemProblem.status": ("The HTTP status.", 422),
    "LiveOut.status": ("Always `live`.", "live"),
    "ProblemOut.status": ("The HTTP status.", 422),
    "ReadyOut.status": ("Whether the API accepts messages now.", "ready"),
    "ReportAcceptedOut.status": ("The status at the acceptance.", "queued"),
    "ReportOut.status": ("The report's status.", "completed"),
    "summary": ("The sums of the result. `null`: there is no result, or an older release computed it.", None),
    "tag": ("One tag of the message.", None),
    "tags": ("The client's own labels. `GET /messages` finds messages by tag.", ["welcome"]),
    "timezone": ("The IANA name of the time zone.", "Europe/Berlin"),
    "title": ("The phrase of the HTTP status.", HTTPStatus(422).phrase),
    "to": ("The end of the period. Posts with this `created_at` are not counted.", None),
    "total_words": ("The number of words in the user's posts.", 6380),
    "ResultOut.data": ("The users, in the order of the report.", None),
    "TotalsOut.data": ("The users by ascending id.", None),
    "type": ("The type of problem.", "about:blank"),
    "Callback.type": ("The event: the kind of job with its final status.", "message.sent"),
    "unconfigured_provider": ("The ids of the jobs whose provider is not configured.", []),
    "updated_at": ("The instant of the last change.", _LATER),
    "url": ("The URL of the callback.", _URL),
    "user_ids": ("The users whose posts are counted. `null`: all users.", None),
    "user_id": ("The user's id.", 1),
    "users": ("The number of users whose posts were counted. `limit` does not change it.", 100),
    "Parameters.user_ids": ("The users whose posts are counted.", None),
    "version": ("The number of changes. It is the `ETag`.", 3),
    "VersionOut.version": ("The release.", "0.1.0"),
    "words": ("The number of words.", 55),
    "ResultSummary.words": ("The number of words in the counted posts.", 275_000),
    "would_discard": ("The ids that a call without `dry_run` would discard.", [_ID]),
    "would_requeue": ("The ids that a call without `dry_run` would requeue.", [_ID]),
}  # fmt: skip

# Examples of answers, by shape, by media type, or by operation and status.
_EVENT = 'id: 3\nevent: status\ndata: {{"id":"{id}","version":3,"status":"{status}"}}\n\n'
_CALLBACK = {"id": _ID, "type": "report.completed", "sequence": 3, "url": _URL, "status": "sent", "attempts": 1, "reason": None}
_INSTANTS = {"created_at": _AT, "finished_at": _LATER, "next_attempt_at": None}
_NO_BODY = {"pointer": "/body", "code": "required", "detail": "Field required"}
_PROBLEM = {"type": "about:blank", "title": HTTPStatus(422).phrase, "status": 422, "code": "validation"}
EXAMPLES: dict[str, Any] = {
    "BatchOut": {
        "data": [
            {"index": 0, "id": _ID, "status": "queued"},
            {"index": 1, "problem": {**_PROBLEM, "detail": "Not valid: /body.", "errors": [_NO_BODY]}},
        ]
    },
    "DiscardedOut": {"discarded": [_ID]},
    "ScheduledReportOut": {"from": None, "to": None, "user_ids": None, "order": "words", "limit": 10, "histogram": None},
    "Parameters": {"order": "words", "limit": 10},
    "RequeuedOut": {"requeued": [_ID], "unconfigured_provider": [], "expired": []},
    "text/csv": "user_id,total_words\r\n1,6380\r\n",
    "text/event-stream": _EVENT.format(id=_ID, status="sent"),
    "GET /api/2.0/report/jobs/{id}/callbacks 200": {"data": [{**_CALLBACK, **_INSTANTS}]},
    "GET /api/2.0/report/jobs/{id}/events 200": _EVENT.format(id=_ID, status="completed"),
    "GET /api/2.0/report/jobs/{id}/status 200": {"status": "completed"},
    "GET /api/2.0/report/jobs/{id}/histogram 200": {"data": [{"words": 0, "posts": 12}, {"words": 55, "posts": 340}]},
    "GET /health/ready 503": {"status": "unavailable", "checks": {**_CHECKS, "postgres": "down"}},
}


def _text(description: str, **schema: object) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string", **schema}}


ID = _text("The `id` in the answer of `POST /messages`.", format="uuid", examples=[_ID])
NAME = _text("The `name` of a schedule.", pattern=f"^{schedule_models.NAME.pattern}$")
REPORT_ID = {**ID, "description": "The `id` in the answer of `POST /api/2.0/report/posts`."}
_RESULT_ETAG = _text("Strong. Equal content in the same format has the same ETag.", pattern='^"[0-9a-f]{32}"$')
# By name, or by `operation.name` where one operation differs.
HEADERS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": _text(
        "1 to 255 visible ASCII characters. A repeated request with the same key creates no second job.",
        format="idempotency-key",
    ),
    "Prefer": _text("`wait=N`: wait up to N seconds (at most 60) for a newer version (RFC 7240).", examples=["wait=1"]),
    "If-None-Match": _text("The newest ETag that the client has.", examples=['"2"']),
    "Last-Event-ID": _text("The newest version that the client has received."),
    "Location": _text("The path of the job, or of the page."),
    "Idempotent-Replayed": _text("`true`: a request with this key was accepted before.", const="true"),
    "ETag": _text("The job's version.", pattern='^"[0-9]+"$'),
    "Link": _text('The path of the next page (`rel="next"`).'),
    "Content-Disposition": _text("The name of the file. JSON has none."),
    "Repr-Digest": _text("The SHA-256 of the content (RFC 9530).", pattern="^sha-256=:[A-Za-z0-9+/]{43}=:$"),
    "Preference-Applied": _text("The longest wait that the API applied."),
    "Retry-After": _text("Seconds before the next request.", pattern="^[0-9]+$"),
    "RateLimit-Policy": _text("The rate limit."),
    "RateLimit": _text("The remainder of the rate limit."),
    "WWW-Authenticate": _text("The authentication scheme."),
    "get_api_2_0_report_jobs_id_result.ETag": _RESULT_ETAG,
    "get_api_2_0_report_jobs_id_histogram.ETag": _RESULT_ETAG,
    "X-Request-ID": _text("The request's id in logs and problems."),
}


# By the operations that answer them: status, code, meaning.
_BY_OPERATION: list[tuple[Callable[[Operation], bool], list[tuple[int, str, str]]]] = [
    (lambda op: op.scope is not None, [
        (401, "unauthorized", "The request needs a usable key."),
        (403, "forbidden", "The key lacks the scope."),
        (429, "rate_limited", "The key or the address sends too many requests."),
    ]),
    (lambda op: True, [
        (403, "cross_site", "A browser sent the request for a page of another site."),
        (421, "unknown_host", "The Host header is not one of the API's names."),
    ]),
    (lambda op: "{" in op.path, [
        (404, "not_found", "The resource does not exist or belongs to another client."),
    ]),
    (lambda op: op.body is not None, [
        (400, "malformed_json", "The body is not JSON."),
        (400, "repeated_field", "An object of the body repeats a field."),
        (400, "too_deep", "The body is nested too deeply."),
        (408, "too_slow", "The body did not arrive in time."),
        (413, "too_large", "The body is too large."),
        (415, "unsupported_media_type", "The body is not application/json in UTF-8."),
    ]),
    (lambda op: op.body is not None or op.query is not None, [
        (422, "validation", "Fields are invalid. The problem names each one."),
    ]),
    (lambda op: "Idempotency-Key" in op.headers, [
        (422, "idempotency_key_reused", "Another request used this Idempotency-Key."),
        (503, "unavailable", "The database does not answer. Repeat the request with the same Idempotency-Key."),
        (503, "backlog_full", "Too many jobs of this client wait."),
    ]),
    (lambda op: op.scope is not None and "Idempotency-Key" not in op.headers, [
        (503, "unavailable", "The database does not answer."),
    ]),
    (lambda op: op.scope is not None, [
        (503, "overloaded", "Too many requests wait for the database."),
        (503, "no_keys", "There are no keys yet, and requests need one."),
    ]),
    (lambda op: bool({"Prefer", "Last-Event-ID"} & {*op.headers}), [
        (429, "too_many_waiting", "The key has too many waiting requests."),
    ]),
    (lambda op: op.body is schedule_models.ScheduleIn, [
        (409, "name_taken", "The client has another schedule with this name."),
        (409, "too_many_schedules", "The client has 100 schedules."),
    ]),
    (lambda op: op.query in (models.ResultQuery, models.HistogramQuery), [
        (406, "not_acceptable", "The Accept header accepts no available media type."),
        (409, "not_completed", "The report is in progress."),
        (409, "no_result", "The report has ended without a result."),
        (503, "busy", "Too many results are being written."),
        (503, "storage_full", "The API cannot write the result to a temporary file."),
    ]),
    (lambda op: op.name == "get_api_1_0_report_posts", [
        (503, "busy", "Too many reports are being computed."),
        (503, "too_slow", "The report took too long, or would take too long by the number of posts."),
    ]),
]  # fmt: skip


def problems_of(op: Operation) -> dict[int, dict[str, str]]:
    """The problems that an operation answers: their meanings by code, by status in ascending order."""
    answered = [problem for applies, problems in _BY_OPERATION if applies(op) for problem in problems]
    statuses = sorted({status for status, _, _ in answered})
    return {each: {code: meaning for status, code, meaning in answered if status == each} for each in statuses}
