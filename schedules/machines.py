"""The CPUs that schedules are written for, and which of them this computer is."""

from __future__ import annotations

from compiler.lowering.machine import CpuMachine, DotProduct

AVX512_VNNI = CpuMachine(
    name="avx512vnni",
    target=(("kind", "llvm"), ("mcpu", "znver4")),
    dot=DotProduct.VNNI,
    vector_bits=512,
    vector_registers=32,
    activation_offset=128,
    l1_bytes=32 << 10,
    l2_bytes=1 << 20,
    required_features=("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"),
)
