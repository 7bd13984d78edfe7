"""A process that builds kernels: `python -m compiler.lowering.worker FOLDER` pickled plans in, objects out.

Building in processes of their own uses all cores, and survives LLVM, which ends its whole process where a
machine lacks an instruction that a kernel wants.
"""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import cast

from compiler.lowering.kernel import KernelPlan


def main() -> None:
    """Reads plans from standard input, one pickle after the other; for each writes FOLDER/<symbol>.o and
    answers with its symbol on a line of its own."""
    folder = Path(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever TVM prints belongs to the errors
    while True:
        try:
            plan = cast(KernelPlan, pickle.load(sys.stdin.buffer))
        except EOFError:
            return
        partial = folder / f"{plan.symbol}.partial"
        partial.write_bytes(plan.build())
        partial.rename(folder / f"{plan.symbol}.o")
        print(plan.symbol, file=answers, flush=True)


if __name__ == "__main__":
    main()
