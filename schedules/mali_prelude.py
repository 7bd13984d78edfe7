"""What stands in front of a library's kernels: dot products, decided on the host.

The macros of cl_arm_integer_dot_product are defined by compilers whose device lacks the instructions, so that
only the device's own list of extensions counts: the host passes one of the `DOT_…` below, or none.
"""

from __future__ import annotations

# In order of preference: extension, and the macro that the host defines where a device lists it.
DOT_PRODUCTS = (
    ("cl_arm_integer_dot_product_accumulate_int8", "DOT_ARM_ACCUMULATE"),
    ("cl_arm_integer_dot_product_int8", "DOT_ARM"),
    ("cl_khr_integer_dot_product", "DOT_KHR"),
)

PRELUDE = """\
/* a and b: char4; returns c + the sum of their products. A short holds the sum of two products, for no weight
 * is -128; three or four would not fit. */
#if defined(DOT_ARM_ACCUMULATE)
#if !defined(DOT_SHIM) /* tests give functions of their own for what no device at hand has */
#pragma OPENCL EXTENSION cl_arm_integer_dot_product_accumulate_int8 : enable
#endif
#define DOT4(a, b, c) arm_dot_acc(a, b, c)
#elif defined(DOT_ARM)
#if !defined(DOT_SHIM)
#pragma OPENCL EXTENSION cl_arm_integer_dot_product_int8 : enable
#endif
#define DOT4(a, b, c) (arm_dot(a, b) + (c))
#elif defined(DOT_KHR)
#if !defined(DOT_SHIM)
#define BL_DOT_KHR(a, b) dot(a, b)
#endif
#define DOT4(a, b, c) (BL_DOT_KHR(a, b) + (c))
#else
inline int bl_dot4(char4 a, char4 b, int c)
{
    const short4 p = convert_short4(a) * convert_short4(b);
    const short2 q = p.lo + p.hi;
    return c + q.s0 + q.s1;
}
inline int bl_dot16(char16 a, char16 b, int c)
{
    const short8 low = convert_short8(a.lo) * convert_short8(b.lo);
    const short8 p = low + convert_short8(a.hi) * convert_short8(b.hi);
    const int4 q = convert_int4(p.lo) + convert_int4(p.hi);
    const int2 r = q.lo + q.hi;
    return c + r.s0 + r.s1;
}
#define DOT4(a, b, c) bl_dot4(a, b, c)
#define DOT16(a, b, c) bl_dot16(a, b, c)
#endif
#if !defined(DOT16)
#define DOT8(a, b, c) DOT4((a).lo, (b).lo, DOT4((a).hi, (b).hi, c))
#define DOT16(a, b, c) \\
    DOT4((a).s0123, (b).s0123, DOT4((a).s4567, (b).s4567, DOT8((a).hi, (b).hi, c)))
#endif

/* 16 weights of 4 or 2 bits: weight i lies in byte i % 8 or i % 4, the first in the lowest bits. */
inline char16 bl_unpack4(char8 b)
{
    return (char16)((b << (char8)(4)) >> (char8)(4), b >> (char8)(4));
}
inline char16 bl_unpack2(char4 b)
{
    const char4 six = (char4)(6);
    return (char16)((b << six) >> six, (b << (char4)(4)) >> six, (b << (char4)(2)) >> six, b >> six);
}

/* The same for codes of 16 bits by weights of 8. */
inline int bl_dot8_short(short8 a, char8 b, int c)
{
    const int8 p = convert_int8(a) * convert_int8(b);
    const int4 q = p.lo + p.hi;
    const int2 r = q.lo + q.hi;
    return c + r.s0 + r.s1;
}

"""
