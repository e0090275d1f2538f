// A stand-in for libcurand: its random numbers are constant.
#include "curand.h"

#define OK return CURAND_STATUS_SUCCESS
static char state;
curandStatus_t curandCreateGenerator(curandGenerator_t *generator, curandRngType_t type) {
    *generator = (curandGenerator_t)&state;
    OK;
}
curandStatus_t curandDestroyGenerator(curandGenerator_t generator) { OK; }
curandStatus_t curandSetPseudoRandomGeneratorSeed(curandGenerator_t generator, unsigned long long seed) { OK; }
curandStatus_t curandGenerateUniform(curandGenerator_t generator, float *out, size_t n) {
    while (n--) *out++ = 0.5f;
    OK;
}
curandStatus_t curandGenerateUniformDouble(curandGenerator_t generator, double *out, size_t n) {
    while (n--) *out++ = 0.5;
    OK;
}
curandStatus_t curandGenerateNormal(curandGenerator_t generator, float *out, size_t n, float mean, float deviation) {
    while (n--) *out++ = mean;
    OK;
}
curandStatus_t curandGenerateNormalDouble(curandGenerator_t generator, double *out, size_t n, double mean,
                                          double deviation) {
    while (n--) *out++ = mean;
    OK;
}
