"""A device of several equal boards, over whatever links lead to them.

Candidates are built by processes of this computer, a few are linked into one program, and each board takes
the next such program when it is done with one. A board that is lost is tried again for a while; what it had
not answered is measured again, there or on another board.
"""

from __future__ import annotations

import queue
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from compiler.ir.diagnostics import BitloomError
from compiler.loops.form import Form
from compiler.lowering.cache import Cache
from compiler.lowering.kernel import KernelPlan, cpu_of
from schedules.tuning.measure import Measurement, Outcome, Unit
from targets.measuring.answers import Answers
from targets.measuring.building import Builders, NotBuiltError
from targets.measuring.links import Link, LinkLostError, ProgramError, RefusedError
from targets.measuring.operands import Example, FormConstants, example_of, store
from targets.measuring.program import Built, Limits, Linker, Timing, static_triple

_MOST_LOSSES = 2  # of a board under one candidate, before the candidate is given up
_KEPT_EXAMPLES = 16


# A candidate's, or why a board gave up, or a fault that is not the candidates': of this computer, of ours.
_Answer = tuple[int, Measurement] | str | Exception


@dataclass(eq=False)
class _Round:
    """The candidates of one call of `measure`, on their way to boards. Guarded by `changed`."""

    plans: Sequence[KernelPlan]
    links: int
    batch: int
    objects: dict[int, bytes] = field(default_factory=dict[int, bytes])
    ready: deque[int] = field(default_factory=deque[int])
    unanswered: set[int] = field(default_factory=set[int])
    building: int = 0
    stopped: bool = False
    losses: dict[int, int] = field(default_factory=dict[int, int])
    changed: threading.Condition = field(default_factory=threading.Condition)
    answers: queue.SimpleQueue[_Answer] = field(default_factory=queue.SimpleQueue[_Answer])

    def answer(self, index: int, measurement: Measurement) -> None:
        with self.changed:
            if index in self.unanswered:
                self.unanswered.discard(index)
                self.objects.pop(index, None)
                self.answers.put((index, measurement))
            self.changed.notify_all()

    def built(self, index: int, future: Future[bytes]) -> None:
        words: str | None = None
        try:
            contents = b"" if future.cancelled() else future.result()
        except NotBuiltError as error:
            contents, words = b"", str(error)
        except Exception as error:  # the disk is full, or a plan cannot be sent to a process
            contents = b""
            self.answers.put(error)
        with self.changed:
            self.building -= 1
            if contents:
                self.objects[index] = contents
                self.ready.append(index)
            self.changed.notify_all()
        if words is not None:
            self.answer(index, Measurement(Outcome.NOT_BUILT, said=words))

    def take(self) -> list[int]:
        """The next candidates for one board: none where there are no more to come."""
        with self.changed:
            while not self.stopped and self.unanswered:
                waiting = len(self.ready) + self.building
                share = max(1, min(self.batch, -(-waiting // self.links)))
                if len(self.ready) >= share:
                    return [self.ready.popleft() for _ in range(share)]
                self.changed.wait()  # for builds, or for what another board gives back
            return []

    def give_back(self, indices: Sequence[int], why: str) -> None:
        """By a board that gives up."""
        with self.changed:
            self.ready.extendleft(reversed(indices))
            self.links = max(1, self.links - 1)
            self.answers.put(why)
            self.changed.notify_all()

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify_all()


class Boards:
    """Kernel plans on equal boards; a Device[KernelPlan]. objects: what was built, until it is closed."""

    def __init__(
        self,
        links: Sequence[Link],
        fingerprint: str,
        *,
        unit: Unit = Unit.SECONDS,
        timing: Timing | None = None,
        limits: Limits | None = None,
        constants: FormConstants | None = None,
        batch: int = 8,
        patience_s: float = 60.0,
        workers: int = 2,
    ) -> None:
        """constants: of a model's forms; loop forms cannot be measured without theirs. batch: candidates of
        one program. patience_s: how long a lost board is tried again. workers: processes that build."""
        self._links = list(links)
        self._fingerprint = fingerprint
        self._unit = unit
        self._timing = timing or Timing()
        self._limits = limits or Limits()
        self._constants = constants or {}
        self._batch = batch
        self._patience_s = patience_s
        self._folder = tempfile.TemporaryDirectory(prefix="bitloom-boards-")
        self.objects = Cache(Path(self._folder.name) / "objects")
        self._builders = Builders(workers, self.objects)
        self._linkers: dict[str, Linker] = {}
        self._lock = threading.Lock()
        self._given_up: set[Link] = set()
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()
        self._example = lru_cache(_KEPT_EXAMPLES)(self._made_example)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def unit(self) -> Unit:
        return self._unit

    @property
    def links(self) -> Sequence[Link]:
        return self._links

    @property
    def parallel(self) -> int:
        return len(self._links) * self._batch

    def measure(self, candidates: Sequence[KernelPlan]) -> Iterator[tuple[int, Measurement]]:
        """See `Device`. Equal plans are built once. A board that the links do not reach for `patience_s`
        takes no further part."""
        self._join()
        work = _Round(candidates, len(self._links), self._batch)
        work.unanswered.update(range(len(candidates)))
        work.building = len(candidates)
        builds: dict[str, Future[bytes]] = {}
        for index, plan in enumerate(candidates):
            if plan.symbol not in builds:
                builds[plan.symbol] = self._builders.submit(plan)
            builds[plan.symbol].add_done_callback(lambda done, index=index: work.built(index, done))
        self._threads = [
            threading.Thread(target=self._serve, args=(link, work), daemon=True) for link in self._links
        ]
        for thread in self._threads:
            thread.start()
        reasons: list[str] = []
        try:
            for _ in candidates:
                while not isinstance(answer := work.answers.get(), tuple):
                    if isinstance(answer, Exception):
                        raise answer
                    reasons.append(answer)
                    if len(reasons) == len(self._links):
                        raise BitloomError(
                            f"no board is left: {'; '.join(reasons)}",
                            "what was measured is kept: run the same command when the board is back",
                        )
                yield answer
        finally:
            work.stop()

    def close(self) -> None:
        self._closed.set()
        self._builders.close()
        for link in self._links:
            link.close()
        self._join()
        self._folder.cleanup()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _made_example(self, form: Form) -> Example:
        return example_of(form, self._constants.get(form))

    def _linker(self, plan: KernelPlan) -> Linker:
        with self._lock:
            triple = static_triple(cpu_of(plan))
            if triple not in self._linkers:
                self._linkers[triple] = Linker(triple, Path(self._folder.name))
            return self._linkers[triple]

    def _program(self, work: _Round, indices: Sequence[int]) -> bytes:
        built: list[Built] = []
        for index in indices:
            plan = work.plans[index]
            with self._lock:
                example = self._example(plan.form)
            built.append(Built(plan, work.objects[index], store(plan, example)))
        return self._linker(work.plans[indices[0]]).link(built, self._limits, self._timing)

    def _serve(self, link: Link, work: _Round) -> None:
        try:
            self._serve_all(link, work)
        except Exception as error:  # a thread that ended in silence would be waited for without end
            work.answers.put(error)

    def _serve_all(self, link: Link, work: _Round) -> None:
        """Measures candidates on one board until there are no more, or the board is given up."""
        patience_s = 0.0 if link in self._given_up else self._patience_s
        until: float | None = None  # when patience ends, while the board is lost
        todo = work.take()
        while todo and not work.stopped:
            group = todo[:1] if until is not None and work.losses.get(todo[0]) else todo
            try:
                self._measure_group(link, work, group)
                until = None
                self._given_up.discard(link)
                patience_s = self._patience_s
            except (LinkLostError, RefusedError) as error:
                now = time.monotonic()
                until = until or now + patience_s
                todo = [i for i in todo if i in work.unanswered]
                if isinstance(error, RefusedError) or now >= until or self._closed.is_set():
                    self._given_up.add(link)
                    work.give_back(todo, f"{link.name}: {error}")
                    return
                self._closed.wait(min(2.0, patience_s / 10))
            todo = [i for i in todo if i in work.unanswered] or work.take()

    def _measure_group(self, link: Link, work: _Round, group: Sequence[int]) -> None:
        """Errors: LinkLostError, RefusedError; what was measured before is answered."""
        try:
            program = self._program(work, group)
        except (BitloomError, ValueError) as error:  # of the linker, or of one whose operands are unknown
            self._alone(link, work, group, Measurement(Outcome.NOT_BUILT, said=str(error)))
            return
        answers = Answers(self._limits)
        silence_s = self._limits.seconds + self._timing.pause_seconds
        try:
            for line in link.run(program, silence_s):
                answer = answers.read(line)
                if answer is not None:
                    work.answer(group[answer[0]], answer[1])
            raise ProgramError("; ".join(answers.heard[-3:]) or "it ended without a word")
        except ProgramError as error:
            left = [i for i in group if i in work.unanswered]
            if left:
                outcome = Outcome.OUT_OF_MEMORY if "no memory" in str(error) else Outcome.LOST
                self._alone(link, work, left, Measurement(outcome, said=str(error)))
        except LinkLostError as error:
            self._blame(work, group, answers, error)
            raise

    def _alone(self, link: Link, work: _Round, group: Sequence[int], verdict: Measurement) -> None:
        """What is wrong with some of a group is said of the one that is alone in its program."""
        if len(group) == 1:
            work.answer(group[0], verdict)
            return
        for index in group:
            self._measure_group(link, work, [index])

    def _blame(self, work: _Round, group: Sequence[int], answers: Answers, error: LinkLostError) -> None:
        """The candidate that ran when a board was lost may be why: not more often than _MOST_LOSSES."""
        left = [i for i in group if i in work.unanswered]
        if not left or "ready" not in answers.heard:
            return
        work.losses[left[0]] = work.losses.get(left[0], 0) + 1
        if work.losses[left[0]] >= _MOST_LOSSES:
            words = f"the board was lost {_MOST_LOSSES} times while it ran: {error}"
            work.answer(left[0], Measurement(Outcome.LOST, said=words))
