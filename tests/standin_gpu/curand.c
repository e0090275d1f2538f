// A stand-in for libcurand: random numbers of a simple generator (splitmix64: Steele et al., "Fast splittable
// pseudorandom number generators", 2014).
#include "curand.h"

#include <math.h>

#define OK return CURAND_STATUS_SUCCESS
static unsigned long long state;

static double uniform(void) {  // above 0, at most 1
    unsigned long long z = state += 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return ((z ^ z >> 31) >> 40 | 1) / 16777216.0;
}
static double normal(void) { return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()); }

curandStatus_t curandCreateGenerator(curandGenerator_t *generator, curandRngType_t type) {
    *generator = (curandGenerator_t)&state;
    OK;
}
curandStatus_t curandDestroyGenerator(curandGenerator_t generator) { OK; }
curandStatus_t curandSetPseudoRandomGeneratorSeed(curandGenerator_t generator, unsigned long long seed) {
    state = seed;
    OK;
}
curandStatus_t curandGenerateUniform(curandGenerator_t generator, float *out, size_t n) {
    while (n--) *out++ = uniform();
    OK;
}
curandStatus_t curandGenerateUniformDouble(curandGenerator_t generator, double *out, size_t n) {
    while (n--) *out++ = uniform();
    OK;
}
curandStatus_t curandGenerateNormal(curandGenerator_t generator, float *out, size_t n, float mean, float deviation) {
    while (n--) *out++ = mean + deviation * normal();
    OK;
}
curandStatus_t curandGenerateNormalDouble(curandGenerator_t generator, double *out, size_t n, double mean,
                                          double deviation) {
    while (n--) *out++ = mean + deviation * normal();
    OK;
}
