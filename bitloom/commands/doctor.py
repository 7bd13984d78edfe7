"""`bitloom doctor`: what this computer has of what bitloom needs, and how to get the rest."""

from __future__ import annotations

from typing import Annotated

import typer

INCOMPLETE = 1


def doctor_command(
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check the installation.

    Packages, kernel compiler, linker, processor, cache and optional tools. Ends with exit
    code 1 where something needed is missing.
    """
    import dataclasses

    from bitloom.commands.text import print_json, table
    from bitloom.diagnosis import diagnose

    findings = diagnose()
    if json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        print(table(["", "what", "found"], [[f.verdict, f.what, f.found] for f in findings]))
        for finding in findings:
            if finding.remedy is not None:
                print(f"\n{finding.what}: {finding.remedy}")
    if any(f.needed and not f.ok for f in findings):
        raise typer.Exit(INCOMPLETE)
