"""A child of a test: counts in shared metrics, prints them, and waits. `python -m tests.support.counting COUNT`."""

import sys

from infra.monitoring import exposition, metrics


def main() -> None:
    metrics.ACCEPTED["message", "sandbox"].inc(int(sys.argv[1]))
    metrics.HTTP_SECONDS["POST", "/messages", "2xx"].observe(0.1)
    metrics.DEPENDENCY_UP.labels("redis").set(int(sys.argv[2]))
    for _ in sys.stdin:
        print(exposition.render("text/plain")[0].decode(), end="END\n", flush=True)


if __name__ == "__main__":
    main()
