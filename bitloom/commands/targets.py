"""`bitloom targets`: what libraries can be made for."""

from __future__ import annotations

from typing import Annotated

import typer


def targets_command(
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """List what libraries can be made for."""
    from bitloom.commands.text import print_json, table
    from targets import all_targets

    known = [(t.name, t.description, t.runs_here) for t in all_targets().values()]
    if json:
        print_json([{"name": n, "description": d, "runs_here": r} for n, d, r in known])
        return
    print(table(["target", "runs here", "machine"], [[n, "yes" if r else "no", d] for n, d, r in known]))
