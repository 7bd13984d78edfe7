/* Which optional instructions this CPU and its operating system offer, and which CPU it is.
 *
 * Sources: Intel SDM vol. 2A, CPUID, and vol. 1 ch. 13 (XCR0); Linux arch/arm64 and arch/arm,
 * include/uapi/asm/hwcap.h;
 * Documentation/arch/arm64/cpu-feature-registers.rst; Apple, "Determining instruction set characteristics".
 */
#ifndef BITLOOM_CPU_H
#define BITLOOM_CPU_H

#include "bitloom_system.h"

#include <stdint.h>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

enum bl_cpu_feature {
    BL_CPU_SSE4_1,
    BL_CPU_SSE4_2,
    BL_CPU_MOVBE,
    BL_CPU_POPCNT,
    BL_CPU_AVX,
    BL_CPU_F16C,
    BL_CPU_FMA,
    BL_CPU_ABM,
    BL_CPU_BMI1,
    BL_CPU_AVX2,
    BL_CPU_BMI2,
    BL_CPU_GFNI,
    BL_CPU_VAES,
    BL_CPU_VPCLMULQDQ,
    BL_CPU_AVX_VNNI,
    BL_CPU_AVX512F,
    BL_CPU_AVX512DQ,
    BL_CPU_AVX512IFMA,
    BL_CPU_AVX512CD,
    BL_CPU_AVX512BW,
    BL_CPU_AVX512VL,
    BL_CPU_AVX512VBMI,
    BL_CPU_AVX512_VBMI2,
    BL_CPU_AVX512_VNNI,
    BL_CPU_AVX512_BITALG,
    BL_CPU_AVX512_VPOPCNTDQ,
    BL_CPU_AVX512_BF16,
    BL_CPU_AMX_TILE,
    BL_CPU_AMX_INT8,
    BL_CPU_ASIMD,
    BL_CPU_ATOMICS,
    BL_CPU_ASIMDHP,
    BL_CPU_ASIMDRDM,
    BL_CPU_ASIMDDP,
    BL_CPU_SVE,
    BL_CPU_I8MM,
    BL_CPU_NEON,
    BL_CPU_VFPV4,
    BL_CPU_IDIVA
};

#if defined(__x86_64__) || defined(__i386__)

enum { BL_EAX, BL_EBX, BL_ECX, BL_EDX };

/* State that the operating system must save, as bits of XCR0: SSE|AVX, with opmask, ZMM_Hi256, Hi16_ZMM, and with
 * XTILECFG, XTILEDATA. */
enum { BL_XCR0_NONE = 0, BL_XCR0_AVX = 0x06, BL_XCR0_AVX512 = 0xe6, BL_XCR0_AMX = 0x600e6 };

struct bl_cpuid_bit {
    uint32_t leaf;
    uint8_t subleaf, reg, bit;
    uint32_t xcr0;
};

/* Linux gives a process tile registers when it asks for them, and all its threads from then on: 8 KB more for each
 * context switch. It refuses where a thread's alternate signal stack is too small for them. Source: Linux
 * Documentation/arch/x86/xstate.rst. */
static inline int bl_tiles_are_granted(void)
{
#if defined(__linux__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
#else
    return 0;
#endif
}

static inline uint32_t bl_xcr0(void)
{
    uint32_t eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx >> 27 & 1)) /* OSXSAVE */
        return 0;
    __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return eax;
}

static inline int bl_cpu_has(enum bl_cpu_feature feature)
{
    static const struct bl_cpuid_bit bits[] = {
        [BL_CPU_SSE4_1] = {1, 0, BL_ECX, 19, BL_XCR0_NONE},
        [BL_CPU_SSE4_2] = {1, 0, BL_ECX, 20, BL_XCR0_NONE},
        [BL_CPU_MOVBE] = {1, 0, BL_ECX, 22, BL_XCR0_NONE},
        [BL_CPU_POPCNT] = {1, 0, BL_ECX, 23, BL_XCR0_NONE},
        [BL_CPU_AVX] = {1, 0, BL_ECX, 28, BL_XCR0_AVX},
        [BL_CPU_F16C] = {1, 0, BL_ECX, 29, BL_XCR0_AVX},
        [BL_CPU_FMA] = {1, 0, BL_ECX, 12, BL_XCR0_AVX},
        [BL_CPU_ABM] = {0x80000001, 0, BL_ECX, 5, BL_XCR0_NONE},
        [BL_CPU_BMI1] = {7, 0, BL_EBX, 3, BL_XCR0_NONE},
        [BL_CPU_AVX2] = {7, 0, BL_EBX, 5, BL_XCR0_AVX},
        [BL_CPU_BMI2] = {7, 0, BL_EBX, 8, BL_XCR0_NONE},
        [BL_CPU_GFNI] = {7, 0, BL_ECX, 8, BL_XCR0_NONE},
        [BL_CPU_VAES] = {7, 0, BL_ECX, 9, BL_XCR0_AVX},
        [BL_CPU_VPCLMULQDQ] = {7, 0, BL_ECX, 10, BL_XCR0_AVX},
        [BL_CPU_AVX_VNNI] = {7, 1, BL_EAX, 4, BL_XCR0_AVX},
        [BL_CPU_AVX512F] = {7, 0, BL_EBX, 16, BL_XCR0_AVX512},
        [BL_CPU_AVX512DQ] = {7, 0, BL_EBX, 17, BL_XCR0_AVX512},
        [BL_CPU_AVX512IFMA] = {7, 0, BL_EBX, 21, BL_XCR0_AVX512},
        [BL_CPU_AVX512CD] = {7, 0, BL_EBX, 28, BL_XCR0_AVX512},
        [BL_CPU_AVX512BW] = {7, 0, BL_EBX, 30, BL_XCR0_AVX512},
        [BL_CPU_AVX512VL] = {7, 0, BL_EBX, 31, BL_XCR0_AVX512},
        [BL_CPU_AVX512VBMI] = {7, 0, BL_ECX, 1, BL_XCR0_AVX512},
        [BL_CPU_AVX512_VBMI2] = {7, 0, BL_ECX, 6, BL_XCR0_AVX512},
        [BL_CPU_AVX512_VNNI] = {7, 0, BL_ECX, 11, BL_XCR0_AVX512},
        [BL_CPU_AVX512_BITALG] = {7, 0, BL_ECX, 12, BL_XCR0_AVX512},
        [BL_CPU_AVX512_VPOPCNTDQ] = {7, 0, BL_ECX, 14, BL_XCR0_AVX512},
        [BL_CPU_AVX512_BF16] = {7, 1, BL_EAX, 5, BL_XCR0_AVX512},
        [BL_CPU_AMX_TILE] = {7, 0, BL_EDX, 24, BL_XCR0_AMX},
        [BL_CPU_AMX_INT8] = {7, 0, BL_EDX, 25, BL_XCR0_AMX},
    };
    uint32_t registers[4];
    struct bl_cpuid_bit where;

    if ((unsigned)feature >= sizeof bits / sizeof bits[0])
        return 0; /* a feature of another architecture */
    where = bits[feature];
    if (!__get_cpuid_count(where.leaf, where.subleaf, &registers[BL_EAX], &registers[BL_EBX], &registers[BL_ECX],
                           &registers[BL_EDX]))
        return 0;
    if (!(registers[where.reg] >> where.bit & 1))
        return 0;
    if ((bl_xcr0() & where.xcr0) != where.xcr0)
        return 0;
    return where.xcr0 != BL_XCR0_AMX || bl_tiles_are_granted();
}

