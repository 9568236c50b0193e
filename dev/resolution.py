"""Where a service comes from: the environment, else a Docker engine, else the distribution's packages."""

from collections.abc import Callable
from enum import StrEnum

from dev.errors import ServiceError


class Source(StrEnum):
    """The three ways in which a service is had."""

    ENVIRONMENT = "environment"
    DOCKER = "docker"
    PACKAGES = "packages"


def resolve(
    *,
    given: str | None,
    own: str | None,
    using: Source | None,
    remembered: Source | None,
    docker_trouble: Callable[[], str | None],
) -> Source:
    """Decide for one service.

    `given` is the URL in the environment. It does not count where it equals `own`, that of an instance started here:
    somebody loaded services.env into the shell. `using` is what was asked for. `remembered` is what this root used
    before, so that an engine started later does not swap a database for an empty one. `docker_trouble` says why Docker
    cannot be used, or None; it takes a while and so is asked only where it matters.
    """
    if given and given != own:
        return Source.ENVIRONMENT
    if using is Source.PACKAGES:
        return Source.PACKAGES
    if using is None and remembered is Source.PACKAGES:
        return Source.PACKAGES
    trouble = docker_trouble()
    if trouble is None:
        return Source.DOCKER
    if using is Source.DOCKER:
        raise ServiceError(f"Docker was asked for, but {trouble}")
    if remembered is Source.DOCKER:
        raise ServiceError(
            f"its data is in a Docker volume, but {trouble}: start Docker, or begin anew with `make services USING=packages`"
        )
    return Source.PACKAGES
