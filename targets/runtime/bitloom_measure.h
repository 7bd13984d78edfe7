/* What a program of candidates (generated, one for each batch) gives to bitloom_measure.c. */
#ifndef BITLOOM_MEASURE_H
#define BITLOOM_MEASURE_H

#include <stdint.h>

/* Runs tiles [begin, end) of a kernel on its operands; not 0: it failed. */
typedef int32_t bitloom_candidate(void **operands, int32_t begin, int32_t end);

extern bitloom_candidate *const bitloom_candidates[];

#endif
