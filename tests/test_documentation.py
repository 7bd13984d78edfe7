"""What the documentation says is executed: marked blocks run, options exist, generated pages are fresh."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from bitloom.cli import app
from compiler.ir.parser import parse_graph
from compiler.ir.printer import graph_text
from compiler.ir.verifier import verify
from compiler.ops import OPS
from docs import generate, isa

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("examples/*/*.md")),
]
_FENCE = re.compile(r"^```(?P<mark>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. mark: what stands behind the fence."""

    page: Path
    mark: str
    text: str


def blocks(paths: list[Path]) -> Iterator[Block]:
    for path in paths:
        for match in _FENCE.finditer(path.read_text()):
            yield Block(path, match["mark"].strip(), match["text"])


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


EXECUTED = {
    path: list(found)
    for path, found in groupby(
        (b for b in blocks(PAGES) if b.mark in ("sh tested", "python tested")), lambda b: b.page
    )
}


@pytest.mark.parametrize("path", EXECUTED, ids=name_of)
def test_marked_blocks_run(path: Path, tmp_path: Path) -> None:
    """In the order of the page, in one folder that has examples/; Python blocks share their names."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    commands = tmp_path / "bin"
    commands.mkdir()
    for command, arguments in (("bitloom", "-m bitloom.cli"), ("python", "")):
        script = commands / command
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        script.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    python = ""
    for block in EXECUTED[path]:
        if block.mark == "sh tested":
            command = ["sh", "-e", "-c", block.text]
        else:
            python += block.text
            command = [sys.executable, "-c", python]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(
    "block", [b for b in blocks(PAGES) if b.mark == "ir tested"], ids=lambda b: name_of(b.page)
)
def test_ir_examples_parse(block: Block) -> None:
    graph = parse_graph(block.text, OPS)
    verify(graph)
    assert graph_text(graph) == block.text


@pytest.mark.parametrize("made", [generate, isa], ids=["operators", "npu-isa"])
def test_generated_pages_are_up_to_date(made: ModuleType) -> None:
    assert made.PAGE.read_text() == made.page(), "run: python -m docs.generate"


def _options() -> dict[str, set[str]]:
    """Every command's options."""
    group = typer.main.get_command(app)
    commands: dict[str, typer.core.TyperCommand] = group.commands  # pyright: ignore[reportAttributeAccessIssue]
    return {name: _options_of(command) for name, command in commands.items()}


def _options_of(command: Any) -> set[str]:
    """Of a command, or of all commands of a group."""
    inner = [_options_of(c) for c in getattr(command, "commands", {}).values()]
    own = (o for p in command.params for o in (*p.opts, *p.secondary_opts))
    return {"--help", "-h", *own}.union(*inner)


_CALL = re.compile(r"bitloom (?!import)([a-z]+)((?:[^\S\n]+[^\s`#;]+)*)")
_OPTION = re.compile(r"(?:^|(?<=\s))--?[a-z][a-z-]*")


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_commands_and_options_exist(path: Path) -> None:
    """Every `bitloom COMMAND …` in a block or between backticks, and every option that stands alone there."""
    known = _options()
    text = path.read_text()
    spans = re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))
    for match in _CALL.finditer("\n".join([*(b.text for b in blocks([path])), *spans])):
        command, arguments = match[1], match[2]
        assert command in known, f"{name_of(path)}: bitloom {command}"
        for option in _OPTION.findall(arguments):
            assert option in known[command], f"{name_of(path)}: bitloom {command} {option}"
    every = set().union(*known.values())
    for span in spans:
        if span.startswith("--"):
            assert _OPTION.findall(span)[0] in every, f"{name_of(path)}: {span}"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), f"{name_of(path)}: {target}"
