"""What a device library consists of, in plain values: the only thing that this package knows about a model.

Addresses are byte offsets. Three memories exist at run time: the constant blob (read-only, in the library),
the arena (one for each context) and the caller's input and output buffers. A library may hold several
variants of its steps, of which each context runs the one that suits the CPU; they share the constants.
"""

import re
from dataclasses import dataclass
from enum import Enum
from math import prod
from string import ascii_lowercase

from targets.library.launch import Launch

CACHE_LINE_BYTES = 64


class DType(Enum):
    """An element type at the C border; the value is its name in NumPy."""

    FLOAT32 = "float32"
    INT8 = "int8"
    UINT8 = "uint8"
    INT16 = "int16"
    INT32 = "int32"

    @property
    def bytes(self) -> int:
        return int(self.value.lstrip(ascii_lowercase)) // 8

    @property
    def c_name(self) -> str:
        return "float" if self is DType.FLOAT32 else f"{self.value}_t"


class CpuFeature(Enum):
    """An instruction set that kernels need, spelt as in /proc/cpuinfo; `bitloom_cpu.h` tests for it."""

    SSE4_1 = "sse4_1"
    SSE4_2 = "sse4_2"
    MOVBE = "movbe"
    POPCNT = "popcnt"
    AVX = "avx"
    F16C = "f16c"
    FMA = "fma"
    ABM = "abm"
    BMI1 = "bmi1"
    AVX2 = "avx2"
    BMI2 = "bmi2"
    GFNI = "gfni"
    VAES = "vaes"
    VPCLMULQDQ = "vpclmulqdq"
    AVX_VNNI = "avx_vnni"
    AVX512F = "avx512f"
    AVX512DQ = "avx512dq"
    AVX512IFMA = "avx512ifma"
    AVX512CD = "avx512cd"
    AVX512BW = "avx512bw"
    AVX512VL = "avx512vl"
    AVX512VBMI = "avx512vbmi"
    AVX512_VBMI2 = "avx512_vbmi2"
    AVX512_VNNI = "avx512_vnni"
    AVX512_BITALG = "avx512_bitalg"
    AVX512_VPOPCNTDQ = "avx512_vpopcntdq"
    AVX512_BF16 = "avx512_bf16"
    AMX_TILE = "amx_tile"
    AMX_INT8 = "amx_int8"
    ASIMD = "asimd"
    ATOMICS = "atomics"
    ASIMDHP = "asimdhp"
    ASIMDRDM = "asimdrdm"
    ASIMDDP = "asimddp"
    SVE = "sve"
    I8MM = "i8mm"
    NEON = "neon"
    VFPV4 = "vfpv4"
    IDIVA = "idiva"


@dataclass(frozen=True, slots=True)
class Arena:
    """A place in the context's arena, `offset` bytes from its start."""

    offset: int


@dataclass(frozen=True, slots=True)
class Constant:
    """A place in the constant blob."""

    offset: int


@dataclass(frozen=True, slots=True)
class Input:
    """The caller's buffer of input `index`."""

    index: int


@dataclass(frozen=True, slots=True)
class Output:
    """The caller's buffer of output `index`."""

    index: int


@dataclass(frozen=True, slots=True)
class Scratch:
    """A place in the executing thread's own scratch memory."""

    offset: int = 0


Operand = Arena | Constant | Input | Output | Scratch


