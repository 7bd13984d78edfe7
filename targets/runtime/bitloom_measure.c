/* A program that measures kernels and carries its own request: a line on standard output for each candidate.
 *
 * Candidates are linked in (see bitloom_measure.h). Each runs in a process of its own, with limits of time and
 * memory, so that one that crashes, hangs or eats memory says so and the others go on. It runs once between guards
 * and its outputs are compared byte by byte, then it is timed. The request is appended to the program's own
 * file, whose name is its argument; the file's last number is the request's offset. It is (64-bit numbers,
 * little-endian as on every machine that kernels are made for) a struct request, then
 *     for each blob its bytes, and the blob itself;
 *     for each candidate a struct job, then a struct operand for each of its pointers.
 * The first line is `ready`. The others are a candidate's index, a word and what belongs to it:
 *     0 measured 1200 1190 1210        nanoseconds of a call, one number for each repetition
 *     1 crashed 11                     the signal that ended it
 *     2 hung                           it did not end within the limit
 *     3 wrong output 17 4096 5         operand, bytes that differ, of how many, the first of them
 *     4 outside output                 it wrote beside an operand, or over what is read only
 *     5 memory                         it needs more than the limit
 *     6 failed 3                       the kernel's own status
 */
#define _GNU_SOURCE
#include "bitloom_measure.h"

#include "bitloom_cpu.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ALIGNMENT = 64, GUARD = 64, GUARD_BYTE = 0xA5, GARBAGE = 0x5A, MAXIMAL_REPEATS = 1000 };
enum { BAD_REQUEST = 2, OUT_OF_MEMORY = 77, REPORTED = 78 };
enum { MAGIC = 0x314d4c42, PROBE_BYTES = 1 << 22 };
/* A system call that there is not: the emulator's plugin notes how many instructions were executed before it. */
enum { MARK = 0x6d61 };

struct request {
    int64_t magic, blobs, candidates;
    int64_t counted; /* mark the checked run instead of timing more of them */
    int64_t repeats; /* repetitions, each of as many calls as take `slice_ns` */
    int64_t slice_ns, limit_ms, memory_bytes, pause_ms;
};
struct blob {
    int64_t bytes;
    unsigned char *contents;
};
struct job {
    int64_t function, tiles, operands;
};
struct operand {
    int64_t before, after, bytes; /* blobs, -1 for none: no `after` is read only, no `before` is scratch */
    char name[32];
};

static FILE *file;
static struct request request;
static struct blob *blobs;

static void refuse(const char *complaint)
{
    fprintf(stderr, "%s\n", complaint);
    exit(BAD_REQUEST);
}

static void take(void *memory, size_t bytes)
{
    if (fread(memory, 1, bytes, file) != bytes)
        refuse("the request ends early");
}

static void *get(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (!memory)
        refuse("no memory for the request");
    return memory;
}

/* In the child: says what happened and ends it. Nothing but system calls, so a signal's handler may use it. */
static void say(const char *line)
{
    size_t length = strlen(line);
    _exit(write(STDOUT_FILENO, line, length) == (ssize_t)length ? REPORTED : BAD_REQUEST);
}

/* Whether little memory is left: what a kernel does that was refused some is a consequence. */
static int exhausted(void)
{
    void *probe = mmap(NULL, PROBE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (probe == MAP_FAILED)
        return 1;
    munmap(probe, PROBE_BYTES);
    return 0;
}

static void crashed(int number)
{
    if (exhausted())
        _exit(OUT_OF_MEMORY);
    signal(number, SIG_DFL);
    raise(number);
}

static void set_limits(void)
{
    static char stack[32768];
    const stack_t spare = {.ss_sp = stack, .ss_size = sizeof stack};
    const int fatal[] = {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE, SIGTRAP};
    const struct rlimit memory = {(rlim_t)request.memory_bytes, (rlim_t)request.memory_bytes};
    const struct rlimit none = {0, 0};
    const struct itimerval limit = {{0, 0}, {request.limit_ms / 1000, request.limit_ms % 1000 * 1000}};
    struct sigaction action = {.sa_handler = crashed, .sa_flags = SA_ONSTACK | SA_NODEFER};

    sigaltstack(&spare, NULL);
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++)
        sigaction(fatal[i], &action, NULL);
    setrlimit(RLIMIT_CORE, &none);
    setrlimit(RLIMIT_AS, &memory);
    setitimer(ITIMER_REAL, &limit, NULL); /* SIGALRM ends the process */
}

static unsigned char *place(const struct operand *operand)
{
    size_t bytes = (size_t)operand->bytes, size = bytes + 2 * GUARD + ALIGNMENT;
    unsigned char *memory, *start;

    if (operand->bytes > request.memory_bytes)
        _exit(OUT_OF_MEMORY);
    memory = malloc(size);
    if (!memory)
        _exit(OUT_OF_MEMORY);
    start = memory + GUARD + (ALIGNMENT - (uintptr_t)(memory + GUARD) % ALIGNMENT) % ALIGNMENT;
    memset(memory, GUARD_BYTE, (size_t)(start - memory));
    if (operand->before >= 0)
        memcpy(start, blobs[operand->before].contents, bytes);
    else
        memset(start, GARBAGE, bytes);
    memset(start + bytes, GUARD_BYTE, GUARD);
    return start;
}

