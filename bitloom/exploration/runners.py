"""Where configurations are evaluated: in this process, in several, or by Dask. All give the same results."""

from __future__ import annotations

import importlib.util
import multiprocessing
import signal
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import Any

from bitloom.exploration.evaluation import Result, Task, evaluate, version
from compiler.ir.diagnostics import BitloomError

Finished = Iterator[tuple[Task, Result]]
_CONNECT_SECONDS = 10
_graphs: dict[str, str] = {}


def serial(tasks: Sequence[Task], graphs: Mapping[str, str]) -> Finished:
    for task in tasks:
        yield task, evaluate(task, graphs)


def processes(tasks: Sequence[Task], graphs: Mapping[str, str], jobs: int) -> Finished:
    """In the order in which they end. Errors: BitloomError where the system ends a process."""
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, context, _begin, (dict(graphs),))
    try:
        futures = {pool.submit(_evaluate_here, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise BitloomError(
            "a process that evaluated a configuration was ended by the system, perhaps for its memory",
            "what was finished is kept; go on with fewer --jobs",
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        pool.shutdown()  # its thread has to be over before the interpreter's exit writes to its pipe


def _begin(graphs: dict[str, str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides
    _graphs.update(graphs)


def _evaluate_here(task: Task) -> Result:
    return evaluate(task, _graphs)


def check_dask() -> None:
    """Errors: BitloomError where the package is not installed."""
    if importlib.util.find_spec("distributed") is None:
        raise BitloomError(
            "--dask needs the package distributed, which is not installed",
            "python -m pip install 'bitloom[dask]', or leave --dask out for processes of this computer",
        )


def dask(tasks: Sequence[Task], graphs: Mapping[str, str], address: str) -> Generator[tuple[Task, Result]]:
    """By the workers of a scheduler, which need the very same bitloom.

    Errors: BitloomError where none answers, or where a worker has another bitloom.
    """
    check_dask()
    import distributed

    try:
        client: Any = distributed.Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise BitloomError(
            f"no Dask scheduler answers at {address}", "start one: dask scheduler, then dask worker ADDRESS"
        ) from error
    with closing(client):
        versions: dict[str, str] = client.run(version)
        if not versions:
            raise BitloomError(f"the Dask scheduler at {address} has no workers", f"dask worker {address}")
        for worker, found in versions.items():
            if found != version():
                raise BitloomError(f"{worker} has bitloom {found}, this is {version()}", "install the same")
        shared = client.scatter(dict(graphs), broadcast=True, hash=False)
        futures = {client.submit(evaluate, task, shared, pure=False): task for task in tasks}
        for future in distributed.as_completed(list(futures)):
            yield futures[future], future.result()
