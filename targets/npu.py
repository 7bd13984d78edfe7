"""NPUs: the presets of the simulator, and configurations from files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.ir.diagnostics import BitloomError
from sim.config import ConfigError, NpuConfig, load_config, preset_names

if TYPE_CHECKING:
    from compiler.driver import Progress, Target
    from compiler.ir.graph import Graph
    from compiler.lowering.cache import Cache
    from schedules.npu_choices import Choices
    from schedules.tuning.measure import Device
    from schedules.tuning.npu_tuned import TunedNetworks
    from targets.streams.lowering import NpuProgram
    from targets.tunable import NamedSubject, Place

PREFIX = "npu/"


@dataclass(frozen=True, slots=True)
class NpuTarget:
    """Command streams for one NPU. tuned: records of networks on it; None: the compiler chooses alone."""

    name: str
    config: NpuConfig
    tuned: TunedNetworks | None = None

    @property
    def description(self) -> str:
        """`1 core of 16x16 MACs at 500 MHz, simulated`."""
        c = self.config
        cores = "1 core" if c.cores == 1 else f"{c.cores} cores"
        return f"{cores} of {c.mac.rows}x{c.mac.columns} MACs at {c.clock_hz / 1e6:g} MHz, simulated"

    @property
    def runs_here(self) -> bool:
        """In the simulator, by `bitloom simulate`; not as a library."""
        return False

    @property
    def digest(self) -> str:
        records = "" if self.tuned is None else f" {self.tuned.digest}"
        return f"{self.name} {self.config!r}{records}"

    def with_variants(self, others: Sequence[Target]) -> NpuTarget:
        """Errors: BitloomError for any: streams are for one machine."""
        if others:
            raise BitloomError(f'target "{self.name}" has no variants', "leave out --variants")
        return self

    def cycles(self, graph: Graph) -> Mapping[str, float]:
        """Of each layer, as `compiler.driver.CountsCycles` says."""
        from compiler.driver import no_progress
        from targets.streams.model import model_of, node_of
        from targets.streams.running import time_model

        timing = time_model(model_of(self.build(graph, no_progress).program, "timed"))
        found: dict[str, float] = {}
        for layer in timing.layers:
            name = node_of(graph, layer.value).location.names[0]
            found[name] = found.get(name, 0.0) + layer.cycles
        return found

    def with_records(self, folder: Path, warn: Callable[[str], None], *, packed: bool = False) -> NpuTarget:
        """This target, with the choices of records for the same configuration. packed: weights always are."""
        from schedules.tuning.npu_tuned import TunedNetworks
        from targets.streams.choosing import machine_of

        tuned = TunedNetworks.of(folder, machine_of(self.config), warn)
        return replace(self, tuned=tuned if tuned.choices else None)

    def check_place(self, place: Place) -> None:
        """See `targets.tunable`, as for the next three."""
        if place.boards or place.tracker or place.runner:
            raise BitloomError(
                f'target "{self.name}" is simulated on this computer',
                "leave out --board, --tracker and --runner",
            )
        if place.threads > 1:
            raise BitloomError(f'target "{self.name}" has no threads', "leave out --threads")

    def subjects(self, graph: Graph) -> list[NamedSubject]:
        from targets.streams.choosing import network_space
        from targets.streams.lowering import Lowering

        lowering = Lowering(graph, self.config)
        space = network_space(lowering, lowering.lower())
        return [(f"{len(space.layers)} layers", space, 1)] if space.layers else []

    def device(self, graph: Graph, place: Place) -> Device[Any]:
        from targets.measuring.npu import NpuDevice

        return NpuDevice(graph, self.config)

    def runner(self, place: Place) -> str:
        from targets.tunable import NotTimedError

        raise NotTimedError("what was simulated is the whole model already, bit for bit the interpreter's")

    def build(self, graph: Graph, progress: Progress) -> NpuBuild:
        """With the records' choices where they take fewer cycles than the compiler's own."""
        from targets.streams.lowering import Lowering

        lowering = Lowering(graph, self.config)
        attempts: list[Choices | None] = [None]
        if self.tuned is not None:
            from targets.streams.choosing import network_subject

            known = self.tuned.choices_for(network_subject(lowering, self.config))
            attempts += [] if known is None else [known]
        program = lowering.lower(
            lambda done, total: progress("write command streams", done, total), attempts=attempts
        )
        return NpuBuild(program, () if self.tuned is None else self.tuned.devices)


@dataclass(frozen=True, slots=True)
class NpuBuild:
    """Checked streams of a graph. devices: whose records were looked at."""

    program: NpuProgram
    devices: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """Summary, layers with the engine that takes them, and why the host takes what the NPU does not."""
        from targets.streams.report import facts

        return facts(self.program, self.devices)

    def emit(
        self,
        name: str,
        out: Path,
        attachments: Mapping[str, bytes],
        facts: Mapping[str, Any],
        cache: Cache,
        progress: Progress,
    ) -> None:
        """Commands, constants, manifest and C driver, with more files beside them."""
        from targets.library.emit import install_files
        from targets.streams.driver import driver_files
        from targets.streams.model import COMMANDS, model_files, model_of

        model = model_of(self.program, name)
        files = model_files(model, facts)
        files |= driver_files(model, files[f"{name}{COMMANDS}"])
        install_files({**attachments, **files}, out)


def targets() -> Iterator[NpuTarget]:
    """The presets."""
    for name in preset_names():
        yield NpuTarget(f"{PREFIX}{name}", load_config(name))


def target_from(name: str) -> NpuTarget | None:
    """`npu/` and a preset or the path of a TOML file. Errors: BitloomError for a bad configuration."""
    if not name.startswith(PREFIX):
        return None
    try:
        config = load_config(name.removeprefix(PREFIX))
    except ConfigError as error:
        hint = f"targets: {', '.join(PREFIX + n for n in preset_names())}, or {PREFIX}PATH.toml"
        raise BitloomError(f'target "{name}": {error}', hint) from error
    if config.name in preset_names() and config == load_config(config.name):
        return NpuTarget(f"{PREFIX}{config.name}", config)
    content = hashlib.sha256(repr(config).encode()).hexdigest()[:8]
    return NpuTarget(f"{PREFIX}{config.name}@{content}", config)
