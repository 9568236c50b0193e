"""`python -m tests.chaos --seed S --seconds N`: one run and its account; exit code 1 if an invariant is violated."""

import argparse
import asyncio
import random
import statistics
import sys
from collections import Counter, defaultdict

from tests.chaos.account import INVARIANTS, by_job, staleness
from tests.chaos.evidence import Evidence
from tests.chaos.planted import BUGS
from tests.chaos.run import Result, recoveries, run

SHOWN = 5  # violations of one invariant


def _account(result: Result) -> str:
    evidence = result.evidence
    last = {step.job: step.status for step in evidence.steps if step.job not in evidence.parents}
    ended = ", ".join(f"{count} {status}" for status, count in sorted(Counter(last.values()).items()))
    answers = Counter(str(request.answer) for request in evidence.requests)
    per_key = Counter(request.key for request in evidence.requests)
    lines = [
        f"  {sum(map(len, evidence.ids_by_key.values()))} accepted → {ended}",
        f"  {len(evidence.requests)} raw requests: " + ", ".join(f"{n} {answer}" for answer, n in answers.most_common()),
        f"  {sum(n > 1 for n in per_key.values())} keys were repeated, up to {max(per_key.values(), default=0)} times",
        f"  {len(evidence.parents)} callbacks, {len(evidence.callbacks)} raw requests for them: "
        + _counts(str(callback.answer) for callback in evidence.callbacks),
        f"  {len(evidence.steps)} steps, {len(evidence.attempts)} attempts: {_counts(a.outcome for a in evidence.attempts)}",
        f"  {len(evidence.republications)} messages were republished by the sweep",
        f"  {len(evidence.observations)} statuses were read; the oldest was outdated by {_worst(evidence):.2f} s, "
        f"the limit is {evidence.max_staleness:g} s",
        f"  {len(evidence.cache_writes)} cache writes; no work remained {result.drain_seconds:.1f} s after the last fault",
        f"  {len(evidence.faults)} faults; median seconds from the end of each to the final status of a later job (number):",
        *_recoveries(evidence),
    ]
    return "\n".join(lines)


def _recoveries(evidence: Evidence) -> list[str]:
    seconds: dict[str, list[float]] = defaultdict(list)
    for fault, took in recoveries(evidence):
        name = str(fault) if fault.name.startswith(("SIG", "kill", "stop")) else fault.name
        seconds[f"{name}{f' ({fault.note})' if fault.note else ''}"] += [] if took is None else [took]
    return [
        f"    {name}: {'-' if not each else f'{statistics.median(each):.1f}'} ({len(each)})"
        for name, each in sorted(seconds.items())
    ]


def _counts(values: object) -> str:
    return ", ".join(f"{n} {value}" for value, n in Counter(values).most_common())  # type: ignore[call-overload]


def _worst(evidence: Evidence) -> float:
    steps = by_job(evidence)
    return max((staleness(read, steps.get(read.job, [])) or 0.0 for read in evidence.observations), default=0.0)


def _schedule(evidence: Evidence) -> str:
    faults = sorted(evidence.faults, key=lambda fault: fault.started_at)
    return "\n".join(
        f"  {fault.started_at - faults[0].started_at:6.1f} to {fault.ended_at - faults[0].started_at:6.1f} s  {fault}"
        + (f" ({fault.note})" if fault.note else "")
        for fault in faults
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="decides the schedule; random by default")
    parser.add_argument("--seconds", type=float, default=75.0, help="duration of the faults")
    parser.add_argument("--minutes", type=float, default=None, help="duration of the faults")
    parser.add_argument("--bug", choices=sorted(BUGS), default=None, help="plant a bug in every process; the run must fail")
    parser.add_argument("--schedule", action="store_true", help="print every fault with its time, even if all invariants hold")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10_000) if options.seed is None else options.seed
    seconds = options.seconds if options.minutes is None else options.minutes * 60
    again = f"python -m tests.chaos --seed {seed} --seconds {seconds:g}{f' --bug {options.bug!r}' if options.bug else ''}"
    print(f"chaos: seed {seed}, faults for {seconds:g} s (again: {again})", flush=True)
    try:
        result = asyncio.run(run(seed, seconds, options.bug))
    except BaseException:
        print(f"chaos: the run of seed {seed} was aborted; again: {again}", file=sys.stderr)
        raise
    print(_account(result))
    if options.schedule or result.violations:
        print(f"The faults of seed {seed}:\n{_schedule(result.evidence)}")
    for name in INVARIANTS:
        violations = result.violations.get(name, [])
        print(f"  {'NOT: ' if violations else 'holds: '}{name}{f' ({len(violations)})' if violations else ''}")
        for line in violations[:SHOWN]:
            print(f"       {line}")
    if result.violations:
        print(f"chaos: RED with seed {seed}: {'; '.join(result.violations)}. The processes' logs: .local/chaos. Again: {again}")
        return 1
    print(f"chaos: green with seed {seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
