/* What the runtime needs of Android's C library, for compilers that come without its headers. 64-bit Arm only.
 *
 * Android 9 (API level 28) has all of it, in libc.so alone. Types are as large as bionic's or larger.
 * Source: AOSP, bionic/libc/include; numbers of system calls and futex operations are Linux's.
 */
#ifndef BITLOOM_BIONIC_H
#define BITLOOM_BIONIC_H

#if !defined(__ANDROID__) || !defined(__aarch64__)
#error "bitloom_bionic.h is for 64-bit Arm Android"
#endif

#include <stddef.h>

enum { AT_HWCAP = 16, AT_HWCAP2 = 26 };
enum { SIG_SETMASK = 2 };
enum { _SC_NPROCESSORS_ONLN = 0x61 };
enum { FUTEX_WAIT_PRIVATE = 128, FUTEX_WAKE_PRIVATE = 129 };
#define SYS_futex 98

typedef long pthread_t;
typedef struct {
    long words[7];
} pthread_attr_t;
typedef struct {
    unsigned long words[16];
} sigset_t, cpu_set_t;

void *aligned_alloc(size_t alignment, size_t size);
void free(void *memory);
void *memset(void *memory, int byte, size_t size);
int strcmp(const char *a, const char *b);
long sysconf(int name);
long syscall(long number, ...);
unsigned long getauxval(unsigned long type);
int sigfillset(sigset_t *set);
int sched_yield(void);
int sched_getaffinity(int process, size_t size, cpu_set_t *set);
int __sched_cpucount(size_t size, const cpu_set_t *set);
#define CPU_COUNT(set) __sched_cpucount(sizeof(cpu_set_t), set)
int pthread_attr_init(pthread_attr_t *attributes);
int pthread_attr_setstacksize(pthread_attr_t *attributes, size_t size);
int pthread_attr_destroy(pthread_attr_t *attributes);
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument);
int pthread_join(pthread_t thread, void **result);
int pthread_sigmask(int how, const sigset_t *set, sigset_t *previous);

#endif
