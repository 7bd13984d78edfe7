/* Kernels without work: how fast a board's clock is, and how many products of 8 bits an instruction makes at most.
 *
 * Each leaves its operand alone. One for an instruction that the CPU lacks is ended by SIGILL, which is the answer. */
#include <stdint.h>

enum { ROUNDS = 1 << 14 };

#define FOUR(x) x x x x
#define SIXTEEN(x) FOUR(FOUR(x))

/* 16 additions a round, each of which waits for the one before. Not of immediates: some cores add those while they
   rename registers, several in a cycle. */
int32_t bitloom_probe_clock(void *operand, int32_t begin, int32_t end)
{
    uintptr_t sum = (uintptr_t)operand, one = 1;

    for (int i = begin; i < end * ROUNDS; i++)
#if defined(__x86_64__)
        __asm__ volatile(SIXTEEN("add %1, %0\n") : "+r"(sum) : "r"(one));
#else
        __asm__ volatile(SIXTEEN("add %0, %0, %1\n") : "+r"(sum) : "r"(one));
#endif
    return sum == 0;
}

/* 16 independent accumulators, so that latencies are hidden. */
#if defined(__aarch64__)
#define ALL(f) f("0") f("1") f("2") f("3") f("4") f("5") f("6") f("7") f("8") f("9") f("10") f("11") f("12") f("13") \
    f("14") f("15")
#define CLOBBERED "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", \
    "v16", "v17", "v18", "v19"
#define SDOT(n) "sdot v" n ".4s, v16.16b, v17.16b\n"
#define SMMLA(n) "smmla v" n ".4s, v16.16b, v17.16b\n"
#define WIDEN(n) "smull v18.8h, v16.8b, v17.8b\nsmlal2 v18.8h, v16.16b, v17.16b\nsadalp v" n ".4s, v18.8h\n"

#define PROBE(name, one, arch)                                             \
    int32_t bitloom_probe_##name(void *operand, int32_t begin, int32_t end) \
    {                                                                      \
        (void)operand;                                                     \
        for (int i = begin; i < end * ROUNDS; i++)                         \
            __asm__ volatile(arch ALL(one)::: CLOBBERED);                  \
        return 0;                                                          \
    }
PROBE(sdot, SDOT, ".arch armv8.2-a+dotprod\n")
PROBE(smmla, SMMLA, ".arch armv8.6-a+i8mm\n")
PROBE(smlal, WIDEN, "")
#elif defined(__x86_64__)
#define ALL(f) f("0") f("1") f("2") f("3") f("4") f("5") f("6") f("7") f("8") f("9") f("10") f("11")
#define CLOBBERED "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
    "xmm12", "xmm13"
#define WIDE(n) "vpdpbusd %%zmm12, %%zmm13, %%zmm" n "\n"
#define NARROW(n) "%{vex%} vpdpbusd %%ymm12, %%ymm13, %%ymm" n "\n"
#define PAIRS(n) "vpmaddwd %%ymm12, %%ymm13, %%ymm" n "\n"

#define PROBE(name, one)                                                   \
    int32_t bitloom_probe_##name(void *operand, int32_t begin, int32_t end) \
    {                                                                      \
        (void)operand;                                                     \
        for (int i = begin; i < end * ROUNDS; i++)                         \
            __asm__ volatile(ALL(one) : : "r"(0) : CLOBBERED);             \
        __asm__ volatile("vzeroupper" : : : CLOBBERED);                    \
        return 0;                                                          \
    }
PROBE(avx512vnni, WIDE)
PROBE(avxvnni, NARROW)
PROBE(pmaddwd, PAIRS)
#endif
