"""The peers: each accepts a message over HTTP, queues it durably, and delivers it from a worker. They run in .venv-bench."""
