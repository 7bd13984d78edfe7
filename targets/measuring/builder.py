"""A process that builds candidates: `python -m targets.measuring.builder FOLDER`. See `child`.

Plans in; for each FOLDER/<symbol>.o and None, or the compiler's words. TVM stays imported from one plan to
the next, also where a plan fails; LLVM may end the process.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import cast

from compiler.lowering.kernel import KernelPlan
from targets.measuring.child import own_answers, receive, send


def main() -> None:
    """Answers every plan from standard input until that ends."""
    folder, answers = Path(sys.argv[1]), own_answers()
    while True:
        try:
            plan = cast(KernelPlan, receive(sys.stdin.buffer))
        except EOFError:
            return
        send(answers, _built(plan, folder))


def _built(plan: KernelPlan, folder: Path) -> str | None:
    try:
        contents = plan.build()
    except Exception as error:  # whatever a template raises is said of this candidate alone
        return "".join(traceback.format_exception_only(error)).strip()
    (folder / f"{plan.symbol}.o").write_bytes(contents)
    return None


if __name__ == "__main__":
    main()
