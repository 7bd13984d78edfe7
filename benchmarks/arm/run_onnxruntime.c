/* Runs model.onnx (one float32 input, one output) on the contents of the file `input`, argv[1] times, by
   onnxruntime's C library on one thread. argv[2...]: the input's and the output's name, the input's shape.

   The library's wheel comes without its header. The table of functions only ever grows at its end: entries
   are known by their place in it. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef void *entry;
struct base {
    const entry *(*get_api)(uint32_t version);
    const char *(*version)(void);
};
const struct base *OrtGetApiBase(void);

enum {
    GET_ERROR_MESSAGE = 2,
    CREATE_ENV = 3,
    CREATE_SESSION = 7,
    RUN = 9,
    CREATE_SESSION_OPTIONS = 10,
    SET_INTRA_OP_THREADS = 24,
    SET_INTER_OP_THREADS = 25,
    CREATE_TENSOR = 49,
    CREATE_CPU_MEMORY = 69,
};
enum { API_VERSION = 16, WARNING = 2, FLOAT = 1, ARENA = 1, DEFAULT_MEMORY = 0 };

static const entry *api;

static void check(void *status) {
    if (!status) return;
    fprintf(stderr, "%s\n", ((const char *(*)(void *))api[GET_ERROR_MESSAGE])(status));
    exit(1);
}

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    api = OrtGetApiBase()->get_api(API_VERSION);
    void *environment, *options, *session, *memory, *tensor;
    check(((void *(*)(int, const char *, void **))api[CREATE_ENV])(WARNING, "count", &environment));
    check(((void *(*)(void **))api[CREATE_SESSION_OPTIONS])(&options));
    check(((void *(*)(void *, int))api[SET_INTRA_OP_THREADS])(options, 1));
    check(((void *(*)(void *, int))api[SET_INTER_OP_THREADS])(options, 1));
    check(((void *(*)(void *, const char *, void *, void **))api[CREATE_SESSION])(environment, "model.onnx", options,
                                                                                 &session));
    check(((void *(*)(int, int, void **))api[CREATE_CPU_MEMORY])(ARENA, DEFAULT_MEMORY, &memory));
    int64_t shape[8];
    size_t rank = (size_t)(argc - 4), count = 1;
    if (rank > 8) return 2;
    for (size_t i = 0; i < rank; i++) count *= (size_t)(shape[i] = atoll(argv[4 + i]));
    float *input = malloc(count * sizeof *input);
    FILE *file = fopen("input", "rb");
    if (!input || !file || fread(input, sizeof *input, count, file) != count) return 3;
    check(((void *(*)(void *, void *, size_t, const int64_t *, size_t, int, void **))api[CREATE_TENSOR])(
        memory, input, count * sizeof *input, shape, rank, FLOAT, &tensor));
    const char *in[] = {argv[2]}, *out[] = {argv[3]};
    for (int i = 0; i < atoi(argv[1]); i++) {
        void *result = NULL;
        check(((void *(*)(void *, void *, const char *const *, void *const *, size_t, const char *const *, size_t,
                          void **))api[RUN])(session, NULL, in, (void *const *)&tensor, 1, out, 1, &result));
    }
    return 0;
}