/* The vendor: the first four letters of its name, the first in the lowest byte. */
static inline uint32_t bl_cpu_model(void)
{
    uint32_t eax, ebx = 0, ecx, edx;
    return __get_cpuid(0, &eax, &ebx, &ecx, &edx) ? ebx : 0;
}

#elif defined(__aarch64__) && defined(__linux__)

/* The numbers are the kernel's ABI; older C libraries lack the newer HWCAP names. */
static inline int bl_cpu_has(enum bl_cpu_feature feature)
{
    switch (feature) {
    case BL_CPU_ASIMD:
        return getauxval(AT_HWCAP) >> 1 & 1;
    case BL_CPU_ATOMICS:
        return getauxval(AT_HWCAP) >> 8 & 1;
    case BL_CPU_ASIMDHP:
        return getauxval(AT_HWCAP) >> 10 & 1;
    case BL_CPU_ASIMDRDM:
        return getauxval(AT_HWCAP) >> 12 & 1;
    case BL_CPU_ASIMDDP:
        return getauxval(AT_HWCAP) >> 20 & 1;
    case BL_CPU_SVE:
        return getauxval(AT_HWCAP) >> 22 & 1;
    case BL_CPU_I8MM:
        return getauxval(AT_HWCAP2) >> 13 & 1;
    default:
        return 0;
    }
}

/* Implementer and part of the core that this thread runs on, as implementer * 65536 + part; 0 where Linux does not let
 * programs read the register. */
static inline uint32_t bl_cpu_model(void)
{
    uint64_t midr;
    if (!(getauxval(AT_HWCAP) >> 11 & 1)) /* HWCAP_CPUID */
        return 0;
    __asm__("mrs %0, MIDR_EL1" : "=r"(midr));
    return (uint32_t)(midr >> 24 & 0xff) << 16 | (uint32_t)(midr >> 4 & 0xfff);
}

#elif defined(__arm__) && defined(__linux__)

static inline int bl_cpu_has(enum bl_cpu_feature feature)
{
    switch (feature) {
    case BL_CPU_NEON:
        return getauxval(AT_HWCAP) >> 12 & 1;
    case BL_CPU_VFPV4:
        return getauxval(AT_HWCAP) >> 16 & 1;
    case BL_CPU_IDIVA:
        return getauxval(AT_HWCAP) >> 17 & 1;
    default:
        return 0;
    }
}

static inline uint32_t bl_cpu_model(void)
{
    return 0; /* only the system may read it */
}

#elif defined(__aarch64__) && defined(__APPLE__)

static inline int bl_sysctl_flag(const char *name)
{
    int value = 0;
    size_t bytes = sizeof value;
    return sysctlbyname(name, &value, &bytes, 0, 0) == 0 && value != 0;
}

static inline int bl_cpu_has(enum bl_cpu_feature feature)
{
    switch (feature) {
    case BL_CPU_ASIMD:
        return 1; /* every 64-bit Apple CPU */
    case BL_CPU_ATOMICS:
        return bl_sysctl_flag("hw.optional.arm.FEAT_LSE");
    case BL_CPU_ASIMDHP:
        return bl_sysctl_flag("hw.optional.arm.FEAT_FP16");
    case BL_CPU_ASIMDRDM:
        return bl_sysctl_flag("hw.optional.arm.FEAT_RDM");
    case BL_CPU_ASIMDDP:
        return bl_sysctl_flag("hw.optional.arm.FEAT_DotProd");
    case BL_CPU_I8MM:
        return bl_sysctl_flag("hw.optional.arm.FEAT_I8MM");
    default:
        return 0;
    }
}

static inline uint32_t bl_cpu_model(void)
{
    return 0;
}

#else

static inline int bl_cpu_has(enum bl_cpu_feature feature)
{
    (void)feature;
    return 0;
}

static inline uint32_t bl_cpu_model(void)
{
    return 0;
}

#endif
#endif
