/* Runs a library `model` on the contents of the file `input`, argv[1] times. */

#include <stdio.h>
#include <stdlib.h>

#include "model.h"

static _Alignas(64) float input[model_input_0_elements], output[model_output_0_elements];

int main(int argc, char **argv) {
    FILE *file = fopen("input", "rb");
    if (argc != 2 || !file || fread(input, sizeof(float), model_input_0_elements, file) != model_input_0_elements)
        return 2;
    model_ctx *context = model_create(1, NULL);
    if (!context) return 3;
    const void *inputs[] = {input};
    void *outputs[] = {output};
    for (int i = 0; i < atoi(argv[1]); i++)
        if (model_run(context, inputs, outputs)) return 4;
    return 0;
}
