/* Runs a network's driver once on a device behind a mapped file:
 *     main FILE COMMANDS_AT SRAM_AT DRAM_AT commands constants inputs outputs POLLS MODE
 * inputs and outputs are all arrays, one behind the other. A step of the host goes to standard output: its number and
 * its operands in C order; results come back on standard input. Ends with what the driver returned, after a line of its
 * account on standard error.
 */
#define _POSIX_C_SOURCE 200809L
#include BL_HEADER

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PASTE(a, b) a##_##b
#define NAMED(a, b) PASTE(a, b)
#define OWN(what) NAMED(BL_NAME, what)

enum { BROKEN = 99 };

static void *file(const char *path, size_t *bytes)
{
    FILE *stream = fopen(path, "rb");
    long size;
    void *data;

    if (!stream || fseek(stream, 0, SEEK_END) != 0 || (size = ftell(stream)) < 0)
        exit(BROKEN);
    rewind(stream);
    data = malloc((size_t)size + 1);
    if (!data || fread(data, 1, (size_t)size, stream) != (size_t)size)
        exit(BROKEN);
    fclose(stream);
    *bytes = (size_t)size;
    return data;
}

static void nap(void *user)
{
    struct timespec time = {0, 200000};
    (void)user;
    nanosleep(&time, NULL);
}

static void transfer(const struct bl_npu_operand *x, uint32_t axis, unsigned char *at, int reads)
{
    if (axis == x->rank) {
        if (reads ? fread(at, x->bytes, 1, stdin) != 1 : fwrite(at, x->bytes, 1, stdout) != 1)
            exit(BROKEN);
        return;
    }
    for (uint32_t i = 0; i < x->shape[axis]; i++)
        transfer(x, axis + 1, at + (int64_t)i * x->strides[axis] * (int64_t)x->bytes, reads);
}

static int ask(void *user, const struct bl_npu_call *call)
{
    (void)user;
    fwrite(&call->step, sizeof call->step, 1, stdout);
    for (uint32_t i = 0; i < call->input_count; i++)
        transfer(&call->inputs[i], 0, call->inputs[i].data, 0);
    fflush(stdout);
    for (uint32_t i = 0; i < call->output_count; i++)
        transfer(&call->outputs[i], 0, call->outputs[i].data, 1);
    return 0;
}

static int refuse(void *user, const struct bl_npu_call *call)
{
    (void)user;
    (void)call;
    return 1;
}

/* What a fault in the command memory would do. */
static void spoil(struct bl_npu *npu, size_t bytes, const char *mode)
{
    for (size_t i = 0; i < bytes; i += 16) {
        if (strcmp(mode, "no-tokens") == 0)
            *(uint32_t *)(void *)(npu->commands + i) |= 0x0fffff00; /* waits and posts: none */
        else if (strcmp(mode, "no-halt") == 0)
            memcpy(npu->commands + i, npu->commands, 16);
    }
}

int main(int count, char **given)
{
    static _Alignas(16) unsigned char host[OWN(host_bytes)];
    static const size_t input_bytes[] = {INPUT_BYTES}, output_bytes[] = {OUTPUT_BYTES};
    const void *in[OWN(input_count)];
    void *out[OWN(output_count)];
    size_t command_bytes, constant_bytes, bytes;
    struct stat found;
    int device, status;

    if (count != 11 || (device = open(given[1], O_RDWR)) < 0 || fstat(device, &found) != 0)
        return BROKEN;
    unsigned char *memory = mmap(NULL, (size_t)found.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
    if (memory == MAP_FAILED)
        return BROKEN;
    const char *mode = given[10];
    struct bl_npu npu = {
        .registers = (volatile uint32_t *)(void *)memory,
        .commands = memory + strtoull(given[2], NULL, 10),
        .sram = memory + strtoull(given[3], NULL, 10),
        .dram = memory + strtoull(given[4], NULL, 10),
        .host = host,
        .poll_limit = strtoull(given[9], NULL, 10),
        .pause = nap,
        .compute = strcmp(mode, "no-host") == 0 ? NULL : strcmp(mode, "host-fails") == 0 ? refuse : ask,
    };
    unsigned char *commands = file(given[5], &command_bytes), *constants = file(given[6], &constant_bytes);
    unsigned char *inputs = file(given[7], &bytes);
    FILE *results = fopen(given[8], "wb");

    if (!results)
        return BROKEN;
    for (size_t i = 0; i < OWN(input_count); inputs += input_bytes[i++])
        in[i] = inputs;
    for (size_t i = 0; i < OWN(output_count); i++)
        out[i] = calloc(1, output_bytes[i]);
    status = OWN(load)(&npu, commands, command_bytes, constants, constant_bytes);
    spoil(&npu, command_bytes, mode);
    /* Twice on one device: nothing of the first run is left that matters. */
    for (int i = 0; i < 2 && status == bl_npu_ok; i++)
        status = OWN(run)(&npu, in, out);
    for (size_t i = 0; i < OWN(output_count); i++)
        fwrite(out[i], 1, output_bytes[i], results);
    fclose(results);
    fprintf(stderr, "%u %u %u %u %llu\n", npu.failed_step, npu.error, npu.error_core, npu.error_index,
            (unsigned long long)npu.cycles);
    return status;
}
