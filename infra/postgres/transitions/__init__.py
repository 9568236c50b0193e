"""The transitions of jobs: their statements, and their rows as values. `ledger` executes them.

Each statement takes a batch as one JSON array, so the batch commits whole or not at all. Rows are locked in the order of their
ids, because unsorted overlapping batches deadlock; every WHERE repeats the version. `now()` (the statement's start) stands in
comparisons, because an index serves only what is stable within the statement. `clock_timestamp()` stands in assignments,
because the statement may have waited for locks. Source statuses come from `jobs.lifecycle`.
"""
