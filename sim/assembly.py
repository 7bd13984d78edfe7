"""Text of command streams, and back.

One instruction a line: `gemm act=0 wgt=64 acc=0 rows=1 columns=8 outputs=16 accumulate wait=1 post=2,3`.
Flags stand without a value; numbers are decimal or 0x…, members of enumerations go by name; `#` begins a
comment; `.core 1` begins the stream of another core.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from sim.fields import Field
from sim.isa import BY_MNEMONIC, Instruction, InstructionError, fields_of
from sim.stream import Program, Stream

_TOKENS = {"wait": "waits", "post": "posts"}


class AssemblyError(ValueError):
    """The message names the line."""


def text_of(instruction: Instruction) -> str:
    """One line without its end."""
    words = [instruction.mnemonic]
    for field in fields_of(type(instruction)):
        value = getattr(instruction, field.name)
        if field.kind is bool:
            words += [field.name] * value
        else:
            words.append(f"{field.name}={value.name.lower() if isinstance(value, IntEnum) else value}")
    for word, attribute in _TOKENS.items():
        if tokens := getattr(instruction, attribute):
            words.append(f"{word}={','.join(map(str, tokens))}")
    return " ".join(words)


def disassemble(program: Program) -> str:
    """Errors: StreamError for bits that are no instruction."""
    lines: list[str] = []
    for core, stream in enumerate(program.streams):
        lines += [f".core {core}", *(text_of(i) for i in stream.decode(core))]
    return "".join(f"{line}\n" for line in lines)


def assemble(text: str) -> Program:
    """Errors: AssemblyError with line, reason and what is known."""
    cores: list[list[Instruction]] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            if words[0] == ".core":
                if words[1:] != [str(len(cores))]:
                    raise InstructionError(f"cores stand in their order: .core {len(cores)} comes next")
                cores.append([])
                continue
            if not cores:
                cores.append([])
            cores[-1].append(_instruction(words))
        except InstructionError as error:
            raise AssemblyError(f"line {number}: {error}") from None
    try:
        return Program(tuple(Stream.encode(c) for c in cores))
    except ValueError as error:
        raise AssemblyError(str(error)) from None


def _instruction(words: list[str]) -> Instruction:
    cls = BY_MNEMONIC.get(words[0])
    if cls is None:
        raise InstructionError(f"unknown instruction {words[0]}; known are {', '.join(BY_MNEMONIC)}")
    fields = {f.name: f for f in fields_of(cls)}
    values: dict[str, Any] = {}
    for word in words[1:]:
        name, equals, number = word.partition("=")
        key = _TOKENS.get(name, name)
        if key in values:
            raise InstructionError(f"{cls.mnemonic}: {name} stands twice")
        if name in _TOKENS:
            values[key] = tuple(_number(cls, name, t) for t in number.split(","))
        elif name not in fields:
            raise InstructionError(f"{cls.mnemonic}: unknown field {name}; known are {', '.join(fields)}")
        elif fields[name].kind is bool:
            if equals:
                raise InstructionError(f"{cls.mnemonic}: {name} is a flag and takes no value")
            values[key] = True
        else:
            values[key] = _value(cls, fields[name], number)
    missing = [n for n, f in fields.items() if f.kind is not bool and n not in values]
    if missing:
        raise InstructionError(f"{cls.mnemonic}: {missing[0]} is missing")
    return cls(**values)


def _value(cls: type[Instruction], field: Field, text: str) -> int:
    if not issubclass(field.kind, IntEnum):
        return _number(cls, field.name, text)
    members = {m.name.lower(): m for m in field.kind}
    if text not in members:
        raise InstructionError(
            f"{cls.mnemonic}: {field.name} is {text!r}, it must be one of {', '.join(members)}"
        )
    return members[text]


def _number(cls: type[Instruction], name: str, text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise InstructionError(f"{cls.mnemonic}: {name} is {text!r}, not a number") from None
