"""The `bitloom` command. Results go to standard output, progress and errors to standard error.

Exit codes: 0 done; 1 `verify` found a difference or `doctor` something missing; 2 a mistake in what was
given, told in one message; 130 interrupted. Commands import what they need when they run: `bitloom --help`
and mistakes are answered before anything heavy is loaded.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bitloom.commands.board import app as board_app
from bitloom.commands.compile import compile_command
from bitloom.commands.doctor import doctor_command
from bitloom.commands.explore import explore_command
from bitloom.commands.inspect import inspect_command
from bitloom.commands.records import records_app
from bitloom.commands.run import run_command
from bitloom.commands.simulate import simulate_command
from bitloom.commands.targets import targets_command
from bitloom.commands.tune import tune_command
from bitloom.commands.verify import verify_command

MISTAKE, INTERRUPTED = 2, 130


class _Commands(TyperGroup):
    """Turns what a user can mend into one message, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        from compiler.ir.diagnostics import BitloomError

        try:
            return super().invoke(ctx)
        except BitloomError as error:
            raise _exit(error.message, error.hint) from error
        except BrokenPipeError:
            raise  # the reader of our output left, as `head` does
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise _exit(f"{where}{error.strerror or error}", None) from error
        except KeyboardInterrupt:
            print("interrupted; nothing was written", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


def _exit(message: str, hint: str | None) -> typer.Exit:
    print(f"error: {message}", file=sys.stderr)
    if hint is not None:
        print(f"hint: {hint}", file=sys.stderr)
    return typer.Exit(MISTAKE)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich would double the time of --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("compile")(compile_command)
app.command("tune")(tune_command)
app.add_typer(records_app, name="records")
app.command("run")(run_command)
app.command("verify")(verify_command)
app.command("simulate")(simulate_command)
app.command("explore")(explore_command)
app.command("inspect")(inspect_command)
app.command("targets")(targets_command)
app.command("doctor")(doctor_command)
app.add_typer(board_app, name="board")


def _show_version(wanted: bool) -> None:
    if wanted:
        import bitloom

        print(f"bitloom {bitloom.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From an ONNX model to an integer-only C library for one device, bit-exact on every target."""
    del version


def main() -> None:
    """The entry point of the `bitloom` command."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
