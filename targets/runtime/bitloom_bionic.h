/* What the runtime needs of Android's C library, for compilers that come without its headers. 64-bit Arm only.
 *
 * Android 9 (API level 28) has all of it, in libc.so alone, and dlopen in libdl.so. Types are as large as bionic's or larger.
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
#if defined(BL_OPENCL)
enum { O_RDONLY = 0, O_WRONLY = 1, O_CREAT = 0100, O_EXCL = 0200, O_CLOEXEC = 02000000 };
enum { RTLD_NOW = 2, RTLD_LOCAL = 0 };
typedef long ssize_t;

void *malloc(size_t size);
void *calloc(size_t count, size_t size);
void *memcpy(void *to, const void *from, size_t size);
int memcmp(const void *a, const void *b, size_t size);
size_t strlen(const char *text);
char *strstr(const char *text, const char *part);
int snprintf(char *text, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
char *getenv(const char *name);
int open(const char *path, int flags, ...);
ssize_t read(int file, void *memory, size_t size);
ssize_t write(int file, const void *memory, size_t size);
int close(int file);
int mkdir(const char *path, unsigned int mode);
int rename(const char *from, const char *to);
int unlink(const char *path);
int getpid(void);
void *dlopen(const char *path, int flags);
void *dlsym(void *library, const char *name);
#endif
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
