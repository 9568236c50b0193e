"""The outside world: a room for each service we talk to, and what is shared between processes."""
