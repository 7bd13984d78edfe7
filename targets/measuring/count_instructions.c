/* A plugin for qemu's user emulation: how many instructions each function of a program executed.

   At the end it prints a line "symbol count" for every symbol, and those without one under "-". With the argument
   `marks` it prints, instead, "mark A B count" whenever a program makes the system call 0x6d61, which there is not,
   with the arguments A and B: count is of all instructions before it.
   Prototypes are declared here because distributions ship qemu without its plugin header. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t plugin_id;

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int operation, void *, uint64_t);
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id, void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                              uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *);
void qemu_plugin_outs(const char *);

enum { ADD_U64 = 0, MARK = 0x6d61 };

int qemu_plugin_version = 1;

struct counter {
    uint64_t executed;
    struct counter *next;
    char symbol[];
};
static struct counter *counters;

static struct counter *counter_of(const char *symbol) {
    for (struct counter *c = counters; c; c = c->next)
        if (!strcmp(c->symbol, symbol)) return c;
    struct counter *made = calloc(1, sizeof *made + strlen(symbol) + 1);
    if (!made) abort();
    strcpy(made->symbol, symbol);
    made->next = counters;
    return counters = made;
}

static void translated(plugin_id id, struct qemu_plugin_tb *block) {
    (void)id;
    const char *symbol = qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(block, 0));
    struct counter *counter = counter_of(symbol && *symbol ? symbol : "-");
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &counter->executed, qemu_plugin_tb_n_insns(block));
}

static void finished(plugin_id id, void *data) {
    (void)id, (void)data;
    for (struct counter *c = counters; c; c = c->next) {
        char line[512];
        snprintf(line, sizeof line, "%s %llu\n", c->symbol, (unsigned long long)c->executed);
        qemu_plugin_outs(line);
    }
}

static void called(plugin_id id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                   uint64_t f, uint64_t g, uint64_t h) {
    (void)id, (void)cpu, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    char line[128];
    uint64_t sum = 0;
    if (number != MARK) return;
    for (struct counter *made = counters; made; made = made->next) sum += made->executed;
    snprintf(line, sizeof line, "mark %llu %llu %llu\n", (unsigned long long)a, (unsigned long long)b, (unsigned long long)sum);
    qemu_plugin_outs(line);
}

int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    (void)info;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    if (argc > 0 && !strncmp(argv[0], "marks", 5))
        qemu_plugin_register_vcpu_syscall_cb(id, called);
    else
        qemu_plugin_register_atexit_cb(id, finished, NULL);
    return 0;
}
