"""supervisord that ends when the process that started it ends, even by SIGKILL.

Its standard input is a pipe from that process, which the kernel closes at the latest. `posthaste up` gives it a session of its
own, too: a closed terminal and Ctrl-C signal `posthaste up` alone, which then stops it.
"""

import os
import signal
import sys
import threading
from contextlib import suppress

from supervisor import supervisord  # type: ignore[import-untyped]


def _stop_after_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # nobody writes: it returns at the end of the pipe
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_stop_after_parent, daemon=True).start()
    with suppress(BrokenPipeError):  # nobody reads its last lines
        supervisord.main(sys.argv[1:])
