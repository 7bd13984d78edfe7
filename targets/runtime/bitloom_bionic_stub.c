/* A libc.so to link against: the names of Android's, nothing behind them. */
#define STUB(name) \
    void name(void) \
    { \
    }

STUB(aligned_alloc)
STUB(free)
STUB(memcpy)
STUB(memmove)
STUB(memset)
STUB(strcmp)
STUB(sysconf)
STUB(syscall)
STUB(getauxval)
STUB(sigfillset)
STUB(sched_yield)
STUB(sched_getaffinity)
STUB(__sched_cpucount)
STUB(pthread_attr_init)
STUB(pthread_attr_setstacksize)
STUB(pthread_attr_destroy)
STUB(pthread_create)
STUB(pthread_join)
STUB(pthread_sigmask)
