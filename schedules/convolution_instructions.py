"""Which vector code the dot products of a convolution take."""

from __future__ import annotations

from compiler.lowering.machine import CpuMachine, DotProduct
from schedules.convolution_layout import ConvolutionLayout
from schedules.intrinsics import PlainInstructions
from schedules.intrinsics_arm import NeonInstructions, SignedDot, SignedMatrix, WideningDot
from schedules.intrinsics_arm32 import Neon32Instructions, WideningDot32
from schedules.intrinsics_x86 import ByteDot, LiftedDot, PairDot, WordDot, X86Instructions


def instructions(plan: ConvolutionLayout) -> PlainInstructions:
    """Vector code for the plan's dot product."""
    match plan.geometry.dot.kind, plan.machine.dot:
        case DotProduct.VNNI, _:
            lift = plan.geometry.lift
            return LiftedDot(lift) if lift else ByteDot()
        case DotProduct.PMADDUBSW, _:
            return PairDot()
        case DotProduct.PMADDWD, native:
            return WordDot(fused=native is DotProduct.VNNI)
        case DotProduct.SDOT, _:
            return SignedDot()
        case DotProduct.SMMLA, _:
            return SignedMatrix()
        case DotProduct.SMLAL, _:
            return WideningDot()
        case DotProduct.VMLAL, _:
            return WideningDot32()
        case _, DotProduct.VMLAL:
            return Neon32Instructions()
        case _, DotProduct.SDOT | DotProduct.SMMLA | DotProduct.SMLAL:
            return NeonInstructions()
        case _:
            return PlainInstructions()


def arithmetic(machine: CpuMachine) -> PlainInstructions:
    """Vector code that rescales and narrows sums that come from elsewhere."""
    match machine.dot:
        case DotProduct.VNNI | DotProduct.PMADDWD | DotProduct.PMADDUBSW:
            return X86Instructions()
        case DotProduct.SDOT | DotProduct.SMMLA | DotProduct.SMLAL:
            return NeonInstructions()
        case DotProduct.VMLAL:
            return Neon32Instructions()
        case DotProduct.NONE:
            return PlainInstructions()
