"""Decisions of the convolution template for matrix tiles, and the analytic model that makes them.

A tile register holds 16 rows of 64 bytes. TDPBUSD adds to a tile of 16 pixels by 16 channels the products of
16 pixels by 64 inputs and of 64 inputs by 16 channels, in 16 cycles, also where there are fewer pixels: 1024
products per cycle, eight times VPDPBUSD's on two ports. Sources: Intel 64 and IA-32 Architectures
Optimization Reference Manual, ch. 20; rates measured by `benchmarks.kernels`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from compiler.loops.form import Convolution
from compiler.lowering.machine import CpuMachine
from compiler.numerics.element import ElementType
from schedules.convolution_geometry import Geometry, geometry
from schedules.sharing import even_blocks

# Of a tile register: rows, bytes of a row, int32 lanes of a row.
TILE_ROWS, ROW_BYTES, TILE_LANES = 16, 64, 16
TILES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AmxConfig:
    """pixels: rows of a tile of output pixels. rows, columns: tiles of a block, below each other (one row of
    the image each) and beside each other. vectors: tiles of 16 output channels of a block.
    depth: bytes of a tile's row of inputs, a multiple of 4. share_rows, share_columns, share_panels: what one
    share computes, in output rows and columns and in panels of `vectors` tiles of channels. prefetches:
    whether the next panel's weights are fetched early into the second-level cache.
    """

    pixels: int
    rows: int
    columns: int
    vectors: int
    depth: int
    share_rows: int
    share_columns: int
    share_panels: int
    prefetches: bool

    @property
    def tiles(self) -> int:
        """Tiles of pixels in a block."""
        return self.rows * self.columns

    @property
    def width(self) -> int:
        """Pixels of a block in one row of the image."""
        return self.pixels * self.columns


def refusal(form: Convolution, machine: CpuMachine) -> str | None:
    """Why matrix tiles cannot take a form; None where they can."""
    if not machine.matrix_tiles:
        return f"{machine.name} has no matrix tiles"
    if form.input is not ElementType.I8 or form.weight is not ElementType.I8:
        return f"tiles multiply bytes, not {form.input.value} by {form.weight.value}"
    if form.output not in (ElementType.I8, ElementType.I16):
        return f"sums are stored as i8 or i16, not {form.output.value}"
    if form.groups > 1:
        return f"{form.groups} groups of channels"
    return None


# Fewer pixels leave most of a tile of weights' loads unused: such layers wait for their weights either way.
_LEAST_PIXELS = 4
# Measured: the first tile instructions of a call, and by how much a core that uses tiles lowers its clock.
_CALL_CYCLES, _CLOCK_RATIO = 3500, 1.25


def pays(form: Convolution, machine: CpuMachine) -> bool:
    """Whether matrix tiles take a form and are faster than vectors."""
    pixels = form.batch * form.out_height * form.out_width
    if refusal(form, machine) is not None or pixels < _LEAST_PIXELS:
        return False
    g = geometry(form, machine)
    tiles = estimated_cycles(default_config(form, machine), g, machine) + _CALL_CYCLES
    return tiles * _CLOCK_RATIO < _vector_cycles(g)


def _vector_cycles(g: Geometry) -> float:
    """Estimated cycles of the layer by VPDPBUSD on two ports, which requantizing shares."""
    f = g.form
    vectors = f.batch * f.out_height * f.out_width * ceil(f.out_channels / TILE_LANES)
    return vectors * (g.segments * g.steps / 2 + 4.5)


def depth_of(g: Geometry) -> int:
    """Bytes of a tile's row of inputs: as few tiles as can be take the run, all of them equally many."""
    chunks = ceil(g.run / ROW_BYTES)
    return 4 * ceil(g.run / (4 * chunks))


def steps_of(g: Geometry) -> int:
    """Pairs of input and weight tiles behind each tile of sums."""
    return g.segments * ceil(g.run / ROW_BYTES)


def panels_of(config: AmxConfig, g: Geometry) -> int:
    """Of the layer."""
    return ceil(g.form.out_channels / (TILE_LANES * config.vectors))


def prefetch_pays(config: AmxConfig, g: Geometry, machine: CpuMachine) -> bool:
    """Measured in ResNet-50 and MobileNetV2: weights of this size have left the second-level cache when the
    layer runs again, and smaller ones lose more by the instructions. In a model the tuner decides it."""
    packed = steps_of(g) * config.depth // 4 * ROW_BYTES * ceil(g.form.out_channels / TILE_LANES)
    return panels_of(config, g) > 1 and packed > machine.l2_bytes // 16


def fits_tiles(pixel_tiles: int, vectors: int) -> bool:
    """Sums stay in registers; of inputs and weights one side is kept for a step and the other passes by,
    through two registers where there is a next one to load meanwhile."""
    kept, passing = sorted((pixel_tiles, vectors))
    return pixel_tiles * vectors + kept + min(2, passing) <= TILES


def check_config(config: AmxConfig, g: Geometry, machine: CpuMachine) -> None:
    """Errors: ValueError with the reason why the template cannot take this configuration."""
    c = config
    reason = refusal(g.form, machine)
    if reason:
        raise ValueError(reason)
    if not 1 <= c.pixels <= TILE_ROWS or not fits_tiles(c.tiles, c.vectors):
        raise ValueError(f"a block of {c.tiles} x {c.vectors} tiles of {c.pixels} pixels has no registers")
    if c.depth != depth_of(g):
        raise ValueError(f"runs of {g.run} bytes are cut into {depth_of(g)} bytes, not {c.depth}")
    if c.width > g.width or c.rows > g.height:
        raise ValueError(f"a block of {c.rows} x {c.width} pixels is larger than {g.height} x {g.width}")
    rest = g.height % c.share_rows
    if c.share_rows < c.rows or 0 < rest < c.rows:
        raise ValueError(f"shares of {c.share_rows} and {rest} rows are lower than {c.rows}")
    if c.share_columns < g.width and (c.share_columns % c.width or not g.flat):
        raise ValueError(f"shares of {c.share_columns} columns are not made of blocks of {c.width}")
    if c.share_panels < 1:
        raise ValueError("a share needs at least one panel")
    if c.prefetches and panels_of(c, g) == 1:
        raise ValueError("there is no next panel to be fetched")


