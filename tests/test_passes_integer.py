"""Each pass on quantized graphs by a text before and a text after."""

from compiler.passes.requantize import CancelEdges, FuseRequantize
from tests.ir_text import check_pass

A, B = "<scale=0.5, zero_point=3>", "<scale=0.25, zero_point=-7>"


def test_edges_of_one_type_cancel() -> None:
    check_pass(
        CancelEdges(),
        f"""
        input %x: i8[4]{A}
        %r = dequantize(%x) : f32[4]
        %q = quantize(%r) {{to = i8{A}}} : i8[4]{A}
        %y = clip(%q) {{low = 0.0}} : i8[4]{A}
        output %y
        """,
        f"""
        input %x: i8[4]{A}
        %r = dequantize(%x) : f32[4]
        %y = clip(%x) {{low = 0.0}} : i8[4]{A}
        output %y
        """,
        rewrites=1,
    )


def test_edges_of_two_types_are_one_requantize() -> None:
    check_pass(
        CancelEdges(),
        f"""
        input %x: i8[4]{A}
        %r = dequantize(%x) : f32[4]
        %q = quantize(%r) {{to = i8{B}}} : i8[4]{B}
        output %q
        """,
        f"""
        input %x: i8[4]{A}
        %r = dequantize(%x) : f32[4]
        %q = requantize(%x) {{to = i8{B}}} : i8[4]{B}
        output %q
        """,
        rewrites=1,
    )


DENSE = """
        input %x: i8[1,2]<scale=0.5, zero_point=3>
        %w = [[1, 2], [3, 4]] : i8[2,2]<scale=[0.5, 0.25], axis=0>
        %b = [5, 6] : i32[2]<scale=[0.25, 0.125], axis=0>
"""


def test_a_requantize_joins_its_producer() -> None:
    check_pass(
        FuseRequantize(),
        DENSE
        + f"""
        %a = dense(%x, %w, %b) {{to = i8{A}}} : i8[1,2]{A} @("fc")
        %y = requantize(%a) {{to = i8{B}}} : i8[1,2]{B} @("joined")
        output %y
        """,
        DENSE
        + f"""
        %y = dense(%x, %w, %b) {{to = i8{B}}} : i8[1,2]{B} @("fc", "joined")
        output %y
        """,
        rewrites=1,
    )


def test_the_clamp_of_a_requantize_joins_too() -> None:
    check_pass(
        FuseRequantize(),
        DENSE
        + f"""
        %a = dense(%x, %w, %b) {{clamp = (0.0, inf), to = i8{A}}} : i8[1,2]{A} @("fc")
        %y = requantize(%a) {{to = i8{B}, clamp = (-1.0, 6.0)}} : i8[1,2]{B} @("clip")
        output %y
        """,
        DENSE
        + f"""
        %y = dense(%x, %w, %b) {{clamp = (0.0, 6.0), to = i8{B}}} : i8[1,2]{B} @("fc", "clip")
        output %y
        """,
        rewrites=1,
    )


def test_a_requantize_to_the_same_type_is_nothing() -> None:
    check_pass(
        FuseRequantize(),
        f"""
        input %x: i8[4]{A}
        %a = clip(%x) {{low = 0.0}} : i8[4]{A}
        %q = requantize(%a) {{to = i8{A}}} : i8[4]{A}
        %y = clip(%q) {{high = 6.0}} : i8[4]{A}
        output %y
        """,
        f"""
        input %x: i8[4]{A}
        %a = clip(%x) {{low = 0.0}} : i8[4]{A}
        %y = clip(%a) {{high = 6.0}} : i8[4]{A}
        output %y
        """,
        rewrites=1,
    )


def test_a_requantize_stays_where_the_first_codes_are_needed() -> None:
    text = (
        DENSE
        + f"""
        %a = dense(%x, %w, %b) {{to = i8{A}}} : i8[1,2]{A}
        %y = requantize(%a) {{to = i8{B}}} : i8[1,2]{B}
        output %y, %a
        """
    )
    check_pass(FuseRequantize(), text, text, rewrites=0)
