"""`make bench ONLY=peers`: measure, print the report, and keep a full run in docs/performance.md."""

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.peers.chart import chart
from benchmarks.peers.comparison import Options, compare
from benchmarks.peers.report import markdown
from benchmarks.peers.servers import ROOT
from benchmarks.peers.systems import PEERS_PYTHON, SYSTEMS
from dev.errors import ServiceError

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
PAGE, PICTURE, RESULTS = (
    ROOT / "docs/performance.md",
    ROOT / "docs/images/performance.svg",
    ROOT / "benchmarks/results/peers.json",
)
IMAGE = "![Bars of the rates of accepting, delivering and status, and of the latency, by system.](images/performance.svg)"
SHORT = ROOT / ".local/bench"
FULL_REPEATS = 3


def main() -> int:
    """Exit 2: an unknown system, or peers that are not installed."""
    arguments = _arguments()
    if arguments.render:
        keep(json.loads(RESULTS.read_text()))
        return 0
    names = arguments.systems.split(",") if arguments.systems else list(SYSTEMS)
    if unknown := set(names) - set(SYSTEMS):
        print(f"unknown: {', '.join(sorted(unknown))}; the systems are {', '.join(SYSTEMS)}", file=sys.stderr)
        return 2
    if not PEERS_PYTHON.exists():
        print("the peers are not installed; `make bench ONLY=peers` installs them into .venv-bench", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that servers and systems end, as with Ctrl-C
    try:
        results = uvloop.run(compare(Options(arguments.repeats, arguments.seconds, names)))
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing is kept", file=sys.stderr)
        return 130
    print(markdown(results))
    if set(names) == set(SYSTEMS) and arguments.repeats >= FULL_REPEATS:
        keep(results)
    else:
        keep_short(results)
    return 0


def keep(results: dict[str, Any]) -> None:
    """Write the JSON, the chart, and the part of docs/performance.md between its marks."""
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PICTURE.write_text(chart(results))
    PAGE.write_text(with_results(PAGE.read_text(), f"{IMAGE}\n\n{markdown(results)}"))
    print(f"written: {', '.join(str(path.relative_to(ROOT)) for path in (RESULTS, PICTURE, PAGE))}", file=sys.stderr)


def keep_short(results: dict[str, Any]) -> None:
    """Write JSON, chart and report of a short run beside the services' data, where git ignores them."""
    SHORT.mkdir(parents=True, exist_ok=True)
    for name, text in (("json", json.dumps(results, indent=1)), ("svg", chart(results)), ("md", markdown(results))):
        Path(SHORT / f"peers.{name}").write_text(text)
    print(f"written: {SHORT.relative_to(ROOT)}; docs/performance.md is kept from a full run", file=sys.stderr)


def with_results(page: str, report: str) -> str:
    """Replace what stands between the marks.

    Raises:
        ValueError: the page lacks a mark.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{report}\n\n{END}{after}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--repeats", type=int, default=FULL_REPEATS)
    parser.add_argument("--seconds", type=float, default=5.0, help="the length of a stage")
    parser.add_argument("--systems", default="", help=f"some of {','.join(SYSTEMS)}")
    parser.add_argument("--render", action="store_true", help="write the page anew from the kept JSON, without measuring")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
