"""The cost of a process: memory and file descriptors."""

from pathlib import Path


def process_of(base: str) -> int:
    """The pid of the API at this URL. Its environment names the port."""
    port = base.rstrip("/").rpartition(":")[2]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:
            continue  # ended, or another user's
        if command.endswith(b"-m\0api\0") and f"POSTHASTE_PORT={port}\0".encode() in environment + b"\0":
            return int(folder.name)
    raise LookupError(f"no API listens on port {port}")


def costs(pid: int) -> dict[str, int]:
    links = list(Path(f"/proc/{pid}/fd").iterdir())
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return {"megabytes": pages * 4096 // 2**20, "descriptors": len(links)}


def describe(costs: dict[str, int]) -> str:
    return f"{costs['megabytes']} MiB, {costs['descriptors']} file descriptors"
