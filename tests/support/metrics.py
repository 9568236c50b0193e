"""Reading the metrics of processes."""

import subprocess
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from dev.tools import PROMTOOL, require


@dataclass(frozen=True)
class Scrape:
    """One answer of `/metrics`."""

    text: str

    def values(self, name: str, **labels: str) -> list[float]:
        """The values of the samples with this name and these labels."""
        return [
            sample.value
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def total(self, name: str, **labels: str) -> float:
        return sum(self.values(name, **labels))

    def check(self) -> None:
        """Let promtool judge names, units and help texts."""
        command = [str(require(PROMTOOL)), "check", "metrics"]
        done = subprocess.run(command, input=self.text, capture_output=True, text=True, timeout=60, check=False)
        own = [line for line in (done.stdout + done.stderr).splitlines() if "posthaste" in line or "error" in line.lower()]
        assert done.returncode in (0, 3) and own == [], own  # 3: a finding about a metric of Python's own


async def scrape(session: aiohttp.ClientSession, port: int, accept: str = "text/plain") -> Scrape:
    async with session.get(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept}) as response:
        assert response.status == 200, await response.text()
        return Scrape(await response.text())
