"""Kernel templates as a tuner sees them: which forms they take, and how their decisions can be changed.

A template offers configurations in the order of its analytic model, configurations drawn at random, and those
that differ from a given one in a single decision. What it offers may be illegal: planning says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from random import Random
from typing import Any, Protocol, TypeVar

from compiler.loops.form import Convolution, Form, LoopForm
from compiler.lowering.kernel import KernelConfig, KernelPlan
from compiler.lowering.machine import CpuMachine
from schedules import depthwise, loops, sums, winograd
from schedules.binary_geometry import is_binary
from schedules.depthwise_layout import DepthwiseConfig
from schedules.loop_tiles import LoopsConfig
from schedules.sums import SumsConfig
from schedules.tuning.shares import in_parts, other_parts, part_counts, parts_of
from schedules.winograd import WinogradConfig, winograd_pays

MachineT_contra = TypeVar("MachineT_contra", contravariant=True)


class Template(Protocol[MachineT_contra]):
    """For machines of one family. name: in records. module: the source file from which its version is made.
    config: its decisions."""

    @property
    def name(self) -> str: ...
    @property
    def module(self) -> str: ...
    @property
    def config(self) -> type[Any]: ...

    def takes(self, form: Form, machine: MachineT_contra) -> bool:
        """Whether the template computes a form on a machine."""
        ...

    def plan(self, form: Form, machine: MachineT_contra, config: KernelConfig) -> KernelPlan:
        """Errors: ValueError with the reason where the configuration is not legal."""
        ...

    def ordered(self, form: Form, machine: MachineT_contra) -> Iterator[KernelConfig]:
        """A few configurations, the most promising by the analytic model first."""
        ...

    def variants(self, form: Form, machine: MachineT_contra, config: Any) -> Iterator[KernelConfig]:
        """Configurations that differ in one decision, shares being cut into as many parts as before."""
        ...

    def drawn(self, form: Form, machine: MachineT_contra, random: Random) -> KernelConfig:
        """A configuration at random."""
        ...

    def adapted(self, form: Form, machine: MachineT_contra, config: Any) -> KernelConfig:
        """The decisions of a configuration for another form, as far as they can be carried over."""
        ...

    def features(self, form: Form, machine: MachineT_contra, config: Any) -> dict[str, float]:
        """What the cost model is told beside the fields. `estimate`: of the analytic model."""
        ...


def steps(value: int, most: int, least: int = 1) -> list[int]:
    """Numbers beside `value`: one more and less, twice and half."""
    near = {value - 1, value + 1, 2 * value, value // 2} - {value}
    return sorted(n for n in near if least <= n <= most)


class DepthwiseTemplate:
    name, module, config = "depthwise", "schedules.depthwise", DepthwiseConfig

    def takes(self, form: Form, machine: CpuMachine) -> bool:
        return isinstance(form, Convolution) and form.depthwise and not is_binary(form)

    def plan(self, form: Form, machine: CpuMachine, config: KernelConfig) -> KernelPlan:
        assert isinstance(form, Convolution) and isinstance(config, DepthwiseConfig)
        return depthwise.plan_depthwise(form, machine, config)

    def ordered(self, form: Form, machine: CpuMachine) -> Iterator[KernelConfig]:
        assert isinstance(form, Convolution)
        found = list(depthwise.candidate_configs(form, machine))
        yield from sorted(found, key=lambda c: self.features(form, machine, c)["estimate"])

    def variants(self, form: Form, machine: CpuMachine, config: Any) -> Iterator[KernelConfig]:
        assert isinstance(form, Convolution) and isinstance(config, DepthwiseConfig)
        yield from (replace(config, lanes=n) for n in depthwise.lane_choices(machine) if n != config.lanes)
        for rows in steps(config.rows, min(depthwise.MAX_ROWS, form.out_height)):
            yield _with_bands(replace(config, rows=rows), form, _band_parts(form, config))
        most = min(depthwise.MAX_COLUMNS, form.out_width)
        yield from (replace(config, columns=n) for n in range(1, most + 1) if n != config.columns)
        yield from (replace(config, bands=n) for n in other_parts(_bands(form, config), config.bands))

    def drawn(self, form: Form, machine: CpuMachine, random: Random) -> KernelConfig:
        assert isinstance(form, Convolution)
        config = DepthwiseConfig(
            lanes=random.choice(depthwise.lane_choices(machine)),
            rows=random.randint(1, min(depthwise.MAX_ROWS, form.out_height)),
            columns=random.randint(1, min(depthwise.MAX_COLUMNS, form.out_width)),
            bands=1,
        )
        return _with_bands(config, form, random.choice(part_counts(_bands(form, config))))

    def adapted(self, form: Form, machine: CpuMachine, config: Any) -> KernelConfig:
        assert isinstance(form, Convolution) and isinstance(config, DepthwiseConfig)
        smaller = replace(
            config, rows=min(config.rows, form.out_height), columns=min(config.columns, form.out_width)
        )
        default = depthwise.default_config(form, machine)
        return _with_bands(smaller, form, _band_parts(form, default))

    def features(self, form: Form, machine: CpuMachine, config: Any) -> dict[str, float]:
        assert isinstance(form, Convolution) and isinstance(config, DepthwiseConfig)
        c = config
        layout = depthwise.DepthwiseLayout(form, machine, c)
        return {
            "estimate": depthwise.estimated_cost(form, machine, c.lanes, c.rows, c.columns),
            "sums": c.columns * 4,
            "ragged": form.out_width % c.columns / c.columns,
            "near": layout.band_bytes / machine.l1_bytes,
            "panels": len(layout.groups),
        }


def _bands(form: Convolution, config: DepthwiseConfig) -> int:
    return ceil(form.out_height / config.rows)


def _band_parts(form: Convolution, config: DepthwiseConfig) -> int:
    return parts_of(_bands(form, config), config.bands)


def _with_bands(config: DepthwiseConfig, form: Convolution, parts: int) -> DepthwiseConfig:
    return replace(config, bands=in_parts(_bands(form, config), parts))


class WinogradTemplate:
    name, module, config = "winograd", "schedules.winograd", WinogradConfig

    def takes(self, form: Form, machine: CpuMachine) -> bool:
        return isinstance(form, Convolution) and winograd_pays(form, machine)

    def plan(self, form: Form, machine: CpuMachine, config: KernelConfig) -> KernelPlan:
        assert isinstance(form, Convolution) and isinstance(config, WinogradConfig)
        if config.vectors * config.tiles > winograd.MOST_SUMS:
            raise ValueError(f"{config.tiles} tiles of {config.vectors} vectors of sums leave no registers")
        return winograd.plan_winograd(form, machine, config)

    def ordered(self, form: Form, machine: CpuMachine) -> Iterator[KernelConfig]:
        assert isinstance(form, Convolution)
        yield winograd.default_config(form)

    def variants(self, form: Form, machine: CpuMachine, config: Any) -> Iterator[KernelConfig]:
        assert isinstance(form, Convolution) and isinstance(config, WinogradConfig)
        rows, panels = self._units(form, config)
        for vectors in {1, 2, 3} - {config.vectors}:
            tiles = min(config.tiles, winograd.MOST_SUMS // vectors)
            yield replace(config, vectors=vectors, tiles=tiles, share_panels=1)
        yield from (replace(config, tiles=n) for n in steps(config.tiles, winograd.MOST_SUMS))
        yield from (replace(config, share_rows=n) for n in winograd.divisors(rows) if n != config.share_rows)
        for n in winograd.divisors(panels):
            if n != config.share_panels:
                yield replace(config, share_panels=n)

    def drawn(self, form: Form, machine: CpuMachine, random: Random) -> KernelConfig:
        assert isinstance(form, Convolution)
        vectors = random.randint(1, 3)
        config = WinogradConfig(vectors=vectors, tiles=1, share_rows=1, share_panels=1)
        rows, panels = self._units(form, config)
        return replace(
            config,
            tiles=random.randint(1, winograd.MOST_SUMS // vectors),
            share_rows=random.choice(winograd.divisors(rows)),
            share_panels=random.choice(winograd.divisors(max(1, panels))),
        )

    def adapted(self, form: Form, machine: CpuMachine, config: Any) -> KernelConfig:
        assert isinstance(form, Convolution) and isinstance(config, WinogradConfig)
        default = winograd.default_config(form)
        return replace(default, vectors=config.vectors, tiles=config.tiles, share_panels=1)

    def features(self, form: Form, machine: CpuMachine, config: Any) -> dict[str, float]:
        assert isinstance(form, Convolution) and isinstance(config, WinogradConfig)
        columns = ceil(form.out_width / 2)
        transformed = 2 * winograd.POSITIONS * config.share_rows * columns * form.in_channels
        return {
            "sums": config.vectors * config.tiles,
            "ragged": config.share_rows * columns % config.tiles / config.tiles,
            "near": transformed / machine.l2_bytes,
            "panels": self._units(form, config)[1],
        }

    def _units(self, form: Convolution, config: WinogradConfig) -> tuple[int, int]:
        return ceil(form.out_height / 2), form.out_channels // (config.vectors * winograd.LANES)


class SumsTemplate:
    name, module, config = "sums", "schedules.sums", SumsConfig

    def takes(self, form: Form, machine: CpuMachine) -> bool:
        return sums.takes_sum(form, machine)

    def plan(self, form: Form, machine: CpuMachine, config: KernelConfig) -> KernelPlan:
        assert isinstance(form, LoopForm) and isinstance(config, SumsConfig)
        return sums.plan_sum(form, machine, config)

    def ordered(self, form: Form, machine: CpuMachine) -> Iterator[KernelConfig]:
        assert isinstance(form, LoopForm)
        yield from sums.candidate_configs(form, machine)

    def variants(self, form: Form, machine: CpuMachine, config: Any) -> Iterator[KernelConfig]:
        assert isinstance(config, SumsConfig)
        yield from (SumsConfig(n) for n in (config.blocks // 2, config.blocks * 2))

    def drawn(self, form: Form, machine: CpuMachine, random: Random) -> KernelConfig:
        assert isinstance(form, LoopForm)
        return SumsConfig(1 << random.randrange(sums.plan_sum(form, machine).blocks.bit_length()))

    def adapted(self, form: Form, machine: CpuMachine, config: Any) -> KernelConfig:
        assert isinstance(form, LoopForm) and isinstance(config, SumsConfig)
        return SumsConfig(min(config.blocks, sums.plan_sum(form, machine).blocks))

    def features(self, form: Form, machine: CpuMachine, config: Any) -> dict[str, float]:
        assert isinstance(config, SumsConfig)
        return {"near": config.blocks * sums.block_of(machine) / machine.l1_bytes}


class LoopsTemplate:
    name, module, config = "loops", "schedules.loops", LoopsConfig

    def takes(self, form: Form, machine: CpuMachine) -> bool:
        return isinstance(form, LoopForm)

    def plan(self, form: Form, machine: CpuMachine, config: KernelConfig) -> KernelPlan:
        assert isinstance(form, LoopForm) and isinstance(config, LoopsConfig)
        if config.vector_bytes not in self._vectors(machine) or config.tile_elements not in _TILES:
            raise ValueError(f"{config} is outside the search space")
        return loops.plan_loops(form, machine, config)

    def ordered(self, form: Form, machine: CpuMachine) -> Iterator[KernelConfig]:
        assert isinstance(form, LoopForm)
        yield from loops.candidate_configs(form, machine)

    def variants(self, form: Form, machine: CpuMachine, config: Any) -> Iterator[KernelConfig]:
        assert isinstance(config, LoopsConfig)
        for vector_bytes in self._vectors(machine):
            if vector_bytes != config.vector_bytes:
                yield replace(config, vector_bytes=vector_bytes)
        for elements in (config.tile_elements // 2, config.tile_elements * 2):
            yield replace(config, tile_elements=elements)

    def drawn(self, form: Form, machine: CpuMachine, random: Random) -> KernelConfig:
        return LoopsConfig(
            vector_bytes=random.choice(self._vectors(machine)), tile_elements=random.choice(_TILES)
        )

    def adapted(self, form: Form, machine: CpuMachine, config: Any) -> KernelConfig:
        return config

    def features(self, form: Form, machine: CpuMachine, config: Any) -> dict[str, float]:
        assert isinstance(config, LoopsConfig)
        return {"near": config.tile_elements / machine.l1_bytes}

    def _vectors(self, machine: CpuMachine) -> list[int]:
        return [machine.vector_bits // 8 * n for n in (1, 2, 4, 8)]


# Values of a tile, from a microsecond's work to what one thread takes whole.
_TILES = [1 << n for n in range(11, 21)]
