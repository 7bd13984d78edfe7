"""A convolution as an implicit matrix product: how its operands are walked, without any code.

The reduction runs over segments (one per kernel row, or per kernel tap) of `run` neighbouring
elements; where the kernel's columns touch each other in memory a whole kernel row is one segment, so
that an image of one or three channels needs no im2col. A segment is cut into steps of as many products
as the dot product sums. Weights beyond the run are zero, so reading up to a step past it is harmless.
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.loops.form import Convolution
from compiler.lowering.machine import CpuMachine, DotProduct
from compiler.numerics.element import ElementType


@dataclass(frozen=True, slots=True)
class DotShape:
    """What one dot-product instruction consumes per int32 lane.

    products: activations (and weights) per lane; activation: dtype in which it takes them.
    """

    kind: DotProduct
    products: int
    activation: str


def storage_dtype(element: ElementType, machine: CpuMachine) -> str:
    """dtype of stored activations of `element`: 8-bit codes are uint8 where the machine offsets them."""
    if element is ElementType.I8:
        return "uint8" if machine.activation_offset else "int8"
    return element.dtype.name


def dot_shape(form: Convolution, machine: CpuMachine) -> DotShape:
    """The best dot product of the machine that is exact for the form's input type."""
    stored = storage_dtype(form.input, machine)
    match machine.dot:
        case DotProduct.VNNI if stored == "uint8":
            return DotShape(DotProduct.VNNI, 4, "uint8")
        case DotProduct.PMADDWD if stored == "uint8":
            return DotShape(DotProduct.PMADDUBSW, 4, "uint8")
        case DotProduct.VNNI | DotProduct.PMADDWD:
            return DotShape(DotProduct.PMADDWD, 2, "int16")
        case DotProduct.SDOT if stored == "int8":
            return DotShape(DotProduct.SDOT, 4, "int8")
        case DotProduct.SMMLA if stored == "int8":
            return DotShape(DotProduct.SMMLA, 8, "int8")
        case DotProduct.SMLAL | DotProduct.VMLAL if stored == "int8":
            return DotShape(machine.dot, 16, "int8")
        case _:
            return _plain(stored)


def _plain(stored: str) -> DotShape:
    return DotShape(DotProduct.NONE, 1, stored)


# Runs up to this length leave most of SMLAL's products unused.
_SHORT_RUN = 4


