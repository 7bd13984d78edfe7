"""What is explored: knobs of a configuration, and the ranges that a user writes for them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

from bitloom.options import WEIGHTS
from compiler.ir.diagnostics import BitloomError
from sim.config import MAX_PARAMETER_BYTES, MAX_TABLE_BYTES, ConfigError, NpuConfig, config_from, load_config

Number = int | float
Point = Mapping[str, Number | str]
_Table = dict[str, Any]
WEIGHTS_KEY = "weights"
_PLAIN = {"": 1}
_BINARY = {"": 1, "k": 1 << 10, "M": 1 << 20}
_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([kMG]?)")
_EXAMPLE = 'for example --npu "rows=8..32,cols=8|16,sram=24k..96k/24k"; a..b doubles, a..b/c adds c'


@dataclass(frozen=True, slots=True)
class Knob:
    """One number of a configuration. turn: changes the table of the base's TOML file (sections by name) in
    place; what it says is checked when all knobs are turned. suffixes: of its values; fractions: whether they
    may have any."""

    name: str
    meaning: str
    turn: Callable[[_Table, Number], None]
    suffixes: Mapping[str, int]
    fractions: bool = False


def _sets(section: str, key: str) -> Callable[[_Table, Number], None]:
    return lambda table, value: (table[section] if section else table).update({key: value})


def _columns(table: _Table, value: Number) -> None:
    """With what serves the columns: presets scale these alike."""
    before = table["mac"]["columns"]
    table["mac"]["columns"] = value
    served = (("mac", "weight_port_bytes"), ("mac", "accumulator_port_bits"), ("mac", "depthwise_channels"))
    for section, key in (*served, ("vec", "lanes")):
        table[section][key] = max(1, table[section][key] * int(value) // before)


def _scratchpads(table: _Table, value: Number) -> None:
    """All memories of a core in the proportions of the base, in whole banks of 16 bytes or words; tables and
    parameters up to what instructions can address, as layers need no more of them."""
    pads = table["scratchpad"]
    units = {
        "activation_bytes": 16 * pads["activation_banks"],
        "weight_bytes": 16 * pads["weight_banks"],
        "accumulator_words": 32,
        "parameter_bytes": 16 * pads["parameter_banks"],
        "table_bytes": 256,
    }
    total = sum(pads[name] * (4 if name.endswith("words") else 1) for name in units)
    for name, unit in units.items():
        if value != total:
            most = {"parameter_bytes": MAX_PARAMETER_BYTES, "table_bytes": MAX_TABLE_BYTES}.get(name)
            scaled = max(unit, pads[name] * int(value) // total // unit * unit)
            pads[name] = scaled if most is None else min(most, scaled)


# In the order in which they are turned: a later one has the last word.
KNOBS = {
    k.name: k
    for k in (
        Knob("rows", "rows of the array", _sets("mac", "rows"), _PLAIN),
        Knob("cols", "columns of the array, and the ports and lanes that serve them", _columns, _PLAIN),
        Knob("sram", "bytes of all scratchpads of a core", _scratchpads, _BINARY),
        Knob("cores", "cores", _sets("", "cores"), _PLAIN),
        Knob("clock", "Hz", _sets("", "clock_hz"), _DECIMAL),
        Knob("weight_port", "bytes a cycle into the array", _sets("mac", "weight_port_bytes"), _BINARY),
        Knob("acc_port", "bits a cycle of accumulators", _sets("mac", "accumulator_port_bits"), _BINARY),
        Knob("lanes", "elements a cycle of the vector unit", _sets("vec", "lanes"), _PLAIN),
        Knob("sram_port", "bytes a cycle of SRAM", _sets("sram", "bytes_per_cycle"), _PLAIN, True),
        Knob("dram_port", "bytes a cycle of DRAM", _sets("dram", "bytes_per_cycle"), _PLAIN, True),
    )
}


@dataclass(frozen=True, slots=True)
class Space:
    """Values of each knob (and of "weights"), in the order that the user gave."""

    values: Mapping[str, tuple[Number | str, ...]]

    @property
    def size(self) -> int:
        found = 1
        for values in self.values.values():
            found *= len(values)
        return found

    def points(self) -> Iterator[Point]:
        """Every combination; the last knob changes fastest."""
        for combination in itertools.product(*self.values.values()):
            yield dict(zip(self.values, combination, strict=True))


def parse_space(text: str) -> Space:
    """`rows=8..32,cols=8|16,sram=24k..96k/24k,weights=int8|int4`.

    Errors: BitloomError for unknown or repeated keys, and for ranges that are none.
    """
    values: dict[str, tuple[Number | str, ...]] = {}
    for part in text.split(","):
        key, equals, of = (t.strip() for t in part.partition("="))
        if not equals or not key or not of:
            raise BitloomError(f'--npu: "{part.strip()}" is not KEY=VALUES', _EXAMPLE)
        if key in values:
            raise BitloomError(f'--npu: "{key}" is given twice', _EXAMPLE)
        items: list[Number | str] = []
        for item in of.split("|"):
            items += _weights(item) if key == WEIGHTS_KEY else _numbers(_knob(key), item.strip())
        if len(set(items)) < len(items):
            raise BitloomError(f"--npu: {part.strip()} names a value twice", _EXAMPLE)
        values[key] = tuple(items)
    return Space(values)


def configured(base: NpuConfig, point: Point) -> NpuConfig:
    """The base with a point's knobs turned. Errors: ConfigError for what no NPU can be."""
    table = asdict(base)
    for name, knob in KNOBS.items():
        value = point.get(name)
        if isinstance(value, int | float):
            knob.turn(table, value)
    return config_from(table)


