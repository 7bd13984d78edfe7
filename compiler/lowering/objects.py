"""Object files of kernel plans: from the cache, or built by worker processes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from compiler.ir.diagnostics import BitloomError
from compiler.lowering.cache import Cache
from compiler.lowering.kernel import KernelPlan

PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def build_objects(
    plans: Mapping[str, KernelPlan],
    folder: Path,
    cache: Cache,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    workers: int | None = None,
) -> list[Path]:
    """One object file per plan in `folder`, in the order of `plans` (symbol -> plan).

    progress: called with the number of finished kernels and of all. workers: processes; None for one a
    core.
    Errors: BitloomError that names the kernel and carries the end of the worker's output.
    """
    paths = {symbol: folder / f"{symbol}.o" for symbol in plans}
    missing: list[KernelPlan] = []
    for symbol, plan in plans.items():
        found = cache.get("kernels", symbol)
        if found is None:
            missing.append(plan)
        else:
            paths[symbol].write_bytes(found)
    done = [len(plans) - len(missing)]
    progress(done[0], len(plans))

    def finished(symbol: str) -> None:
        cache.put("kernels", symbol, paths[symbol].read_bytes())
        done[0] += 1
        progress(done[0], len(plans))

    if missing:
        # The largest first, so that no core waits for one long kernel at the end.
        missing.sort(key=lambda p: -getattr(p.form, "taps", 0))
        _build_all(missing, folder, finished, workers or os.cpu_count() or 1)
    return list(paths.values())


def _build_all(
    plans: Sequence[KernelPlan], folder: Path, finished: Callable[[str], None], workers: int
) -> None:
    queue = list(reversed(plans))
    lock = threading.Lock()
    errors: list[BaseException] = []

    def serve() -> None:
        try:
            _serve(queue, lock, folder, finished, errors)
        except BitloomError as error:
            errors.append(error)

    threads = [threading.Thread(target=serve) for _ in range(min(workers, len(plans)))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        with lock:
            queue.clear()
        raise
    if errors:
        raise errors[0]


def _serve(
    queue: list[KernelPlan],
    lock: threading.Lock,
    folder: Path,
    finished: Callable[[str], None],
    errors: list[BaseException],
) -> None:
    """Feeds one worker process with plans until the queue is empty or another worker failed."""
    with tempfile.TemporaryFile() as log:
        environment = {**os.environ, "PYTHONPATH": _python_path(), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "compiler.lowering.worker", str(folder)]
        worker = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment
        )
        assert worker.stdin is not None and worker.stdout is not None
        try:
            while True:
                with lock:
                    if not queue or errors:
                        return
                    plan = queue.pop()
                with suppress(BrokenPipeError):
                    pickle.dump(plan, worker.stdin)
                    worker.stdin.flush()
                if worker.stdout.readline().decode().strip() != plan.symbol:
                    worker.wait()
                    raise _failure(plan, worker.returncode, _tail(log))
                with lock:
                    finished(plan.symbol)
        finally:
            with suppress(BrokenPipeError):
                worker.stdin.close()
            worker.stdout.close()
            worker.wait()


def _failure(plan: KernelPlan, status: int, log: str) -> BitloomError:
    return BitloomError(
        f"kernel {plan.symbol} did not build for {plan.machine.name} (worker ended with {status}):\n{log}",
        "this is a fault of bitloom, not of the model: report it with the message above",
    )


def _tail(log: IO[bytes], limit: int = 2000) -> str:
    log.seek(0)
    return log.read()[-limit:].decode(errors="replace")


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return str(PACKAGE_ROOT) if not inherited else f"{PACKAGE_ROOT}{os.pathsep}{inherited}"
