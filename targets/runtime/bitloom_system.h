/* The operating system's and the C library's part of the runtime. */
#ifndef BITLOOM_SYSTEM_H
#define BITLOOM_SYSTEM_H

#if defined(__ANDROID__)
#include "bitloom_bionic.h"
#else
#if defined(BL_OPENCL)
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#endif
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <stddef.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#if !defined(SYS_futex)
#define SYS_futex SYS_futex_time64
#endif
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#endif
#endif
