"""TIR that copies the input rows behind a share to scratch: padded, pitch removed, widened if need be."""

from __future__ import annotations

from collections.abc import Callable

from schedules.convolution_geometry import Geometry
from schedules.convolution_packing import Parameter
from schedules.intrinsics import Buffer, Expr, broadcast, cast, load, store, tir, tirx

# Vectors of 256 bits copy as fast as wider ones and every machine can split them.
_COPY_BYTES = 32


def copy_rows(
    g: Geometry,
    scratch_row: int,
    operands: dict[str, Buffer],
    origin: tuple[Expr, Expr, Expr],
    extent: tuple[Expr, Expr],
) -> None:
    """Fills scratch with the input behind output pixels [row, row + rows) x [column, column + columns).

    scratch_row: elements of a row in scratch. origin: image, row, column of the output grid; extent: rows,
    columns. Blocks of columns occur only in flat grids; otherwise scratch rows are whole rows of the image
    with their padding.
    """
    _RowCopy(g, scratch_row, operands).emit(origin, extent)


class _RowCopy:
    def __init__(self, g: Geometry, scratch_row: int, operands: dict[str, Buffer]) -> None:
        self.g, self.form, self.row_pitch = g, g.form, scratch_row
        self.source, self.target = operands["input"], operands["scratch"]
        self.zero = operands["parameters"][int(Parameter.PADDING)]
        self.dtype = self.g.dot.activation

    def emit(self, origin: tuple[Expr, Expr, Expr], extent: tuple[Expr, Expr]) -> None:
        image, row, column = origin
        rows, columns = extent
        form, channels = self.form, self.form.in_channels
        if self.g.flat:
            with tir.serial(0, columns) as pixel:
                self._copy(pixel * channels, (column + pixel) * self.g.input_pitch, channels)
            return
        reach = (form.kernel_height - 1) * form.dilation[0] + 1
        with tir.serial(0, (rows - 1) * self.g.stride[0] + reach) as r:
            y = tir.Bind(row * self.g.stride[0] + r - form.pad[0])
            target = tir.Bind(r * self.row_pitch)
            source = (image * form.in_height + y) * form.in_width * self.g.input_pitch
            if not self.g.padded:
                self._inside(target, source)
                return
            with tir.If(tirx.all(y >= 0, y < form.in_height)):
                with tir.Then():
                    self._inside(target, source)
                with tir.Else():
                    self._fill(target, self.row_pitch)

    def _inside(self, target: Expr, source: Expr) -> None:
        """One row of the image, with the padding beside it."""
        form, channels = self.form, self.form.in_channels
        total = self.row_pitch // channels
        left = min(form.pad[1], total)
        pixels = max(0, min(total - left, form.in_width))
        self._fill(target, left * channels)
        if self.g.input_pitch == channels:
            self._copy(target + left * channels, source, pixels * channels)
        else:
            with tir.serial(0, pixels) as p:
                self._copy(target + (left + p) * channels, source + p * self.g.input_pitch, channels)
        self._fill(target + (left + pixels) * channels, (total - left - pixels) * channels)

    def _copy(self, target: Expr, source: Expr, count: int) -> None:
        def move(offset: Expr, lanes: int) -> None:
            value = load(self.source, source + offset, self.g.stored, lanes)
            value = value if self.dtype == self.g.stored else cast(self.dtype, lanes, value)
            store(self.target, target + offset, value, lanes)

        self._in_pieces(count, move)

    def _fill(self, target: Expr, count: int) -> None:
        zero = tirx.Cast(self.dtype, self.zero)
        self._in_pieces(
            count, lambda offset, lanes: store(self.target, target + offset, broadcast(zero, lanes), lanes)
        )

    def _in_pieces(self, count: int, move: Callable[[Expr, int], None]) -> None:
        """move(offset, lanes) over [0, count) in powers of two; the last piece overlaps its neighbour."""
        if not count:
            return
        piece = min(_COPY_BYTES, 1 << (count.bit_length() - 1))
        with tir.serial(0, count // piece) as i:
            move(i * piece, piece)
        if count % piece:
            move(count - piece, piece)
