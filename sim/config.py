"""What one NPU is made of: read from a TOML file in which every key must stand.

Nothing about hardware has a default. Presets lie in `sim/configs`; their names can stand for their paths.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_type_hints

PRESETS = Path(__file__).parent / "configs"
# Fields of instructions end here (see sim/isa.py).
MAX_LOCAL_BYTES = 1 << 20
MAX_ACCUMULATOR_WORDS = 1 << 18
MAX_PARAMETER_BYTES = 1 << 16
MAX_TABLE_BYTES = 1 << 12
MAX_BANKS = 16
MAX_OUTSTANDING_INSTRUCTIONS = 16
MAX_CORES = 11  # as many semaphores join cores, each of them one to another (see sim/semaphores.py)
# What bias, multiplier and shift of one channel take in the parameter memory.
PARAMETER_BYTES = 9


class ConfigError(ValueError):
    """A configuration that no NPU can have; the message names the key and the way out."""


class _Section:
    """Base of the tables of a configuration; `title` is the table's name in the file."""

    __slots__ = ()
    title: ClassVar[str]

    def _at_least(self, least: int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"{self.title}{name} is {value}, it must be at least {least}")

    def _power_of_two(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ConfigError(f"{self.title}{name} is {value}, it must be a power of two")

    def _at_most(self, most: int, name: str) -> None:
        if (value := getattr(self, name)) > most:
            raise ConfigError(f"{self.title}{name} is {value}, instructions can address {most}")

    def _divides(self, banks: str, total: str) -> None:
        b, t = getattr(self, banks), getattr(self, total)
        if not 1 <= b <= MAX_BANKS:
            raise ConfigError(f"{self.title}{banks} is {b}, it must lie in 1..{MAX_BANKS}")
        if t % b:
            raise ConfigError(f"{self.title}{total} is {t}, not a multiple of {banks} = {b}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MacArray(_Section):
    """rows x columns multipliers of 8 x 8 bits: rows along the reduction, columns along output channels.

    accumulator_port_bits: what the accumulator memory reads and writes in a cycle. depthwise_channels x
    depthwise_taps products make one step of a depthwise convolution. max_macs_per_multiplier bounds what a
    multiplier gives at low bit-widths. pipeline_cycles: from the last operand to the last accumulator.
    """

    title: ClassVar[str] = "mac."
    rows: int
    columns: int
    weight_port_bytes: int
    accumulator_port_bits: int
    depthwise_channels: int
    depthwise_taps: int
    max_macs_per_multiplier: int
    pipeline_cycles: int

    def __post_init__(self) -> None:
        self._power_of_two("rows", "columns", "max_macs_per_multiplier")
        self._at_least(2, "rows")
        self._at_least(1, "weight_port_bytes", "depthwise_channels", "depthwise_taps", "pipeline_cycles")
        if self.accumulator_port_bits < 32 * self.columns:
            raise ConfigError(
                f"mac.accumulator_port_bits is {self.accumulator_port_bits}, {self.columns} columns need "
                f"{32 * self.columns} for one row of products in a cycle"
            )

    def reduction_lanes(self, act_bits: int) -> int:
        """Elements of the reduction in one step: the operand port of `rows` bytes, reinterpreted."""
        return self.rows * 8 // act_bits

    def output_lanes(self, act_bits: int, wgt_bits: int) -> int:
        """Output channels in one step."""
        per_column = min(8 // wgt_bits, max(1, self.max_macs_per_multiplier * act_bits // 8))
        return self.columns * per_column

    def depthwise_lanes(self, act_bits: int, wgt_bits: int) -> int:
        """Channels in one step of a depthwise convolution."""
        return max(1, self.depthwise_channels * 8 // max(act_bits, wgt_bits))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratchpads(_Section):
    """Memories inside a core. A bank serves one engine at a time; banks are consecutive ranges.

    The accumulators (int32 words) have two banks, tables one.
    """

    title: ClassVar[str] = "scratchpad."
    activation_bytes: int
    activation_banks: int
    weight_bytes: int
    weight_banks: int
    accumulator_words: int
    parameter_bytes: int
    parameter_banks: int
    table_bytes: int

    def __post_init__(self) -> None:
        for memory in ("activation", "weight"):
            banks = getattr(self, f"{memory}_banks")
            if banks < 2:
                raise ConfigError(f"scratchpad.{memory}_banks is {banks}, ping-pong needs at least 2")
            self._divides(f"{memory}_banks", f"{memory}_bytes")
            self._at_most(MAX_LOCAL_BYTES, f"{memory}_bytes")
        self._divides("parameter_banks", "parameter_bytes")
        self._at_least(PARAMETER_BYTES, "parameter_bytes")
        self._at_least(256, "table_bytes")
        self._at_most(MAX_ACCUMULATOR_WORDS, "accumulator_words")
        self._at_most(MAX_PARAMETER_BYTES, "parameter_bytes")
        self._at_most(MAX_TABLE_BYTES, "table_bytes")
        if self.accumulator_words < 2 or self.accumulator_words % 2:
            raise ConfigError(
                f"scratchpad.accumulator_words is {self.accumulator_words}: two halves need an even number"
            )

    @property
    def total_bytes(self) -> int:
        accumulators = 4 * self.accumulator_words
        return (
            self.activation_bytes + self.weight_bytes + accumulators + self.parameter_bytes + self.table_bytes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorUnit(_Section):
    """lanes elements at a time; *_cycles: what such a group takes, for pooling per tap of the window,
    for softmax one each for largest code and exponentials, the rest for quotients."""

    title: ClassVar[str] = "vec."
    lanes: int
    requantize_cycles: int
    lookup_cycles: int
    elementwise_cycles: int
    pool_cycles: int
    softmax_cycles: int
    pipeline_cycles: int

    def __post_init__(self) -> None:
        self._at_least(1, *(f.name for f in dataclasses.fields(self)))
        self._at_least(3, "softmax_cycles")


@dataclass(frozen=True, slots=True, kw_only=True)
class DmaEngines(_Section):
    """What the load and store engines do beside waiting for a port.

    fill_bytes: written by FILL in a cycle. inflate_bytes: bytes that leave the decoder of compressed weights
    in a cycle. scatter_elements: elements in a cycle where neighbours do not stay neighbours.
    outstanding_instructions: that one engine may have begun and not ended; with 1, each waits for the end of
    the one before it, and then for the latency of its port.
    """

    title: ClassVar[str] = "dma."
    fill_bytes: int
    inflate_bytes: int
    scatter_elements: int
    outstanding_instructions: int

    def __post_init__(self) -> None:
        self._at_least(1, *(f.name for f in dataclasses.fields(self)))
        self._at_most(MAX_OUTSTANDING_INSTRUCTIONS, "outstanding_instructions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Port(_Section):
    """An external memory and the port to it, which all cores share.

    A transfer is made of whole bursts. A burst comes latency cycles after its request; so many requests of
    one engine may be outstanding.
    """

    title: ClassVar[str] = "memory."
    size_bytes: int
    bytes_per_cycle: float
    burst_bytes: int
    read_latency_cycles: int
    write_latency_cycles: int
    read_outstanding: int
    write_outstanding: int

    def __post_init__(self) -> None:
        self._at_least(1, "size_bytes", "read_outstanding", "write_outstanding")
        self._at_least(0, "read_latency_cycles", "write_latency_cycles")
        self._power_of_two("burst_bytes")
        if not self.bytes_per_cycle > 0:
            raise ConfigError(f"memory.bytes_per_cycle is {self.bytes_per_cycle}, it must be above 0")
        if self.burst_bytes < self.bytes_per_cycle:
            raise ConfigError(
                f"memory.burst_bytes is {self.burst_bytes}, below the {self.bytes_per_cycle} bytes of a cycle"
            )
        if self.size_bytes > 1 << 32:
            raise ConfigError(f"memory.size_bytes is {self.size_bytes}, addresses have 32 bits")

    @property
    def burst_cycles(self) -> float:
        return self.burst_bytes / self.bytes_per_cycle

    def side(self, write: bool) -> tuple[int, int]:
        """Latency in cycles, and outstanding requests of an engine."""
        if write:
            return self.write_latency_cycles, self.write_outstanding
        return self.read_latency_cycles, self.read_outstanding


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy(_Section):
    """Picojoules of an event. mac_pj: one product of 8 x 8 bits and its addition; others scale with the
    product of their widths. Meant for comparing schedules and configurations of one table, not as watts."""

    title: ClassVar[str] = "energy."
    mac_pj: float
    scratchpad_byte_pj: float
    accumulator_word_pj: float
    vec_element_pj: float
    sram_byte_pj: float
    dram_byte_pj: float
    idle_cycle_pj: float

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise ConfigError(f"energy.{field.name} is negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class NpuConfig(_Section):
    """One NPU: `cores` equal cores, each with its own command stream, that share the external ports."""

    title: ClassVar[str] = ""
    name: str
    cores: int
    clock_hz: int
    queue_depth: int
    issue_cycles: int
    mac: MacArray
    scratchpad: Scratchpads
    vec: VectorUnit
    dma: DmaEngines
    sram: Port
    dram: Port
    energy: Energy

    def __post_init__(self) -> None:
        self._at_least(1, "cores", "clock_hz", "queue_depth")
        self._at_least(0, "issue_cycles")
        if self.cores > MAX_CORES:
            raise ConfigError(
                f"cores is {self.cores}, the semaphores between cores join at most {MAX_CORES}: "
                "fewer cores with larger arrays have as many multipliers"
            )
        mac, pads = self.mac, self.scratchpad
        block = mac.rows * mac.columns
        if (bank := pads.weight_bytes // pads.weight_banks) < block:
            raise ConfigError(
                f"scratchpad.weight_bytes: a bank of {bank} bytes does not hold "
                f"the {mac.rows} x {mac.columns} weights of the array: at least {block * pads.weight_banks}"
            )
        if pads.activation_bytes // pads.activation_banks < mac.rows:
            raise ConfigError(
                f"scratchpad.activation_bytes: a bank must hold the {mac.rows} bytes that the array takes"
            )
        if pads.accumulator_words // 2 < 8 * mac.columns:
            raise ConfigError(
                f"scratchpad.accumulator_words: half of {pads.accumulator_words} does not hold one row of "
                f"the {8 * mac.columns} channels of 1-bit weights: at least {16 * mac.columns}"
            )

    @property
    def macs_per_cycle(self) -> int:
        """At 8 x 8 bits, over all cores."""
        return self.cores * self.mac.rows * self.mac.columns


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_config(name: str | Path) -> NpuConfig:
    """The configuration of a preset's name or of a TOML file.

    Errors: ConfigError for an unknown name, unreadable TOML, a missing or unknown key, a value out of range.
    """
    path = PRESETS / f"{name}.toml" if str(name) in preset_names() else Path(name)
    if not path.is_file():
        raise ConfigError(
            f"no NPU {str(name)!r}: presets are {', '.join(preset_names())}, or give a TOML file"
        )
    try:
        table = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name}: {error}") from error
    try:
        return config_from(table)
    except ConfigError as error:
        raise ConfigError(f"{path.name}: {error}") from None


def config_from(table: Mapping[str, Any]) -> NpuConfig:
    """The configuration in a parsed TOML file; ports stand in it as [sram] and [dram]."""
    return _section(NpuConfig, table, "")


_S = TypeVar("_S", bound=_Section)


def _section(cls: type[_S], table: Mapping[str, Any], where: str) -> _S:
    hints = {f.name: get_type_hints(cls)[f.name] for f in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    unknown = [key for key in table if key not in hints]
    if unknown:
        raise ConfigError(f"unknown key {where}{unknown[0]}; known are {', '.join(hints)}")
    missing = [key for key in hints if key not in table]
    if missing:
        raise ConfigError(f"key {where}{missing[0]} is missing; all of {', '.join(hints)} must stand")
    try:
        return cls(**{key: _value(hint, table[key], f"{where}{key}") for key, hint in hints.items()})
    except ConfigError as error:
        # A port does not know which of the two it is.
        raise ConfigError(str(error).replace("memory.", where) if cls is Port else str(error)) from None


def _value(hint: Any, value: Any, where: str) -> Any:
    if issubclass(hint, _Section):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table, not {value!r}")
        return _section(hint, value, f"{where}.")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where} must be of type {hint.__name__}, not {value!r}")
    return value
