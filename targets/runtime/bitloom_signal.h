/* A number that changes every few microseconds and may then rest for hours, and threads that wait for its changes.
 *
 * A waiting thread spins, then sleeps. It spins for less than a hundredth of a time slice and never yields: where
 * other processes want its core, a sleeper gives way, and a thread of its own team that was pushed aside can move in.
 */
#ifndef BITLOOM_SIGNAL_H
#define BITLOOM_SIGNAL_H

#include "bitloom_system.h"

#include <stdatomic.h>
#include <stdint.h>

#define BL_CACHE_LINE 64

enum { BL_SPINS = 2048 }; /* 20 to 80 microseconds: longer than most steps */

struct bl_signal {
    _Alignas(BL_CACHE_LINE) _Atomic uint32_t phase; /* its own line: everyone spins on it */
    _Alignas(BL_CACHE_LINE) _Atomic uint32_t sleepers;
    uint32_t spins;
#if !defined(__linux__)
    pthread_mutex_t mutex;
    pthread_cond_t changed;
#endif
};

static inline void bl_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory"); /* `yield` is a no-op on most cores; `isb` waits some 10 ns */
#elif defined(__arm__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

static inline void bl_signal_open(struct bl_signal *signal, uint32_t spins)
{
    atomic_init(&signal->phase, 0);
    atomic_init(&signal->sleepers, 0);
    signal->spins = spins;
#if !defined(__linux__)
    pthread_mutex_init(&signal->mutex, 0);
    pthread_cond_init(&signal->changed, 0);
#endif
}

static inline void bl_signal_close(struct bl_signal *signal)
{
#if !defined(__linux__)
    pthread_cond_destroy(&signal->changed);
    pthread_mutex_destroy(&signal->mutex);
#else
    (void)signal;
#endif
}

static inline uint32_t bl_signal_phase(struct bl_signal *signal)
{
    return atomic_load_explicit(&signal->phase, memory_order_acquire);
}

/* The change of `phase` and the load of `sleepers` are sequentially consistent, as are the sleeper's two accesses in
 * the other order, so that one of both sides notices the other. */
static inline void bl_signal_change(struct bl_signal *signal)
{
    atomic_fetch_add(&signal->phase, 1);
    if (atomic_load(&signal->sleepers) == 0)
        return;
#if defined(__linux__)
    syscall(SYS_futex, &signal->phase, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
#else
    pthread_mutex_lock(&signal->mutex);
    pthread_cond_broadcast(&signal->changed);
    pthread_mutex_unlock(&signal->mutex);
#endif
}

static inline void bl_signal_sleep(struct bl_signal *signal, uint32_t seen)
{
    atomic_fetch_add(&signal->sleepers, 1);
#if defined(__linux__)
    while (atomic_load(&signal->phase) == seen)
        syscall(SYS_futex, &signal->phase, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
#else
    pthread_mutex_lock(&signal->mutex);
    while (atomic_load(&signal->phase) == seen)
        pthread_cond_wait(&signal->changed, &signal->mutex);
    pthread_mutex_unlock(&signal->mutex);
#endif
    atomic_fetch_sub(&signal->sleepers, 1);
}

/* Returns when the phase is no longer `seen`. */
static inline void bl_signal_wait(struct bl_signal *signal, uint32_t seen)
{
    for (uint32_t i = 0; i < signal->spins; i++) {
        if (bl_signal_phase(signal) != seen)
            return;
        bl_pause();
    }
    bl_signal_sleep(signal, seen);
}

#endif
