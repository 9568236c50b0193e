"""Bringing all three services up.

Decide for each where it comes from, install what is missing, start in parallel, write down where they are.
"""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from dev import docker, given, packages
from dev.catalogue import SERVICES, Service
from dev.envfile import Found, render
from dev.errors import AbandonedError, ServiceError
from dev.home import Home, write_private
from dev.instance import RECIPES, Instance
from dev.project import Project
from dev.resolution import Source, resolve

Say = Callable[[Service, str], None]
Job = Callable[[], list[Found]]


class Bringup:
    """One `make services` for one root."""

    def __init__(self, home: Home, environ: Mapping[str, str], say: Say) -> None:
        self.home = home
        self.environ = environ
        self.say = say
        self.project = Project(home, say)
        self.interrupted = threading.Event()

    def run(self, using: Source | None) -> Path:
        """Bring all up and return the file that says where they are; ServiceError lists all that failed."""
        self.home.create()
        sources = self.sources(using)
        for service, source in sources.items():
            self._stop_former(service, source)
        self._install_missing([service for service, source in sources.items() if source is Source.PACKAGES])
        found = self._all(self._jobs(sources))
        path = self.home.root / "services.env"
        write_private(path, render(sorted(found, key=lambda service: service.title)))
        return path

    def sources(self, using: Source | None) -> dict[Service, Source]:
        """Where each service is to come from."""
        return {service: self._source(service, using) for service in SERVICES.values()}

    def instance(self, service: Service) -> Instance:
        """The private instance of a service."""
        return Instance(RECIPES[service.name], self.home, partial(self.say, service))

    def _source(self, service: Service, using: Source | None) -> Source:
        memory = self.home.recall(service.name)
        own = service.variables(memory.ports, self.home.password())[service.variable] if memory else None
        try:
            return resolve(
                given=self.environ.get(service.variable),
                own=own,
                using=using,
                remembered=Source(memory.source) if memory else None,
                docker_trouble=docker.trouble,
            )
        except ServiceError as error:
            raise ServiceError(f"{service.name}: {error}") from error

    def _stop_former(self, service: Service, source: Source) -> None:
        """Where it was had differently before and still runs, end that: services.env can name only one."""
        memory = self.home.recall(service.name)
        if memory is None or source in (Source.ENVIRONMENT, memory.source):
            return
        self.say(service, f"was had by {memory.source} before, now by {source}; the data of before stays where it is")
        if memory.source == Source.PACKAGES:
            self.instance(service).stop()
        elif docker.trouble() is None:
            self.project.stop(service)

    def _install_missing(self, services: list[Service]) -> None:
        missing = [service for service in services if not self.instance(service).installed()]
        if missing:
            names = [RECIPES[service.name].package for service in missing]
            packages.install(names, self.home.data / "install.log", partial(self.say, missing[0]))

    def _jobs(self, sources: Mapping[Service, Source]) -> dict[str, Job]:
        jobs: dict[str, Job] = {}
        for service, source in sources.items():
            if source is Source.ENVIRONMENT:
                jobs[service.name] = partial(self._use_given, service)
            elif source is Source.PACKAGES:
                jobs[service.name] = partial(self._use_packages, service)
        contained = [service for service, source in sources.items() if source is Source.DOCKER]
        if contained:
            jobs["docker"] = partial(self.project.start, contained, self.interrupted)
        return jobs

    def _use_given(self, service: Service) -> list[Found]:
        found = given.find(service, self.environ)
        self.say(service, f"answers: {found.how}")
        return [found]

    def _use_packages(self, service: Service) -> list[Found]:
        instance = self.instance(service)
        instance.start(self.interrupted)
        return [Found(service.title, f"private instance of {instance.recipe.version()}", instance.variables)]

    def _all(self, jobs: Mapping[str, Job]) -> list[Found]:
        """Run the jobs side by side. On Ctrl-C their waiting ends; what they started is recorded and goes on."""
        with ThreadPoolExecutor(max_workers=len(jobs)) as pool:
            futures = {name: pool.submit(job) for name, job in jobs.items()}
            try:
                troubles = [trouble for name, future in futures.items() if (trouble := _trouble(name, future))]
            except KeyboardInterrupt:
                self.interrupted.set()
                raise
        if troubles:
            raise ServiceError("\n".join(troubles))
        return [found for future in futures.values() for found in future.result()]


def _trouble(name: str, future: Future[list[Found]]) -> str | None:
    try:
        future.result()
    except (ServiceError, AbandonedError, OSError) as error:
        return f"{name}: {error}"
    return None