@dataclass(frozen=True, slots=True)
class Geometry:
    """Derived sizes; pitches are in elements.

    images, height, width: the grid of output pixels. flat: a pointwise convolution, whose grid is one
    row of all pixels of the batch.
    copies: input rows are copied to scratch first, with padding around them or widened to int16.
    segment_rows, segment_columns, run: the reduction; pixel_pitch, row_pitch: of what the kernel reads.
    in_rows, in_columns: input pixels that a whole image of output reads (with padding).
    """

    form: Convolution
    dot: DotShape
    stored: str
    flat: bool
    images: int
    height: int
    width: int
    stride: tuple[int, int]
    copies: bool
    padded: bool
    segment_rows: int
    segment_columns: int
    run: int

    @property
    def fields(self) -> int:
        """Reduction steps whose weights share one vector of bytes."""
        return max(1, 8 // self.form.weight.bits)

    @property
    def lift(self) -> int:
        """Bits by which a narrow weight is multiplied while it stays at the top of its byte, and its sum of
        products with it, as long as that fits; 0 where weights are unpacked to their value."""
        element = self.form.weight
        if self.dot.kind is not DotProduct.VNNI or element not in (ElementType.I4, ElementType.I2):
            return 0
        lift = 8 - element.bits
        largest = self.form.taps * 255 * (element.weight_limit << lift)
        return lift if largest < 1 << 31 else 0

    @property
    def steps(self) -> int:
        """Dot-product steps per segment."""
        return -(-self.run // self.dot.products)

    @property
    def step_groups(self) -> int:
        """Vectors of packed weights per segment and vector of channels."""
        return -(-self.steps // self.fields)

    @property
    def ends_in_half(self) -> bool:
        """Whether a segment's last step has products in its first half alone, and SMLAL can stop there."""
        rest = self.run % self.dot.products
        return self.dot.kind in (DotProduct.SMLAL, DotProduct.VMLAL) and 0 < rest <= self.dot.products // 2

    @property
    def peels(self) -> bool:
        """Whether a segment's last group of steps is emitted by itself: it stops early, or is masked."""
        short = self.form.weight.bits < 8 and self.run % (self.dot.products * self.fields) != 0
        return short or self.ends_in_half

    @property
    def segments(self) -> int:
        return self.segment_rows * self.segment_columns

    @property
    def sorts_steps(self) -> bool:
        """Whether the steps of a panel come in the order of `convolution_pairs`."""
        return self.dot.kind is DotProduct.PMADDUBSW and self.form.weight.bits == 8

    @property
    def group_inputs(self) -> int:
        return self.form.in_channels // self.form.groups

    @property
    def group_outputs(self) -> int:
        return self.form.out_channels // self.form.groups

    @property
    def input_pitch(self) -> int:
        return self.form.input_pitch or self.form.in_channels

    @property
    def output_pitch(self) -> int:
        return self.form.output_pitch or self.form.out_channels

    @property
    def pixel_pitch(self) -> int:
        return self.form.in_channels if self.copies else self.input_pitch

    def rows_read(self, rows: int) -> int:
        """Input rows behind `rows` rows of output."""
        return (rows - 1) * self.stride[0] + (self.form.kernel_height - 1) * self.form.dilation[0] + 1

    def columns_read(self, columns: int) -> int:
        """Input columns behind `columns` columns of output."""
        return (columns - 1) * self.stride[1] + (self.form.kernel_width - 1) * self.form.dilation[1] + 1


def geometry(form: Convolution, machine: CpuMachine) -> Geometry:
    """Errors: ValueError for element types that no kernel takes."""
    if form.input not in (ElementType.I8, ElementType.I16):
        raise ValueError(f"a convolution reads i8 or i16 activations, not {form.input.value}")
    check_output(form)
    if form.weight.bits > 8:
        raise ValueError(f"a convolution takes weights of at most 8 bits, not {form.weight.value}")
    return walk(form, dot_shape(form, machine), storage_dtype(form.input, machine))


def check_output(form: Convolution) -> None:
    """Errors: ValueError for a result that no kernel writes."""
    if form.output not in (ElementType.B1, ElementType.I8, ElementType.I16, ElementType.I32):
        raise ValueError(f"a convolution writes b1, i8, i16 or i32, not {form.output.value}")
    if form.output is ElementType.B1 and (form.groups != 1 or form.output_pitch is not None):
        raise ValueError("b1 results have one group of channels, and are no slice of a wider tensor")


def walk(form: Convolution, dot: DotShape, stored: str) -> Geometry:
    """How the operands of a form are walked by a dot product, activations lying in memory as `stored`."""
    padded = _is_padded(form)
    copies = padded or dot.activation != stored
    flat = _is_pointwise(form)
    pitch = form.in_channels if copies else (form.input_pitch or form.in_channels)
    touching = form.groups == 1 and form.dilation[1] == 1 and pitch == form.in_channels
    inputs = form.in_channels // form.groups
    run = inputs * form.kernel_width if touching else inputs
    if dot.kind in (DotProduct.SMLAL, DotProduct.VMLAL) and run <= _SHORT_RUN:
        dot = _plain(stored)
    pixels = form.batch * form.out_height * form.out_width
    return Geometry(
        form=form,
        dot=dot,
        stored=stored,
        flat=flat,
        images=1 if flat else form.batch,
        height=1 if flat else form.out_height,
        width=pixels if flat else form.out_width,
        stride=(1, 1) if flat else form.stride,
        copies=copies,
        padded=padded,
        segment_rows=form.kernel_height,
        segment_columns=1 if touching else form.kernel_width,
        run=run,
    )


def _is_padded(form: Convolution) -> bool:
    """Whether some tap of some output pixel lies outside the image."""
    rows = (form.out_height - 1) * form.stride[0] + (form.kernel_height - 1) * form.dilation[0] + 1
    columns = (form.out_width - 1) * form.stride[1] + (form.kernel_width - 1) * form.dilation[1] + 1
    outside = rows - form.pad[0] > form.in_height or columns - form.pad[1] > form.in_width
    return outside or form.pad != (0, 0)


def _is_pointwise(form: Convolution) -> bool:
    """Whether output pixel i reads input pixel i only, over the whole batch."""
    same = (form.out_height, form.out_width) == (form.in_height, form.in_width)
    return (
        (form.kernel_height, form.kernel_width) == (1, 1)
        and (form.stride == (1, 1) or (form.out_height, form.out_width) == (1, 1))
        and form.pad == (0, 0)
        and same
    )
