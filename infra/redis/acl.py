"""The permissions of a namespace's Redis user, as rules of Redis' ACL: keys, channels and commands.

A test runs the cache and the events under exactly these rules. docker-compose.yml and docs/operations.md repeat them.
"""


def rules(namespace: str) -> list[str]:
    """The rules that follow the user's name and password in `user …` or `ACL SETUSER …`.

    Redis also checks the commands that a script calls.
    """
    commands = ["get", "mget", "set", "eval", "evalsha", "script|load", "publish", "subscribe", "unsubscribe"]
    commands += ["exists", "incrby", "pttl", "rename"]  # called by the scripts that count requests
    # Connecting: HELLO, PING, SELECT, CLIENT SETINFO (which older servers do not know by name), but not CLIENT KILL.
    connecting = ["-@all", "+@connection", "-@dangerous"]
    return [f"~{namespace}:*", f"&{namespace}:*", *connecting, *(f"+{command}" for command in commands)]
