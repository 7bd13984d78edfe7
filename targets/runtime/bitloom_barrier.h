/* A barrier for a fixed team of threads that meet every few microseconds and may then pause for hours.
 *
 * A waiting thread spins, then yields its core, then sleeps. How long it spins adapts: a wait that ended before
 * sleep doubles it, a wait that needed sleep halves it. A team larger than the machine never spins.
 */
#ifndef BITLOOM_BARRIER_H
#define BITLOOM_BARRIER_H

#include "bitloom_system.h"

#include <stdatomic.h>
#include <stdint.h>

#define BL_CACHE_LINE 64

enum {
    BL_SPINS_LEAST = 16,
    BL_SPINS_MOST = 2048, /* 20 to 80 microseconds: longer than most layers, far shorter than a time slice */
    BL_YIELDS = 64
};

struct bl_patience {
    uint32_t spins, most;
};

struct bl_barrier {
    _Alignas(BL_CACHE_LINE) _Atomic uint32_t arrived;
    _Atomic uint32_t sleepers;
    _Alignas(BL_CACHE_LINE) _Atomic uint32_t phase; /* its own line: everyone spins on it */
#if !defined(__linux__)
    _Alignas(BL_CACHE_LINE) pthread_mutex_t mutex;
    pthread_cond_t released;
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

static inline void bl_barrier_open(struct bl_barrier *barrier)
{
    atomic_init(&barrier->arrived, 0);
    atomic_init(&barrier->sleepers, 0);
    atomic_init(&barrier->phase, 0);
#if !defined(__linux__)
    pthread_mutex_init(&barrier->mutex, 0);
    pthread_cond_init(&barrier->released, 0);
#endif
}

static inline void bl_barrier_close(struct bl_barrier *barrier)
{
#if !defined(__linux__)
    pthread_cond_destroy(&barrier->released);
    pthread_mutex_destroy(&barrier->mutex);
#else
    (void)barrier;
#endif
}

/* Ends phase `seen`. The store of `phase` and the load of `sleepers` are sequentially consistent, as are the sleeper's
 * two accesses in the other order, so that one of both sides notices the other. */
static inline void bl_barrier_release(struct bl_barrier *barrier, uint32_t seen)
{
    atomic_store(&barrier->phase, seen + 1);
    if (atomic_load(&barrier->sleepers) == 0)
        return;
#if defined(__linux__)
    syscall(SYS_futex, &barrier->phase, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
#else
    pthread_mutex_lock(&barrier->mutex);
    pthread_cond_broadcast(&barrier->released);
    pthread_mutex_unlock(&barrier->mutex);
#endif
}

static inline int bl_barrier_passed(struct bl_barrier *barrier, uint32_t seen)
{
    return atomic_load_explicit(&barrier->phase, memory_order_acquire) != seen;
}

static inline void bl_barrier_sleep(struct bl_barrier *barrier, uint32_t seen)
{
    atomic_fetch_add(&barrier->sleepers, 1);
#if defined(__linux__)
    while (atomic_load(&barrier->phase) == seen)
        syscall(SYS_futex, &barrier->phase, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
#else
    pthread_mutex_lock(&barrier->mutex);
    while (atomic_load(&barrier->phase) == seen)
        pthread_cond_wait(&barrier->released, &barrier->mutex);
    pthread_mutex_unlock(&barrier->mutex);
#endif
    atomic_fetch_sub(&barrier->sleepers, 1);
}

static inline void bl_barrier_wait(struct bl_barrier *barrier, uint32_t seen, struct bl_patience *patience)
{
    int passed = 0;

    for (uint32_t i = 0; !passed && i < patience->spins; i++) {
        bl_pause();
        passed = bl_barrier_passed(barrier, seen);
    }
    for (uint32_t i = 0; !passed && i < BL_YIELDS; i++) {
        sched_yield();
        passed = bl_barrier_passed(barrier, seen);
    }
    if (!passed)
        bl_barrier_sleep(barrier, seen);

    patience->spins = passed ? patience->spins * 2 : patience->spins / 2;
    if (patience->spins < BL_SPINS_LEAST)
        patience->spins = BL_SPINS_LEAST;
    if (patience->spins > patience->most)
        patience->spins = patience->most;
}

/* Returns when all `team` threads have called it. `phase` is the caller's own count of the barriers it has passed:
 * it must not read the shared one, which may move on before a thread that has just started looks at it. */
static inline void bl_barrier_meet(struct bl_barrier *barrier, uint32_t team, uint32_t *phase,
                                   struct bl_patience *patience)
{
    uint32_t seen = (*phase)++;

    if (atomic_fetch_add_explicit(&barrier->arrived, 1, memory_order_acq_rel) + 1 == team) {
        atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
        bl_barrier_release(barrier, seen);
    } else {
        bl_barrier_wait(barrier, seen, patience);
    }
}

#endif
