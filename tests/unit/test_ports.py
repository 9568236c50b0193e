"""Free ports: no two processes of the tests get the same one."""

import subprocess
import sys

from dev import ports
from dev.ports import free_port

OTHER = "from dev.ports import free_port; print(*(free_port() for _ in range(50)), flush=True); input()"


def test_two_processes_get_different_ports() -> None:
    command = [sys.executable, "-c", OTHER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdin is not None
        taken = {int(port) for port in other.stdout.readline().split()}
        own = {free_port() for _ in range(200)}
        refused = {port for port in taken if not ports._reserve(port)}
        other.stdin.close()
    assert len(taken) == 50 and len(own) == 200
    assert not taken & own and refused == taken