def base_config(name: str) -> NpuConfig:
    """A preset, or a TOML file. Errors: BitloomError."""
    try:
        return load_config(name)
    except ConfigError as error:
        raise BitloomError(f"--base {name}: {error}") from error


def _knob(key: str) -> Knob:
    if key not in KNOBS:
        known = [*KNOBS, WEIGHTS_KEY]
        alike = get_close_matches(key, known, 1)
        hint = (
            f"did you mean {alike[0]}? known: {', '.join(known)}" if alike else f"known: {', '.join(known)}"
        )
        raise BitloomError(f'--npu: unknown key "{key}"', hint)
    return KNOBS[key]


def _weights(item: str) -> list[Number | str]:
    if item.strip() not in WEIGHTS:
        raise BitloomError(f'--npu: weights: unknown type "{item.strip()}"', f"known: {', '.join(WEIGHTS)}")
    return [item.strip()]


def _numbers(knob: Knob, item: str) -> list[Number | str]:
    """`a`, `a..b` or `a..b/c`."""
    range_, slash, step = item.partition("/")
    low, dots, high = range_.partition("..")
    if slash and not dots:
        raise BitloomError(f"--npu: {knob.name}={item}: a step needs a range", _EXAMPLE)
    first = _number(knob, low)
    if not dots:
        return [first]
    last = _number(knob, high)
    if last < first:
        raise BitloomError(f"--npu: {knob.name}={item}: the range runs downwards", _EXAMPLE)
    by = _number(knob, step) if slash else None
    found: list[Number | str] = []
    value = first
    while value < last:
        found.append(value)
        value = 2 * value if by is None else value + by
    if value != last:
        how = "doubling" if by is None else f"steps of {step.strip()}"
        listed = "|".join(str(v) for v in [*found, last])
        raise BitloomError(
            f"--npu: {knob.name}={item}: {how} from {low.strip()} does not meet {high.strip()}",
            f"give a step ({range_}/c) or a list ({knob.name}={listed})",
        )
    return [*found, last]


def _number(knob: Knob, text: str) -> Number:
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match[2] not in knob.suffixes:
        allowed = ", ".join(s for s in knob.suffixes if s)
        raise BitloomError(
            f'--npu: {knob.name}: "{text.strip()}" is not a number'
            + (f" (suffixes: {allowed})" if allowed else ""),
            _EXAMPLE,
        )
    value = float(match[1]) * knob.suffixes[match[2]]
    if value <= 0 or (value != int(value) and not knob.fractions):
        wanted = "above 0" if knob.fractions else "a whole number above 0"
        raise BitloomError(f'--npu: {knob.name}: "{text.strip()}" must be {wanted}', _EXAMPLE)
    return value if knob.fractions else int(value)
