"""A Docker engine: whether one can be used here, how it is spoken to, and whether it has the images."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

from dev.errors import ServiceError

FILE = Path(__file__).with_name("compose.yml")
SECONDS_TO_ANSWER = 5
SECONDS_TO_PULL = 900


@cache
def trouble() -> str | None:
    """Why Docker cannot be used, or None where an engine answers."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    if os.environ.get("DOCKER_HOST", "unix:").partition(":")[0] not in ("unix", "npipe"):
        return "its engine is on another machine (DOCKER_HOST), and so would be the ports it publishes"
    try:
        engine = docker("info", "--format", "{{.ServerVersion}}", seconds=SECONDS_TO_ANSWER)
    except subprocess.TimeoutExpired:
        return f"no engine answered within {SECONDS_TO_ANSWER} s"
    if engine.returncode != 0 or not engine.stdout.strip():
        return "no engine answers"
    if not compose():
        return "neither `docker compose` nor `docker-compose` is installed"
    return None


@cache
def compose() -> list[str]:
    """The command for Compose: the plugin, else version 1; empty where there is neither."""
    if docker("compose", "version").returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


def docker(*words: str, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
    """Run one docker command, whatever its outcome."""
    return subprocess.run(["docker", *words], capture_output=True, text=True, timeout=seconds, check=False)


def images() -> dict[str, str]:
    """The image of each service, as compose.yml names it."""
    return dict(re.findall(r"^  (\w+):\n    image: (\S+)$", FILE.read_text(), flags=re.MULTILINE))


def have_image(image: str, say: Callable[[str], None]) -> None:
    """Pull an image unless it is there; ServiceError tells how to do without."""
    if docker("image", "inspect", image).returncode == 0:
        return
    say(f"pulling the image {image}")
    try:
        pulled = docker("pull", "-q", image, seconds=SECONDS_TO_PULL)
    except subprocess.TimeoutExpired:
        reason = f"not there after {SECONDS_TO_PULL} s"
    else:
        if pulled.returncode == 0:
            return
        reason = pulled.stderr.strip()
    raise ServiceError(
        f"Docker's engine answers, but the image {image} cannot be had: {reason}\n"
        "To do without images, from the distribution's packages: make services USING=packages"
    )