@dataclass(frozen=True, slots=True)
class View:
    """Where the codes of a tensor lie and how: code at index i = stored[Σ i·strides] − storage_offset.

    `strides` count elements of `storage`; the element of index 0 lies at `place`. uint8 storage with
    `storage_offset=128` keeps int8 codes for unsigned×signed dot products. `packed`: the codes are -1 and +1,
    stored as bits 0 and 1; `strides` count bits, and rows of the last axis begin at whole bytes.
    """

    place: Arena | Output
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    storage: DType
    storage_offset: int = 0
    packed: bool = False

    def __post_init__(self) -> None:
        if self.packed and any(stride % 8 for stride in self.strides[:-1]):
            raise ValueError(f"packed rows begin at whole bytes, not {self.strides} bits apart")
        if len(self.shape) != len(self.strides):
            raise ValueError(f"view of shape {self.shape} has {len(self.strides)} strides")
        if any(size < 1 for size in self.shape) or any(stride < 0 for stride in self.strides):
            raise ValueError(
                f"view has shape {self.shape}, strides {self.strides}: sizes from 1, strides from 0"
            )
        if self.storage_offset and DType.FLOAT32 in (self.dtype, self.storage):
            raise ValueError("a float32 view has no storage offset")

    @staticmethod
    def dense(place: Arena | Output, dtype: DType, shape: tuple[int, ...]) -> "View":
        """C order, stored as it is."""
        strides = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return View(place, dtype, shape, strides, dtype)

    @property
    def extent_bytes(self) -> int:
        """From `place` to the end of the last element."""
        steps = zip(self.shape, self.strides, strict=True)
        elements = 1 + sum((size - 1) * stride for size, stride in steps)
        return -(-elements // 8) if self.packed else elements * self.storage.bytes


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel call: `int32_t kernel(operands..., int32_t begin, int32_t end)`, 0 for success.

    [begin, end) is a part of [0, tiles). Any division of that range, in any order and on any threads, must
    give the same result. `label` is unique in the library; `layer` names the model's nodes that the step came
    from. `result`, if given, is the step's output for inspection right after the step, while it is not yet
    overwritten. launches: what an OpenCL device runs in place of the kernel, with the same operands; copies:
    so many bytes are copied from the first operand to the second in place of a kernel.
    """

    kernel: str
    operands: tuple[Operand, ...]
    tiles: int
    label: str
    layer: str
    result: View | None = None
    launches: tuple[Launch, ...] = ()
    copies: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.tiles < 2**31:
            raise ValueError(f'step "{self.label}" has {self.tiles} tiles')


@dataclass(frozen=True, slots=True)
class Edge:
    """The integer side of a float32 port: real = scale · (code − zero_point).

    `step` quantizes the input (or dequantizes the output) and touches no other tensor; `run_quantized` moves
    codes between the caller's dense buffer and `codes` in its place. `codes.shape` is the port's shape.
    """

    step: int
    codes: View
    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: a dense buffer in C order. `layout` names the axes ("NCHW") for the reader.

    `dtype` is what `run` takes or gives. A port without an edge is the same for `run_quantized`; if such a
    port is itself of integer codes, `scale` and `zero_point` say what they mean. Kernels may assume
    `alignment_bytes`.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    layout: str = ""
    edge: Edge | None = None
    scale: float | None = None
    zero_point: int | None = None
    alignment_bytes: int = 0

    def __post_init__(self) -> None:
        if any(size < 1 for size in self.shape) or self.bytes >= 2**31:
            raise ValueError(f'port "{self.name}" has shape {self.shape}: sizes from 1, less than 2 GiB')
        if self.edge is not None and self.dtype is not DType.FLOAT32:
            raise ValueError(
                f'port "{self.name}" of {self.dtype.value} has a quantized edge; only float32 ports have'
            )

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * self.dtype.bytes

    @property
    def codes_dtype(self) -> DType:
        """What `run_quantized` takes or gives."""
        return self.edge.codes.dtype if self.edge else self.dtype

    @property
    def alignment(self) -> int:
        """Bytes that the address given to `run` must be a multiple of."""
        return max(self.alignment_bytes, self.dtype.bytes)

    @property
    def codes_alignment(self) -> int:
        """The same for `run_quantized`, which copies codes element by element."""
        return self.codes_dtype.bytes if self.edge else self.alignment

    @property
    def codes_scale(self) -> float | None:
        """Of the codes of `run_quantized`."""
        return self.edge.scale if self.edge else self.scale

    @property
    def codes_zero_point(self) -> int | None:
        return self.edge.zero_point if self.edge else self.zero_point

    @property
    def border(self) -> tuple[object, ...]:
        """All that a program sees of it."""
        codes = (self.codes_dtype, self.codes_alignment, self.codes_scale, self.codes_zero_point)
        return (self.name, self.dtype, self.shape, self.layout, self.alignment, *codes)


@dataclass(frozen=True, slots=True)
class Variant:
    """The steps of a library for one kind of CPU, in order of execution, over the constants and an arena of
    `arena_bytes`.

    inputs, outputs: the library's ports, with the places of their codes in this variant's arena.
    models: CPUs that it is tuned for, as `bl_cpu_model` numbers them; there it goes before variants that need
        as much.
    A kernel's name says what it computes, to the digest: two libraries in one program may share it.
    """

    name: str
    steps: tuple[Step, ...]
    arena_bytes: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    scratch_bytes_per_thread: int = 0
    cpu_features: tuple[CpuFeature, ...] = ()
    models: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[ -!#-\[\]-~]{1,63}", self.name):
            raise ValueError(f'variant name "{self.name}" is not 1 to 63 characters of a C string')
        if not self.steps:
            raise ValueError(f'variant "{self.name}" has no steps')
        for ports in (self.inputs, self.outputs):
            _unique("port", [port.name for port in ports])
        _unique("step", [step.label for step in self.steps])
        for step in self.steps:
            self._check_step(step)
        for index, port in enumerate(self.inputs):
            self._check_edge(port, Input(index))
        for index, port in enumerate(self.outputs):
            self._check_edge(port, Output(index))

    @property
    def borders(self) -> tuple[tuple[object, ...], ...]:
        """What a program sees of the ports, in which all variants of a library agree."""
        return tuple(port.border for port in (*self.inputs, *self.outputs))

    def _check_step(self, step: Step) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", step.kernel):
            raise ValueError(f'kernel "{step.kernel}" of step "{step.label}" is no C identifier')
        for operand in step.operands:
            if not self._exists(operand):
                raise ValueError(
                    f'step "{step.label}" uses {operand}, which lies outside the library\'s memory'
                )
        if step.result is not None:
            self._check_view(step.result, f'the result of step "{step.label}"')

    def _exists(self, operand: Operand) -> bool:
        match operand:
            case Arena(offset):
                return 0 <= offset < self.arena_bytes
            case Constant(offset):
                return offset >= 0  # the library checks the other end
            case Scratch(offset):
                return 0 <= offset < self.scratch_bytes_per_thread
            case Input(index):
                return 0 <= index < len(self.inputs)
            case Output(index):
                return 0 <= index < len(self.outputs)

    def _check_view(self, view: View, what: str) -> None:
        if not self._exists(view.place):
            raise ValueError(f"{what} lies at {view.place}, outside the library's memory")
        match view.place:
            case Arena(offset):
                room = self.arena_bytes - offset
            case Output(index):
                room = self.outputs[index].bytes
        if view.extent_bytes > room:
            raise ValueError(f"{what} takes {view.extent_bytes} bytes where {view.place} has {room}")

    def _check_edge(self, port: Port, operand: Input | Output) -> None:
        if port.edge is None:
            return
        users = [index for index, step in enumerate(self.steps) if operand in step.operands]
        if users != [port.edge.step]:
            raise ValueError(
                f'port "{port.name}": its edge is step {port.edge.step}, but steps {users} use the port'
            )
        if port.edge.codes.shape != port.shape:
            raise ValueError(f'port "{port.name}" is {port.shape}, its codes are {port.edge.codes.shape}')
        if not isinstance(port.edge.codes.place, Arena):
            raise ValueError(
                f'port "{port.name}": codes must lie in the arena, not at {port.edge.codes.place}'
            )
        self._check_view(port.edge.codes, f'the codes of port "{port.name}"')


@dataclass(frozen=True, slots=True)
class LibraryDescription:
    """A library: `constants` (the blob) and variants, those that need more of a CPU first.

    opencl: the source of all launches' kernels, in a library that has them; such a one has one variant.
    threads: where a caller leaves their number open, so many at most; 0 for as many as there are cores.
    """

    name: str
    constants: bytes
    variants: tuple[Variant, ...]
    opencl: str | None = None
    threads: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", self.name):
            raise ValueError(f'library name "{self.name}" is not a C identifier')
        if not self.variants:
            raise ValueError(f'library "{self.name}" has no variants')
        _unique("variant", [variant.name for variant in self.variants])
        needs = [len(variant.cpu_features) for variant in self.variants]
        if needs != sorted(needs, reverse=True):
            raise ValueError(f'library "{self.name}": variants that need more of a CPU come first')
        for variant in self.variants:
            if variant.borders != self.variants[0].borders:
                raise ValueError(f'variants "{variant.name}" and "{self.variants[0].name}" differ in a port')
            for step in variant.steps:
                self._check_constants(step)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The ports as any variant has them, but for the places of their codes."""
        return self.variants[0].inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        return self.variants[0].outputs

    @property
    def arena_bytes(self) -> int:
        """Of the variant that takes most."""
        return max(variant.arena_bytes for variant in self.variants)

    @property
    def scratch_bytes_per_thread(self) -> int:
        """Of the variant that takes most."""
        return max(variant.scratch_bytes_per_thread for variant in self.variants)

    def _check_constants(self, step: Step) -> None:
        for operand in step.operands:
            if isinstance(operand, Constant) and operand.offset >= len(self.constants):
                raise ValueError(
                    f'step "{step.label}" uses {operand}, which lies outside the library\'s memory'
                )


def _unique(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"more than one {what} is named {', '.join(twice)}")
