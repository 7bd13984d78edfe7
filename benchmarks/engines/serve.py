"""The process of one contender: prepares a case, or opens what was prepared and times slots on demand.

Started by `benchmarks.contenders` with one argument, a `Job` as JSON. Answers are lines of JSON on standard
output; whatever the engine prints goes to standard error. A process that has opened its model answers once,
and then after each line of standard input, which is how long the next slot lasts, in seconds. Between slots
it sleeps on the pipe.
"""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.case import Case
from benchmarks.cpuid import Limit
from benchmarks.engines import RefusedError, Run, engine_named

PAUSE_SECONDS = 0.02  # lets the worker threads of the contender before stop spinning
WARM_UP_RUNS = 3
LEAST_RUNS = 3


@dataclass(frozen=True, slots=True)
class Job:
    """case: folder of `Case.save`. prepared: None asks for `Engine.prepare` into folder.
    limit: what CPUID hides from the engine."""

    engine: str
    options: dict[str, str]
    case: str
    folder: str
    prepared: str | None
    threads: int
    limit: Limit | None

    def as_json(self) -> str:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({**fields, "limit": None if self.limit is None else self.limit.as_fields()})


def parse_job(text: str) -> Job:
    """Inverse of `Job.as_json`."""
    fields = json.loads(text)
    limit = fields.pop("limit")
    return Job(**fields, limit=None if limit is None else Limit.from_fields(limit))


def time_slot(run: Run, seconds: float) -> float:
    """Median time in ms of runs that fill `seconds`, at least a few."""
    time.sleep(PAUSE_SECONDS)
    for _ in range(WARM_UP_RUNS):
        run()
    times: list[int] = []
    end = time.perf_counter() + seconds
    while len(times) < LEAST_RUNS or time.perf_counter() < end:
        start = time.perf_counter_ns()
        run()
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1e6


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    job = parse_job(sys.argv[1])
    if job.limit is not None:
        job.limit.apply(ctypes.CDLL(job.limit.library))
    engine = engine_named(job.engine, job.options)
    case = Case.load(Path(job.case))
    try:
        if job.prepared is None:
            answer(prepared=str(engine.prepare(case, Path(job.folder))))
            return
        run = engine.open(Path(job.prepared), case, job.threads)
    except RefusedError as refusal:
        answer(refused=str(refusal))
        return
    answer(ready=True)
    for line in sys.stdin:
        slot = time_slot(run, float(line))
        answer(ms=slot, processor_seconds=time.process_time())


if __name__ == "__main__":
    main()
