"""Bringing all three services up.

Resolve the source of each, install missing packages, start in parallel, write the URLs down.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dev import containers, packages
from dev.containers import Project, Report
from dev.errors import AbandonedError, ServiceError
from dev.home import Home, Record, write_private
from dev.instance import SERVICES, Instance
from dev.service import Service
from dev.source import Source, explicit_variables, resolve

NO_PACKAGES = "Start Docker, or name running services in POSTHASTE_DATABASE_URL, POSTHASTE_AMQP_URL and POSTHASTE_REDIS_URL"


@dataclass(frozen=True)
class Endpoint:
    """A service that is ready: where it comes from, and the variables that lead to it."""

    title: str
    origin: str
    variables: Mapping[str, str]


Job = Callable[[], list[Endpoint]]


def render(endpoints: Sequence[Endpoint]) -> str:
    """services.env: a comment for each service, then plain KEY=VALUE lines that make, a shell and Python read alike."""
    lines = ["# written by `make services`; the next one writes it anew"]
    for endpoint in endpoints:
        lines.append(f"# {endpoint.title}: {endpoint.origin}")
        for name, value in endpoint.variables.items():
            if any(character.isspace() for character in value):
                raise ServiceError(f"{name} holds white space, which no URL does: write it as %20")
            lines.append(f"{name}={value}")
    return "\n".join(lines) + "\n"


class Bringup:
    """One `make services` for one root."""

    def __init__(self, home: Home, environ: Mapping[str, str], report: Report) -> None:
        self.home = home
        self.environ = environ
        self.report = report
        self.project = Project(home, report)
        self.interrupted = threading.Event()

    def run(self, using: Source | None) -> Path:
        """Bring all up and return the file that holds their URLs; ServiceError lists all that failed."""
        if self.home.former:
            self._leave_former()
        self.home.create()
        sources = self.sources(using)
        for service, source in sources.items():
            self._stop_former(service, source)
        self._install_missing([service for service, source in sources.items() if source is Source.PACKAGES])
        endpoints = self._run_all(self._jobs(sources))
        path = self.home.root / "services.env"
        write_private(path, render(sorted(endpoints, key=lambda endpoint: endpoint.title)))
        return path

    def sources(self, using: Source | None) -> dict[Service, Source]:
        """The source of each service."""
        return {service: self._source(service, using) for service in SERVICES.values()}

    def instance(self, service: Service) -> Instance:
        """The private instance of a service."""
        return Instance(service, self.home, partial(self.report, service))

    def _source(self, service: Service, using: Source | None) -> Source:
        record = self.home.load(service.name)
        own = service.variables(record.ports, self.home.password())[service.variable] if record else None
        try:
            return resolve(
                explicit=self.environ.get(service.variable),
                own=own,
                using=using,
                remembered=Source(record.source) if record else None,
                docker_trouble=containers.trouble,
            )
        except ServiceError as error:
            raise ServiceError(f"{service.name}: {error}") from error

    def _leave_former(self) -> None:
        """Stop services that were started at the root's former path: they have files open by names that are gone."""
        for service in SERVICES.values():
            record, instance = self.home.load(service.name), self.instance(service)
            if record is None:
                continue
            self._stop(service, record)
            if record.source == Source.PACKAGES and instance.is_displaced and not service.movable:
                service.discard(instance.place(), "its folder was moved")

    def _stop(self, service: Service, record: Record) -> None:
        if record.source == Source.PACKAGES:
            self.instance(service).stop()
        elif containers.trouble() is None:
            self.project.stop(service)

    def _stop_former(self, service: Service, source: Source) -> None:
        """Stop a service whose source has changed: services.env can name only one."""
        record = self.home.load(service.name)
        if record is None or source in (Source.ENVIRONMENT, record.source):
            return
        self.report(service, f"came from {record.source} before, comes from {source} now; the former data stays")
        self._stop(service, record)

    def _install_missing(self, services: list[Service]) -> None:
        missing = [service for service in services if not self.instance(service).installed()]
        if missing:
            names = [service.package for service in missing]
            packages.install(names, self.home.data / "install.log", partial(self.report, missing[0]), NO_PACKAGES)

    def _jobs(self, sources: Mapping[Service, Source]) -> dict[str, Job]:
        start = {Source.ENVIRONMENT: self._use_explicit, Source.PACKAGES: self._use_packages}
        jobs: dict[str, Job] = {
            service.name: partial(start[source], service) for service, source in sources.items() if source in start
        }
        contained = [service for service, source in sources.items() if source is Source.DOCKER]
        if contained:
            jobs["docker"] = partial(self._use_containers, contained)
        return jobs

    def _use_explicit(self, service: Service) -> list[Endpoint]:
        variables = explicit_variables(service, self.environ)
        origin = f"given by {service.variable}"
        self.report(service, f"answers: {origin}")
        return [Endpoint(service.title, origin, variables)]

    def _use_packages(self, service: Service) -> list[Endpoint]:
        instance = self.instance(service)
        instance.start(self.interrupted)
        return [Endpoint(service.title, f"private instance of {service.version()}", instance.variables)]

    def _use_containers(self, services: Sequence[Service]) -> list[Endpoint]:
        variables = self.project.start(services, self.interrupted)
        return [Endpoint(each.title, f"a container, {self.project.name}", variables[each]) for each in services]

    def _run_all(self, jobs: Mapping[str, Job]) -> list[Endpoint]:
        """Run the jobs in parallel. Ctrl-C ends their waiting; started processes are recorded and continue."""
        with ThreadPoolExecutor(max_workers=len(jobs)) as pool:
            futures = {name: pool.submit(job) for name, job in jobs.items()}
            try:
                failures = [failure for name, future in futures.items() if (failure := _failure(name, future))]
            except KeyboardInterrupt:
                self.interrupted.set()
                raise
        if failures:
            raise ServiceError("\n".join(failures))
        return [endpoint for future in futures.values() for endpoint in future.result()]


def _failure(name: str, future: Future[list[Endpoint]]) -> str | None:
    try:
        future.result()
    except (ServiceError, AbandonedError, OSError) as error:
        return f"{name}: {error}"
    return None