def default_config(form: Convolution, machine: CpuMachine) -> AmxConfig:
    """The block of least estimated cycles. Errors: ValueError for forms that tiles cannot take."""
    g = geometry(form, machine)
    return min(candidates(g, machine), key=lambda c: estimated_cycles(c, g, machine))


def candidates(g: Geometry, machine: CpuMachine) -> Iterator[AmxConfig]:
    """Every block that fits the registers, with shares that suit the caches and a few cores."""
    for across in range(1, min(TILES, g.width) + 1):
        # As few blocks as cover a row, of tiles as small as then suffice: the least overlap.
        count = ceil(g.width / (TILE_ROWS * across))
        pixels = min(ceil(g.width / (count * across)), g.width // across)
        for down in range(1, min(TILES, g.height) + 1):
            for vectors in range(1, min(TILES, ceil(g.form.out_channels / TILE_LANES)) + 1):
                if fits_tiles(across * down, vectors):
                    yield _with_shares((pixels, down, across, vectors), g, machine)


# Cycles of requantizing a vector of 16 sums, and of storing the codes of a pixel.
_FINISH_CYCLES, _STORE_CYCLES = 3.8, 1.0
# Loops, addresses and the change from one block to the next.
_BLOCK_CYCLES = 30


# From one product into a tile of sums to the next.
_CHAIN_CYCLES = 52
# Of the second-level cache, bytes per cycle that tile loads reach.
_L2_BYTES_PER_CYCLE = 40


def block_cycles(config: AmxConfig, vectors: int, g: Geometry, machine: CpuMachine) -> float:
    """Estimated cycles of one block: tiles are loaded at two rows per cycle beside the products, slower from
    the second-level cache, and requantizing the block before hides most of the shorter of both."""
    c = config
    products = TILE_ROWS * c.tiles * vectors
    inputs, weights = c.tiles * c.pixels, vectors * c.depth // 4
    traffic = 0
    if (
        steps_of(g) * weights * ROW_BYTES > machine.l1_bytes // 2
    ):  # A panel's weights serve block after block.
        traffic += weights * ROW_BYTES
    if c.share_rows * c.share_columns * g.stride[0] * g.stride[1] * g.pixel_pitch > machine.l1_bytes // 2:
        traffic += inputs * c.depth
    loads = (inputs + weights) / 2 + traffic / _L2_BYTES_PER_CYCLE
    contract = steps_of(g) * max(products, loads, _CHAIN_CYCLES) + 1.5 * products
    finish = (_FINISH_CYCLES * vectors + _STORE_CYCLES * ceil(vectors / 4)) * c.tiles * c.pixels
    return max(contract, finish) + 0.3 * min(contract, finish) + _BLOCK_CYCLES


def estimated_cycles(config: AmxConfig, g: Geometry, machine: CpuMachine) -> float:
    """Of the layer, on one core."""
    c = config
    blocks = ceil(g.height / c.rows) * ceil(g.width / c.width) * g.images
    full, rest = divmod(ceil(g.form.out_channels / TILE_LANES), c.vectors)
    cycles = full * block_cycles(c, c.vectors, g, machine)
    return blocks * (cycles + (block_cycles(c, rest, g, machine) if rest else 0))


# A share below this many cycles is not worth handing to another thread.
_SHARE_CYCLES = 6000
_MOST_SHARES = 16


def _with_shares(block: tuple[int, int, int, int], g: Geometry, machine: CpuMachine) -> AmxConfig:
    pixels, down, across, vectors = block
    whole = AmxConfig(
        pixels=pixels,
        rows=down,
        columns=across,
        vectors=vectors,
        depth=depth_of(g),
        share_rows=g.height,
        share_columns=g.width,
        share_panels=ceil(ceil(g.form.out_channels / TILE_LANES) / vectors),
        prefetches=False,
    )
    input_bytes = g.images * g.form.in_height * g.form.in_width * g.form.in_channels
    weight_bytes = g.form.out_channels * g.form.taps
    wanted = max(1, min(_MOST_SHARES, int(estimated_cycles(whole, g, machine) / _SHARE_CYCLES)))
    if input_bytes >= weight_bytes:  # A share's input stays in the second-level cache for all of its panels.
        wanted = max(wanted, 4 * input_bytes // machine.l2_bytes)
    units = ceil(g.width / whole.width) if g.flat else g.height // down
    share, panels = even_blocks(wanted, units, whole.share_panels, weight_bytes > input_bytes)
    rows, columns = g.height, g.width
    if g.flat:
        columns = min(g.width, share * whole.width)
    else:
        rows = min(g.height, share * down)
        rows = rows if g.height % rows == 0 or g.height % rows >= down else g.height
    return AmxConfig(
        pixels=pixels,
        rows=down,
        columns=across,
        vectors=vectors,
        depth=whole.depth,
        share_rows=rows,
        share_columns=columns,
        share_panels=panels,
        prefetches=prefetch_pays(whole, g, machine),
    )
