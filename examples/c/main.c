/* Runs a library of one float input and one float output. Build with the library's name as MODEL:
 *   cc -DMODEL=tiny -include out/tiny.h main.c out/libtiny.a -pthread -o main && ./main input.f32
 * The input is raw float32; without it, zeros. Prints the index of the largest element of the output. */
#include <stdio.h>
#include <stdlib.h>

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define API(name) JOIN(MODEL, name)

static float input[API(_input_0_elements)];
static float output[API(_output_0_elements)];

int main(int argc, char **argv)
{
    const char *reason = NULL;
    API(_ctx) *ctx = API(_create)(0, &reason);
    if (!ctx)
        return fprintf(stderr, "%s\n", reason), EXIT_FAILURE;

    FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    if (argc > 1 && (!file || fread(input, sizeof input, 1, file) != 1))
        return fprintf(stderr, "%s: not %zu bytes\n", argv[1], sizeof input), EXIT_FAILURE;

    const void *inputs[] = {input};
    void *outputs[] = {output};
    int best = 0, status = API(_run)(ctx, inputs, outputs);
    for (int i = 1; i < API(_output_0_elements); i++)
        best = output[i] > output[best] ? i : best;
    printf("%d\n", best);
    API(_destroy)(ctx);
    return status;
}
