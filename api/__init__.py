"""HTTP in: operations, request models, problems. A 202 follows the commit in Postgres."""

import infra  # noqa: F401  first: it imports structlog without rich
