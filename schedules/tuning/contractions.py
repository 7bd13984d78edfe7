"""The templates of contractions with micro-tiles: vectors, bits and matrix tiles. See `templates`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from random import Random
from typing import Any

from compiler.loops.form import Convolution, Form
from compiler.lowering.kernel import KernelConfig, KernelPlan
from compiler.lowering.machine import CpuMachine
from schedules import amx, amx_config, binary, binary_cost, convolution
from schedules import convolution_config as vectors_of
from schedules.amx_config import TILE_LANES, TILE_ROWS, TILES, AmxConfig
from schedules.binary_geometry import binary_geometry, is_binary
from schedules.convolution_config import ConvolutionConfig, Tile
from schedules.convolution_geometry import Geometry, geometry
from schedules.tuning.shares import in_parts, other_parts, part_counts, parts_of
from schedules.tuning.templates import steps

_ROWS = range(1, 9)
_VECTORS = range(1, 9)
_UNROLL = (1, 2, 4, 8)
# Sums in registers that tiles of two steps under way have to leave room for.
_MOST_OVERLAPPED = 15


class ConvolutionTemplate:
    """Dot products on vectors."""

    name, module, config = "convolution", "schedules.convolution", ConvolutionConfig

    def takes(self, form: Form, machine: CpuMachine) -> bool:
        if not isinstance(form, Convolution) or form.depthwise or is_binary(form):
            return False
        try:
            convolution.plan_convolution(form, machine)
        except ValueError:
            return False
        return True

    def plan(self, form: Form, machine: CpuMachine, config: KernelConfig) -> KernelPlan:
        assert isinstance(form, Convolution) and isinstance(config, ConvolutionConfig)
        pixels = config.rows * config.columns
        if not self._fits(pixels, config.vectors, form, machine):
            raise ValueError(f"{pixels} x {config.vectors} sums leave no registers for operands")
        if config.overlaps and pixels * config.vectors > _MOST_OVERLAPPED:
            raise ValueError(f"{pixels} x {config.vectors} sums leave no registers to overlap in")
        return self._plan(form, machine, config)

    def _plan(self, form: Convolution, machine: CpuMachine, config: ConvolutionConfig) -> KernelPlan:
        return convolution.plan_convolution(form, machine, config)

    def _geometry(self, form: Convolution, machine: CpuMachine) -> Geometry:
        return geometry(form, machine)

    def _fits(self, pixels: int, vectors: int, form: Convolution, machine: CpuMachine) -> bool:
        return vectors_of.sums_fit(pixels, vectors, self._geometry(form, machine), machine)

    def _lanes(self, g: Geometry, machine: CpuMachine) -> tuple[int, ...]:
        return vectors_of.lane_choices(g, machine)

    def _estimate(self, tile: Tile, g: Geometry, machine: CpuMachine) -> float:
        return vectors_of.estimated_cycles(tile, g, machine)

    def ordered(self, form: Form, machine: CpuMachine) -> Iterator[KernelConfig]:
        assert isinstance(form, Convolution)
        yield from convolution.candidate_configs(form, machine)

    def variants(self, form: Form, machine: CpuMachine, config: Any) -> Iterator[KernelConfig]:
        assert isinstance(form, Convolution) and isinstance(config, ConvolutionConfig)
        g, c = self._geometry(form, machine), config
        parts = self._parts(g, c)
        tiles = [
            *(replace(c, lanes=n) for n in self._lanes(g, machine) if n != c.lanes),
            *(replace(c, vectors=n) for n in steps(c.vectors, max(_VECTORS))),
            *(replace(c, rows=n) for n in _ROWS if n != c.rows and g.height % n == 0),
            *(replace(c, columns=n) for n in steps(c.columns, g.width)),
        ]
        yield from (self._shared(tile, g, parts) for tile in tiles)
        yield from (replace(c, unroll=n) for n in _UNROLL if n != c.unroll)
        yield replace(c, panels_inner=not c.panels_inner, overlaps=False)
        yield replace(c, overlaps=not c.overlaps, panels_inner=False)
        rows, columns, panels = self._units(g, c)
        for n in other_parts(rows, c.share_rows // c.rows):
            yield replace(c, share_rows=n * c.rows)
        if vectors_of.cuts_columns(g):
            for n in other_parts(columns, ceil(c.share_columns / c.columns)):
                yield replace(c, share_columns=min(g.width, n * c.columns))
        yield from (replace(c, share_panels=n) for n in other_parts(panels, c.share_panels))

    def drawn(self, form: Form, machine: CpuMachine, random: Random) -> KernelConfig:
        assert isinstance(form, Convolution)
        g = self._geometry(form, machine)
        overlaps = random.random() < 0.3
        tile = ConvolutionConfig(
            lanes=random.choice(self._lanes(g, machine)),
            vectors=random.choice(_VECTORS),
            rows=random.choice([n for n in _ROWS if g.height % n == 0]),
            columns=random.randint(1, min(g.width, machine.vector_registers)),
            unroll=random.choice(_UNROLL),
            share_rows=1,
            share_columns=g.width,
            share_panels=1,
            panels_inner=not overlaps and random.random() < 0.5,
            overlaps=overlaps,
        )
        rows, columns, panels = (random.choice(part_counts(n)) for n in self._units(g, tile))
        return self._shared(tile, g, (rows, columns, panels))

    def adapted(self, form: Form, machine: CpuMachine, config: Any) -> KernelConfig:
        assert isinstance(form, Convolution) and isinstance(config, ConvolutionConfig)
        g = self._geometry(form, machine)
        rows = max(n for n in range(1, min(config.rows, g.height) + 1) if g.height % n == 0)
        tile = Tile(config.lanes, config.vectors, rows, min(config.columns, g.width))
        shared = vectors_of.with_shares(tile, g, machine)
        return replace(
            shared,
            unroll=config.unroll,
            panels_inner=config.panels_inner,
            overlaps=config.overlaps,
        )

    def features(self, form: Form, machine: CpuMachine, config: Any) -> dict[str, float]:
        assert isinstance(form, Convolution) and isinstance(config, ConvolutionConfig)
        g, c = self._geometry(form, machine), config
        tile = Tile(c.lanes, c.vectors, c.rows, c.columns, c.overlaps)
        reduction = g.segments * g.steps * g.dot.products * form.weight.bits // 8
        pixels = c.share_rows * c.share_columns * g.stride[0] * g.stride[1] * g.pixel_pitch
        weights = c.share_panels * c.vectors * c.lanes * reduction
        return {
            "estimate": self._estimate(tile, g, machine),
            "sums": c.rows * c.columns * c.vectors,
            "ragged": g.width % c.columns / c.columns,
            "ragged_panels": g.group_outputs % (c.vectors * c.lanes) / (c.vectors * c.lanes),
            "near": pixels / machine.l2_bytes,
            "near_weights": weights / machine.l1_bytes,
            "panel_weights": c.vectors * c.lanes * reduction / machine.l1_bytes,
            "panels": self._units(g, c)[2],
            "loads": (c.rows * c.columns + c.vectors) / (c.rows * c.columns * c.vectors),
        }

    def _units(self, g: Geometry, c: ConvolutionConfig) -> tuple[int, int, int]:
        """Micro-tiles below and beside each other, and panels."""
        panels = g.form.groups * ceil(g.group_outputs / (c.lanes * c.vectors))
        return g.height // c.rows, ceil(g.width / c.columns), panels

    def _parts(self, g: Geometry, c: ConvolutionConfig) -> tuple[int, int, int]:
        rows, columns, panels = self._units(g, c)
        return (
            parts_of(rows, c.share_rows // c.rows),
            parts_of(columns, ceil(c.share_columns / c.columns)),
            parts_of(panels, c.share_panels),
        )

    def _shared(self, c: ConvolutionConfig, g: Geometry, parts: tuple[int, int, int]) -> ConvolutionConfig:
        rows, columns, panels = self._units(g, c)
        beside = in_parts(columns, parts[1] if vectors_of.cuts_columns(g) else 1)
        return replace(
            c,
            share_rows=in_parts(rows, parts[0]) * c.rows,
            share_columns=min(g.width, beside * c.columns),
            share_panels=in_parts(panels, parts[2]),
        )


class BinaryTemplate(ConvolutionTemplate):
    """Counted bits."""

    name, module = "binary", "schedules.binary"

    def takes(self, form: Form, machine: CpuMachine) -> bool:
        return isinstance(form, Convolution) and is_binary(form)

    def _plan(self, form: Convolution, machine: CpuMachine, config: ConvolutionConfig) -> KernelPlan:
        return binary.plan_binary(form, machine, config)

    def _geometry(self, form: Convolution, machine: CpuMachine) -> Geometry:
        return binary_geometry(form)

    def _fits(self, pixels: int, vectors: int, form: Convolution, machine: CpuMachine) -> bool:
        return binary_cost.fits_registers(pixels, vectors, machine)

    def _lanes(self, g: Geometry, machine: CpuMachine) -> tuple[int, ...]:
        return (machine.lanes,)

    def _estimate(self, tile: Tile, g: Geometry, machine: CpuMachine) -> float:
        return binary_cost.cycles(tile, g, machine)

    def ordered(self, form: Form, machine: CpuMachine) -> Iterator[KernelConfig]:
        assert isinstance(form, Convolution)
        yield from binary.binary_configs(form, machine)

    def drawn(self, form: Form, machine: CpuMachine, random: Random) -> KernelConfig:
        drawn = super().drawn(form, machine, random)
        assert isinstance(drawn, ConvolutionConfig)
        return replace(drawn, unroll=1, overlaps=False)


class AmxTemplate:
    """Matrix tiles."""

    name, module, config = "amx", "schedules.amx", AmxConfig

    def takes(self, form: Form, machine: CpuMachine) -> bool:
        return isinstance(form, Convolution) and amx_config.refusal(form, machine) is None

    def plan(self, form: Form, machine: CpuMachine, config: KernelConfig) -> KernelPlan:
        assert isinstance(form, Convolution) and isinstance(config, AmxConfig)
        return amx.plan_amx(form, machine, config)

    def ordered(self, form: Form, machine: CpuMachine) -> Iterator[KernelConfig]:
        assert isinstance(form, Convolution)
        yield from amx.amx_candidates(form, machine)

    def variants(self, form: Form, machine: CpuMachine, config: Any) -> Iterator[KernelConfig]:
        assert isinstance(form, Convolution) and isinstance(config, AmxConfig)
        g, c = geometry(form, machine), config
        parts = self._parts(g, c)
        tiles = [
            *(replace(c, pixels=n) for n in range(1, TILE_ROWS + 1) if n != c.pixels),
            *(replace(c, rows=n) for n in range(1, TILES + 1) if n != c.rows),
            *(self._across(c, n, g) for n in range(1, TILES + 1) if n != c.columns),
            *(replace(c, vectors=n) for n in range(1, TILES + 1) if n != c.vectors),
        ]
        for tile in tiles:
            if amx_config.fits_tiles(tile.tiles, tile.vectors):
                yield self._shared(tile, g, parts)
        rows, columns, panels = self._units(g, c)
        for n in other_parts(rows, ceil(c.share_rows / c.rows)):
            yield replace(c, share_rows=min(g.height, n * c.rows))
        if g.flat:
            for n in other_parts(columns, ceil(c.share_columns / c.width)):
                yield replace(c, share_columns=min(g.width, n * c.width))
        yield from (replace(c, share_panels=n) for n in other_parts(panels, c.share_panels))
        yield replace(c, prefetches=not c.prefetches)

    def _across(self, c: AmxConfig, columns: int, g: Geometry) -> AmxConfig:
        """So many tiles beside each other, as small as then suffice for a row."""
        count = ceil(g.width / (TILE_ROWS * columns))
        return replace(
            c, columns=columns, pixels=max(1, min(ceil(g.width / (count * columns)), g.width // columns))
        )

    def drawn(self, form: Form, machine: CpuMachine, random: Random) -> KernelConfig:
        assert isinstance(form, Convolution)
        g = geometry(form, machine)
        tile = AmxConfig(
            pixels=random.randint(1, min(TILE_ROWS, g.width)),
            rows=random.choice((1, 1, 2, 3, 4)),
            columns=random.choice((1, 1, 2, 3, 4)),
            vectors=random.randint(1, 5),
            depth=amx_config.depth_of(g),
            share_rows=1,
            share_columns=g.width,
            share_panels=1,
            prefetches=random.random() < 0.5,
        )
        rows, columns, panels = (random.choice(part_counts(n)) for n in self._units(g, tile))
        return self._shared(tile, g, (rows, columns, panels))

    def adapted(self, form: Form, machine: CpuMachine, config: Any) -> KernelConfig:
        assert isinstance(form, Convolution) and isinstance(config, AmxConfig)
        g, default = geometry(form, machine), amx_config.default_config(form, machine)
        pixels = min(config.pixels, max(1, g.width // config.columns))
        return self._shared(replace(config, pixels=pixels, depth=default.depth), g, self._parts(g, default))

    def features(self, form: Form, machine: CpuMachine, config: Any) -> dict[str, float]:
        assert isinstance(form, Convolution) and isinstance(config, AmxConfig)
        g, c = geometry(form, machine), config
        panel = amx_config.steps_of(g) * c.vectors * c.depth * TILE_LANES
        pixels = c.share_rows * c.share_columns * g.stride[0] * g.stride[1] * g.pixel_pitch
        return {
            "estimate": amx_config.estimated_cycles(c, g, machine),
            "sums": c.tiles * c.vectors,
            "ragged": g.width % c.width / c.width,
            "ragged_rows": g.height % c.rows / c.rows,
            "ragged_panels": g.form.out_channels % (c.vectors * TILE_LANES) / (c.vectors * TILE_LANES),
            "near": pixels / machine.l2_bytes,
            "near_weights": c.share_panels * panel / machine.l1_bytes,
            "panel_weights": panel / machine.l1_bytes,
            "panels": self._units(g, c)[2],
            "block": c.tiles * c.pixels,
        }

    def _units(self, g: Geometry, c: AmxConfig) -> tuple[int, int, int]:
        return ceil(g.height / c.rows), ceil(g.width / c.width), amx_config.panels_of(c, g)

    def _parts(self, g: Geometry, c: AmxConfig) -> tuple[int, int, int]:
        rows, columns, panels = self._units(g, c)
        return (
            parts_of(rows, ceil(c.share_rows / c.rows)),
            parts_of(columns, ceil(c.share_columns / c.width)),
            parts_of(panels, c.share_panels),
        )

    def _shared(self, c: AmxConfig, g: Geometry, parts: tuple[int, int, int]) -> AmxConfig:
        rows, columns, panels = self._units(g, c)
        beside = in_parts(columns, parts[1] if g.flat else 1)
        return replace(
            c,
            share_rows=min(g.height, in_parts(rows, parts[0]) * c.rows),
            share_columns=min(g.width, beside * c.width),
            share_panels=in_parts(panels, parts[2]),
            prefetches=c.prefetches and panels > 1,
        )
