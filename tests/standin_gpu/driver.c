// A stand-in for libcuda: a driver for CUDA 13.0 and one GPU of compute capability STANDIN_CAPABILITY (default 90).
#include <stdlib.h>

static int capability(void) {
    const char *text = getenv("STANDIN_CAPABILITY");
    return text ? atoi(text) : 90;
}
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuMemGetInfo_v2(unsigned long *unused, unsigned long *total) { *unused = *total = 8ul << 30; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? capability() / 10 : attribute == 76 ? capability() % 10 : 0;  // major, minor
    return 0;
}
