"""HTTP in: operations, request models, problems. A 202 follows the commit in Postgres."""
