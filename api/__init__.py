"""HTTP in: routes, request models, problems. Answers in milliseconds, and 202 only once Postgres has committed."""
