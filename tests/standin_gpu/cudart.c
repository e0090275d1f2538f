// A stand-in for libcudart 13 that needs no driver: device memory is host memory, copies copy, kernels do not run.
// Jittor then believes in a GPU and compiles, through its own JIT and nvcc, all that a CUDA run would compile. Results
// are meaningless. The names that begin with two underscores are those that code compiled by nvcc 13 calls.
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

long jseg_launches, jseg_waits, jseg_copies;  // read by cost.py

#define OK { return cudaSuccess; }
#define NEW(pointer, size) { *(pointer) = calloc(1, (size) ? (size) : 1); return *(pointer) ? cudaSuccess : cudaErrorMemoryAllocation; }

// the device
cudaError_t cudaGetDeviceCount(int *count) { *count = 1; return cudaSuccess; }
cudaError_t cudaGetDevice(int *device) { *device = 0; return cudaSuccess; }
cudaError_t cudaSetDevice(int device) OK
cudaError_t cudaDeviceReset(void) OK
cudaError_t cudaDeviceSynchronize(void) { jseg_waits++; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { *version = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int *version) { *version = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *found, int device) {
    memset(found, 0, sizeof *found);
    strcpy(found->name, "stand-in GPU");
    found->major = 9;
    found->multiProcessorCount = 132;
    found->totalGlobalMem = 8ull << 30;
    found->sharedMemPerBlock = 48 << 10;
    found->sharedMemPerBlockOptin = 227 << 10;
    found->warpSize = 32;
    found->maxThreadsPerBlock = 1024;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
        case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
        case cudaDevAttrMultiProcessorCount: *value = 132; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 227 << 10; break;
        default: *value = 1;
    }
    return cudaSuccess;
}

// errors
cudaError_t cudaGetLastError(void) OK
cudaError_t cudaPeekAtLastError(void) OK
const char *cudaGetErrorName(cudaError_t error) { return "an error of the stand-in"; }
const char *cudaGetErrorString(cudaError_t error) { return "an error of the stand-in"; }

// memory
cudaError_t cudaMalloc(void **pointer, size_t size) NEW(pointer, size)
cudaError_t cudaMallocHost(void **pointer, size_t size) NEW(pointer, size)
cudaError_t cudaMallocManaged(void **pointer, size_t size, unsigned flags) NEW(pointer, size)
cudaError_t cudaFree(void *pointer) { free(pointer); return cudaSuccess; }
cudaError_t cudaFreeHost(void *pointer) { free(pointer); return cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t *unused, size_t *total) { *unused = *total = 8ull << 30; return cudaSuccess; }
cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
    jseg_copies++;
    memmove(to, from, size);
#ifndef COMPUTING  // nothing was: programs end when they find NaN, but not when all is 0
    if (kind == cudaMemcpyDeviceToHost) memset(to, 0, size);
#endif
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream) {
    return cudaMemcpy(to, from, size, kind);
}
cudaError_t cudaMemset(void *pointer, int value, size_t size) { memset(pointer, value, size); return cudaSuccess; }
cudaError_t cudaMemsetAsync(void *pointer, int value, size_t size, cudaStream_t stream) {
    return cudaMemset(pointer, value, size);
}

// streams and events
cudaError_t cudaStreamCreate(cudaStream_t *stream) NEW((void **)stream, 1)
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) NEW((void **)stream, 1)
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return cudaFree(stream); }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) OK
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) OK
cudaError_t cudaEventCreate(cudaEvent_t *event) NEW((void **)event, 1)
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) NEW((void **)event, 1)
cudaError_t cudaEventDestroy(cudaEvent_t event) { return cudaFree(event); }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) OK
cudaError_t cudaEventSynchronize(cudaEvent_t event) OK
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
    *milliseconds = 1;
    return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
    function(data);
    return cudaSuccess;
}

// kernels
cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t bytes, cudaStream_t s) {
    jseg_launches++;
    return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(void *kernel, dim3 grid, dim3 block, void **arguments, size_t bytes, cudaStream_t s) {
    return cudaLaunchKernel(kernel, grid, block, arguments, bytes, s);
}
cudaError_t __cudaGetKernel(void **kernel, const void *stub) { *kernel = (void *)stub; return cudaSuccess; }
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t bytes, void *stream) { return 0; }
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *bytes, void *stream) OK
cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attribute, int value) OK
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *kernel) {
    memset(found, 0, sizeof *found);
    found->ptxVersion = found->binaryVersion = 90;
    found->maxThreadsPerBlock = 1024;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel, int threads, size_t bytes) {
    *blocks = 1;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *kernel, int threads,
                                                                   size_t bytes, unsigned flags) {
    *blocks = 1;
    return cudaSuccess;
}

// what compiled files register when they are loaded
static void *handle[1];
void **__cudaRegisterFatBinary(void *binary) { return handle; }
void __cudaRegisterFatBinaryEnd(void **binary) {}
void __cudaUnregisterFatBinary(void **binary) {}
void __cudaRegisterFunction(void **binary, const char *stub, char *function, const char *name, int limit, uint3 *thread,
                            uint3 *block_index, dim3 *block, dim3 *grid, int *warp) {}
void __cudaRegisterVar(void **binary, char *stub, char *address, const char *name, int outside, size_t size,
                       int constant, int global) {}
char __cudaInitModule(void **binary) { return 1; }
