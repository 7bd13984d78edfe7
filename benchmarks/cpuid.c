/* Makes CPUID report fewer features to this process, so that a library that asks it takes slower kernels.

   Linux on a processor with CPUID faulting lets a thread give CPUID up (arch_prctl): the instruction then
   raises SIGSEGV, and the handler answers in its place. Threads inherit that; programs started by exec do
   not. Features are only hidden: their instructions still work, and code that asked before, as the dynamic
   linker did, is not limited. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { ARCH_SET_CPUID = 0x1012 };
enum { EAX, EBX, ECX, EDX, REGISTERS };

typedef struct {
    uint32_t leaf, subleaf, hidden[REGISTERS];
} rule;

static const rule *rules;
static int rule_count;
static struct sigaction before;

static void answer(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)registers[REG_RIP];
    /* A general protection fault: any other one has an address of its own, and code may not be readable. */
    if (info->si_code != SI_KERNEL || code[0] != 0x0f || code[1] != 0xa2) {
        sigaction(signal, &before, 0); /* the instruction faults again, for whoever was here before */
        return;
    }
    uint32_t leaf = registers[REG_RAX], subleaf = registers[REG_RCX], found[REGISTERS];
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
    __cpuid_count(leaf, subleaf, found[EAX], found[EBX], found[ECX], found[EDX]);
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    for (int r = 0; r < rule_count; r++)
        if (rules[r].leaf == leaf && rules[r].subleaf == subleaf)
            for (int i = 0; i < REGISTERS; i++) found[i] &= ~rules[r].hidden[i];
    registers[REG_RAX] = found[EAX];
    registers[REG_RBX] = found[EBX];
    registers[REG_RCX] = found[ECX];
    registers[REG_RDX] = found[EDX];
    registers[REG_RIP] += 2;
}

/* Hides bits from this thread and those that it starts from now on. The rules stay the caller's and must
   live on. Returns 0, or errno: ENODEV where the processor or the hypervisor has no CPUID faulting. */
int limit_cpuid(const rule *given, int count) {
    struct sigaction action = {0};
    rules = given;
    rule_count = count;
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    if (sigaction(SIGSEGV, &action, &before)) return errno;
    if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) {
        int reason = errno;
        sigaction(SIGSEGV, &before, 0);
        return reason;
    }
    return 0;
}

/* What CPUID answers here, limited or not: eax, ebx, ecx, edx. */
void read_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t *found) {
    __cpuid_count(leaf, subleaf, found[EAX], found[EBX], found[ECX], found[EDX]);
}
