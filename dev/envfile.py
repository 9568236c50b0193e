"""services.env: what was found, as plain KEY=VALUE lines that make, a shell and Python read alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dev.errors import ServiceError


@dataclass(frozen=True)
class Found:
    """A service that is ready: how it was found, and the variables that lead to it."""

    title: str
    how: str
    variables: Mapping[str, str]


def render(found: Sequence[Found]) -> str:
    """The file's text: a comment for each service, then its variables."""
    lines = ["# written by `make services`; the next one writes it anew"]
    for service in found:
        lines.append(f"# {service.title}: {service.how}")
        for name, value in service.variables.items():
            if any(character.isspace() for character in value):
                raise ServiceError(f"{name} holds white space, which no URL does: write it as %20")
            lines.append(f"{name}={value}")
    return "\n".join(lines) + "\n"


def parse(text: str) -> dict[str, str]:
    """The variables in a text made by render()."""
    lines = [line.partition("=") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: value for name, _, value in lines}
