"""Tunes the demo's network for the NPU's presets: `python -m examples.letters.tune`.

Writes the records that the package carries. They are those of the sources that write and time streams: after
a change of these they are made anew, which takes some minutes. Cycles are simulated, so that every computer
finds the same.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import closing
from pathlib import Path

from bitloom.tuning import device_of, versions, work_of
from schedules.tuning.records import Record, merged, pruned, read
from schedules.tuning.tuned import is_current
from schedules.tuning.tuner import Budget, Tuner
from sim.config import preset_names
from targets.tunable import Place

HERE = Path(__file__).parent
SHIPPED = Path(__file__).parents[2] / "schedules" / "tuning" / "shipped" / "npu.jsonl"
TRIALS = 200


def tuned(preset: str, trials: int) -> list[Record]:
    """The verdict on the demo's network."""
    work = work_of(HERE / "letters.onnx", f"npu/{preset}", HERE / "calibration.npz")
    with tempfile.TemporaryDirectory(prefix="bitloom-") as name, closing(device_of(work, Place())) as device:
        subjects = work.target.subjects(work.graph)
        tuner = Tuner(
            subjects, device, Path(name), budget=Budget(trials=trials), versions=versions(), warn=_warn
        )
        for progress in tuner.run():
            print(f"{preset}: {progress.trials} trials, {progress.gain:.1%} fewer cycles", file=sys.stderr)
        for _ in tuner.conclude():
            pass
        return [r for r in pruned(read(tuner.path, _warn), is_current, 1) if r.verdict is not None]


def _warn(text: str) -> None:
    print(text, file=sys.stderr)


def main() -> None:
    records = merged(tuned(preset, TRIALS) for preset in preset_names())
    SHIPPED.parent.mkdir(exist_ok=True)
    SHIPPED.write_text("".join(f"{record.line()}\n" for record in records))


if __name__ == "__main__":
    main()
