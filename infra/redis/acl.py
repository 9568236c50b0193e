"""What the Redis user of one namespace may do, as rules of Redis' ACL: the keys, channels and commands that are used here.

A test runs the cache and the events under exactly these; docker-compose.yml and docs/operations.md give the same.
"""


def rules(namespace: str) -> list[str]:
    """The words that follow the user's name and password in `user …` or `ACL SETUSER …`.

    The commands that a script calls are checked, too.
    """
    commands = ["get", "mget", "set", "eval", "evalsha", "script|load", "publish", "subscribe", "unsubscribe"]
    commands += ["exists", "incrby", "pttl", "rename"]  # by the scripts that count requests
    # Connecting: HELLO, PING, SELECT, CLIENT SETINFO (which older servers do not know by name), but not CLIENT KILL.
    connecting = ["-@all", "+@connection", "-@dangerous"]
    return [f"~{namespace}:*", f"&{namespace}:*", *connecting, *(f"+{command}" for command in commands)]
