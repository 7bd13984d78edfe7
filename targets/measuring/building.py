"""Object files of candidates, from processes that outlive LLVM's and the schedules' failures."""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from compiler.lowering.cache import Cache
from compiler.lowering.kernel import KernelPlan
from compiler.lowering.objects import PACKAGE_ROOT

BUILD_LIMIT_S = 60.0


class NotBuiltError(Exception):
    """A candidate has no object file; the text is the compiler's own last words."""


class Builders:
    """Builds plans in `workers` processes at once. objects: where they are kept, by symbol."""

    def __init__(self, workers: int, objects: Cache, limit_s: float = BUILD_LIMIT_S) -> None:
        self._objects = objects
        self._threads = ThreadPoolExecutor(workers, "build")
        self._own = threading.local()
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._made: list[_Builder] = []
        self._closed = False

    def submit(self, plan: KernelPlan) -> Future[bytes]:
        """The object file, in time; the future raises NotBuiltError."""
        return self._threads.submit(self._build, plan)

    def _build(self, plan: KernelPlan) -> bytes:
        if (known := self._objects.get("kernels", plan.symbol)) is not None:
            return known
        builder: _Builder | None = getattr(self._own, "builder", None)
        if builder is None:
            builder = _Builder(self._limit_s)
            self._own.builder = builder
            with self._lock:
                self._made.append(builder)
        if self._closed:
            raise NotBuiltError("the device was closed")
        made = builder.build(plan)
        self._objects.put("kernels", plan.symbol, made)
        return made

    def close(self) -> None:
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for builder in self._made:
                builder.close()


class _Builder:
    """One process of `compiler.lowering.worker`, started when it is needed, and again when it died."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._folder = tempfile.TemporaryDirectory(prefix="bitloom-build-")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._worker: subprocess.Popen[bytes] | None = None

    def build(self, plan: KernelPlan) -> bytes:
        worker = self._started()
        assert worker.stdin is not None and worker.stdout is not None
        try:
            pickle.dump(plan, worker.stdin)
            worker.stdin.flush()
        except OSError:
            raise NotBuiltError(self._last_words()) from None
        ready, _, _ = select.select([worker.stdout], [], [], self._limit_s)
        if not ready:
            self._stop()
            raise NotBuiltError(f"it did not build within {self._limit_s:g} s")
        if worker.stdout.readline().decode().strip() != plan.symbol:
            raise NotBuiltError(self._last_words())
        path = Path(self._folder.name) / f"{plan.symbol}.o"
        contents = path.read_bytes()
        path.unlink()
        return contents

    def close(self) -> None:
        self._stop()
        self._folder.cleanup()
        self._log.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._worker is None:
            self._log.seek(0)
            self._log.truncate()
            inherited = os.environ.get("PYTHONPATH")
            path = str(PACKAGE_ROOT) if not inherited else f"{PACKAGE_ROOT}{os.pathsep}{inherited}"
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "compiler.lowering.worker", self._folder.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the tuner
            )
        return self._worker

    def _last_words(self) -> str:
        worker = self._worker
        assert worker is not None
        with suppress(subprocess.TimeoutExpired):
            worker.wait(5)
        status = worker.returncode
        self._stop()
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        words = lines[-1].strip() if lines else "the compiler said nothing"
        if status is not None and status < 0:
            return f"the compiler was ended by {signal.Signals(-status).name}: {words}"
        return words

    def _stop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.kill()
        worker.wait()
        for stream in (worker.stdin, worker.stdout):
            assert stream is not None
            with suppress(OSError):
                stream.close()
