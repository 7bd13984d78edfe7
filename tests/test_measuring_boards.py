"""What boards have in common: whatever a way to them does, a run ends, and says why."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from compiler.ir.diagnostics import BitloomError
from compiler.loops.form import Role
from schedules.cpu import plan_kernel
from schedules.machines import X86_64, runs_here
from schedules.tuning.measure import Outcome
from targets.measuring.board_session import corrected, own_facts, read_facts
from targets.measuring.boards import Boards
from targets.measuring.facts import celsius_of, cpu_of, fingerprint_of, throttling_of, warnings_of
from targets.measuring.links import LinkLostError
from tests import loop_families as f
from tests.faulty_kernels import faulty

needs_host = pytest.mark.skipif(not runs_here(X86_64), reason="links programs of x86-64")


class Script:
    """A link that says what it is told to, then fails; the last of several ways to fail stays."""

    name = "script"

    def __init__(self, lines: list[str], *errors: Exception | None) -> None:
        self.lines, self.errors, self.runs = lines, list(errors), 0

    def run(self, program: bytes, silence_s: float) -> Iterator[str]:
        self.runs += 1
        yield from self.lines
        error = self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]
        if error is not None:
            raise error

    def close(self) -> None:
        pass


@needs_host
def test_faults_of_this_computer_end_the_run() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    device = Boards([Script([], full)], "script")
    with pytest.raises(OSError, match="No space left"):
        list(device.measure([faulty(X86_64, "right")]))
    device.close()


@needs_host
def test_a_board_that_is_never_reached_blames_no_candidate() -> None:
    link = Script([], LinkLostError("no route"))
    device = Boards([link], "script", patience_s=0.3)
    with pytest.raises(BitloomError, match="no board is left: script: no route"):
        list(device.measure([faulty(X86_64, "right", i) for i in range(3)]))
    device.close()
    assert link.runs > 1


@needs_host
def test_what_one_board_loses_another_measures() -> None:
    dead = Script([], LinkLostError("no route"))
    alive = Script(["ready", "0 measured 5 6 7"], None)
    device = Boards([dead, alive], "script", patience_s=0.1, batch=1)
    found = dict(device.measure([faulty(X86_64, "right", i) for i in range(6)]))
    device.close()
    assert len(found) == 6
    assert {m.outcome for m in found.values()} == {Outcome.MEASURED}
    assert found[0].cost == pytest.approx(6e-9)
    assert found[0].spread == pytest.approx(0.5e-9)


@needs_host
def test_one_candidate_without_operands_does_not_stop_the_others() -> None:
    form = f.requantize((4, 8))
    assert any(b.role is Role.CONSTANT for b in form.operands)
    plans = [faulty(X86_64, "right"), plan_kernel(form, X86_64)]
    device = Boards([Script(["ready", "0 measured 5"], None)], "script", batch=2)
    found = dict(device.measure(plans))
    device.close()
    assert found[0].outcome is Outcome.MEASURED
    assert found[1].outcome is Outcome.NOT_BUILT
    assert "form requantize has constants (parameters) that only a model knows" in found[1].said


_RASPBERRY = """\
system=Linux
machine=aarch64
model=Raspberry Pi 4 Model B Rev 1.4
cpu=
part=0x41/0xd08
clock_khz=1800000
governor=ondemand
millidegrees=81234
throttled=0x50005
cooling=0
"""


def test_facts_become_words() -> None:
    facts = read_facts(_RASPBERRY)
    assert cpu_of(facts) == "cortex-a72"
    assert fingerprint_of(facts) == "Raspberry Pi 4 Model B Rev 1.4, cortex-a72, 1800 MHz"
    assert celsius_of(facts) == pytest.approx(81.234)
    assert throttling_of(facts) == "too low a voltage, throttling"
    assert [w.split(":")[0] for w in warnings_of(facts)] == [
        'the CPU governor is "ondemand"',
        "it is slowed down by too low a voltage, throttling",
    ]
    assert throttling_of({**facts, "throttled": "0x50000"}) is None  # it was, since the start


def test_an_emulated_board_does_not_pass_for_its_host() -> None:
    host = read_facts(
        "system=Linux\nmachine=x86_64\nmodel=PC\ncpu=Xeon\nfeatures=avx2\nclock_khz=3000000\ncores=4"
    )
    assert corrected(host, "x86_64") == host
    facts = corrected(host, "aarch64")
    assert fingerprint_of(facts) == "emulated on x86_64, aarch64"
    assert facts["cores"] == "4" and "features" not in facts


def test_this_computer_tells_its_facts() -> None:
    facts = own_facts()
    assert facts["system"] == "Linux"
    assert int(facts["memory_kb"]) > 0
    assert fingerprint_of(facts)
