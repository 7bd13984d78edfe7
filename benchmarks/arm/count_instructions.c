/* A plugin for qemu's user emulation: how many instructions each function of a program executed.

   At the end it prints a line "symbol count" for every symbol, and those without one under "-".
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
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *);
void qemu_plugin_outs(const char *);

enum { ADD_U64 = 0 };

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

int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finished, NULL);
    return 0;
}
