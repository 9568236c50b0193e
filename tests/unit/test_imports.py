"""What a process imports: memory that it never uses is memory that every process has."""

import subprocess
import sys

import pytest

UNUSED = {"rich", "pygments", "typer", "faker", "alembic", "websockets"}


@pytest.mark.parametrize("module", ["api.__main__", "consumers.__main__"])
def test_a_server_imports_nothing_of_the_command(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert {name.partition(".")[0] for name in imported} & UNUSED == set()