static void check(int index, const struct operand *operand, const unsigned char *start)
{
    int64_t wanted = operand->after >= 0 ? operand->after : operand->before, different = 0, first = 0;
    char line[128];

    for (int i = 0; i < GUARD; i++)
        if (start[i - GUARD] != GUARD_BYTE || start[operand->bytes + i] != GUARD_BYTE)
            different = 1;
    if (!different && wanted >= 0)
        different = memcmp(start, blobs[wanted].contents, (size_t)operand->bytes) != 0;
    else if (!different)
        return;
    if (!different)
        return;
    snprintf(line, sizeof line, "%d outside %s\n", index, operand->name);
    if (operand->after >= 0) {
        different = 0;
        for (int64_t i = operand->bytes; i-- > 0;)
            if (start[i] != blobs[wanted].contents[i])
                different++, first = i;
        if (different)
            snprintf(line, sizeof line, "%d wrong %s %lld %lld %lld\n", index, operand->name, (long long)different,
                     (long long)operand->bytes, (long long)first);
    }
    say(line);
}

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void run(int index, const struct job *job, void **pointers)
{
    char line[64];
    int32_t status = bitloom_candidates[job->function](pointers, 0, (int32_t)job->tiles);

    if (status == 0)
        return;
    if (exhausted())
        _exit(OUT_OF_MEMORY);
    snprintf(line, sizeof line, "%d failed %d\n", index, (int)status);
    say(line);
}

/* The line of a candidate that is right. */
static void measure(int index, const struct job *job, void **pointers)
{
    static char line[MAXIMAL_REPEATS * 21 + 64];
    int length = snprintf(line, sizeof line, "%d measured", index);
    int64_t calls = 1, start, spent;

    for (;;) { /* how many calls make a slice; this warms up as well */
        start = nanoseconds();
        for (int64_t i = 0; i < calls; i++)
            run(index, job, pointers);
        spent = nanoseconds() - start;
        if (spent >= request.slice_ns)
            break;
        calls = spent * 8 < request.slice_ns ? calls * 8 : calls * request.slice_ns / spent + 1;
    }
    for (int64_t r = 0; r < request.repeats; r++) {
        start = nanoseconds();
        for (int64_t i = 0; i < calls; i++)
            run(index, job, pointers);
        spent = nanoseconds() - start;
        length += snprintf(line + length, sizeof line - (size_t)length, " %.2f", (double)spent / (double)calls);
    }
    snprintf(line + length, sizeof line - (size_t)length, "\n");
    say(line);
}

static void child(int index, const struct job *job, const struct operand *operands)
{
    unsigned char **memory = calloc((size_t)job->operands + 1, sizeof *memory);
    void **pointers = calloc((size_t)job->operands + 1, sizeof *pointers);
    char line[64];

    set_limits();
    if (!memory || !pointers)
        _exit(OUT_OF_MEMORY);
    for (int64_t i = 0; i < job->operands; i++)
        pointers[i] = memory[i] = place(&operands[i]);
    if (request.counted)
        syscall(MARK, index, 0);
    run(index, job, pointers);
    if (request.counted)
        syscall(MARK, index, 1);
    for (int64_t i = 0; i < job->operands; i++)
        check(index, &operands[i], memory[i]);
    if (!request.counted)
        measure(index, job, pointers);
    snprintf(line, sizeof line, "%d measured\n", index);
    say(line);
}

static void report(int index, pid_t process)
{
    struct timespec pause = {request.pause_ms / 1000, request.pause_ms % 1000 * 1000000};
    int status = 0;

    while (waitpid(process, &status, 0) < 0)
        if (errno != EINTR)
            refuse("lost a process");
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        printf("%d hung\n", index);
    else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) /* the system's way to get memory back */
        printf("%d memory\n", index);
    else if (WIFSIGNALED(status))
        printf("%d crashed %d\n", index, WTERMSIG(status));
    else if (WEXITSTATUS(status) == OUT_OF_MEMORY)
        printf("%d memory\n", index);
    else if (WEXITSTATUS(status) != REPORTED)
        printf("%d failed %d\n", index, WEXITSTATUS(status));
    if (fflush(stdout) != 0)
        exit(BAD_REQUEST);
    nanosleep(&pause, NULL);
}

int main(int count, char **arguments)
{
    struct job *jobs;
    struct operand **operands;
    int64_t offset;

    file = count == 2 ? fopen(arguments[1], "rb") : NULL;
    if (!file || fseek(file, -(long)sizeof offset, SEEK_END) != 0)
        refuse("cannot read the request");
    take(&offset, sizeof offset);
    if (fseek(file, (long)offset, SEEK_SET) != 0)
        refuse("cannot read the request");
    take(&request, sizeof request);
    if (request.magic != MAGIC || request.repeats > MAXIMAL_REPEATS)
        refuse("the request is not for this program");
    blobs = get((size_t)request.blobs, sizeof *blobs);
    for (int64_t i = 0; i < request.blobs; i++) {
        take(&blobs[i].bytes, sizeof blobs[i].bytes);
        blobs[i].contents = get((size_t)blobs[i].bytes, 1);
        take(blobs[i].contents, (size_t)blobs[i].bytes);
    }
    jobs = get((size_t)request.candidates, sizeof *jobs);
    operands = get((size_t)request.candidates, sizeof *operands);
    for (int64_t c = 0; c < request.candidates; c++) {
        take(&jobs[c], sizeof jobs[c]);
        operands[c] = get((size_t)jobs[c].operands, sizeof **operands);
        take(operands[c], (size_t)jobs[c].operands * sizeof **operands);
    }
    bl_cpu_has(BL_CPU_AMX_TILE); /* asks the system for tile registers, for the candidates' processes too */
    if (puts("ready") < 0 || fflush(stdout) != 0)
        return BAD_REQUEST;
    for (int c = 0; c < request.candidates; c++) {
        pid_t process = fork();
        if (process < 0)
            refuse("cannot start a process");
        if (process == 0)
            child(c, &jobs[c], operands[c]);
        report(c, process);
    }
    return 0;
}
