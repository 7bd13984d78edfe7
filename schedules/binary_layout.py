"""Layout of a kernel of bipolar codes: what planning, packing and code generation agree on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from compiler.lowering.kernel import structural_digest
from compiler.numerics.element import Array
from schedules.binary_geometry import WORD, binary_geometry
from schedules.binary_packing import border_count, border_offsets, pack_biases, pack_weight_bits
from schedules.convolution_geometry import Geometry
from schedules.convolution_layout import ConvolutionLayout
from schedules.convolution_packing import Parameter, pack_channels, pack_parameters


@dataclass(frozen=True)
class BinaryLayout(ConvolutionLayout):
    """`form` counts channels, `geometry` bytes of them.

    Operands besides those of other convolutions: `biases` for each pair of borders (see
    `schedules.binary_packing`) and, where the image is padded, the `borders` of each row and column.
    """

    @cached_property
    def geometry(self) -> Geometry:
        return binary_geometry(self.form)

    @property
    def symbol(self) -> str:
        form, config = self.form, self.config
        dense = form.in_height == form.kernel_height == form.kernel_width == 1 and form.in_width == 1
        tile = f"{config.rows * config.columns}x{config.vectors * config.lanes}"
        operator = "dense" if dense else "conv2d"
        digest = structural_digest(form, self.machine, config)[:8]
        return f"b1_{operator}_{tile}_{self.machine.name}_{digest}"

    @property
    def operands(self) -> tuple[str, ...]:
        channels = ("channels",) if self.form.requantizes else ()
        padding = ("borders", "scratch") if self.geometry.padded else ()
        return ("input", "weight", "biases", *channels, "parameters", "output", *padding)

    @property
    def panel_width(self) -> int:
        """Output channels of a whole panel."""
        return self.config.vectors * self.config.lanes

    @property
    def bias_width(self) -> int:
        """Lanes of the biases of one pair of borders."""
        return self.panels * self.panel_width

    def operand_type(self, name: str) -> tuple[int, str]:
        form = self.form
        match name:
            case "biases":
                return border_count(form) * self.bias_width, "int32"
            case "parameters":
                return len(Parameter), "int32"
            case "borders":
                return form.out_height + form.out_width, "int32"
            case _:
                return super().operand_type(name)

    @property
    def vector_bytes(self) -> int:
        return self.config.lanes * WORD

    def pack(self, constants: Mapping[str, Array]) -> dict[str, Array]:
        """weight, biases, channels, parameters and borders, as far as there are such operands."""
        g, c = self.geometry, self.config
        parameters = pack_parameters(constants, g, self.machine)
        parameters[Parameter.PADDING] = 0
        packed = {
            "weight": pack_weight_bits(constants["weight"], g, c.lanes, c.vectors),
            "biases": pack_biases(constants, self.form, self.bias_width),
            "parameters": parameters,
        }
        if self.form.requantizes:
            packed["channels"] = pack_channels(constants, g, self.machine, c.lanes, c.vectors)
        if g.padded:
            packed["borders"] = border_offsets(self.form, self.bias_width)
        return packed
