"""Work out: workers claim jobs, execute them and record their outcomes; the relay publishes."""

import infra  # noqa: F401  first: it imports structlog without rich
