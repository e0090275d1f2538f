// What CUDA code that Jittor writes needs to run on a CPU: its threads run one after the other, without barriers.
// The kernels of jseg run by tests/cuda_emulation, with barriers and operations of whole warps.
#pragma once

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#undef __launch_bounds__
#undef __shared__
#define __launch_bounds__(...)
#define __shared__ static

using std::max;
using std::min;

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace standin {

inline void missing(const char* what) {
    fprintf(stderr, "stand-in GPU: a generated kernel needs %s\n", what);
    abort();
}

// `kernel<<<grid, block>>>`, to be called with the arguments.
template <class Kernel>
auto launch(Kernel kernel, dim3 grid, dim3 block, size_t shared = 0) {
    return [=](auto... arguments) {
        gridDim = grid;
        blockDim = block;
        for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
            for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
                for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++)
                    for (threadIdx.z = 0; threadIdx.z < block.z; threadIdx.z++)
                        for (threadIdx.y = 0; threadIdx.y < block.y; threadIdx.y++)
                            for (threadIdx.x = 0; threadIdx.x < block.x; threadIdx.x++) kernel(arguments...);
    };
}

template <class To, class From>
To same_bits(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    memcpy(&y, &x, sizeof(y));
    return y;
}

}  // namespace standin

inline void __syncthreads() { standin::missing("a barrier"); }
inline int __float_as_int(float x) { return standin::same_bits<int>(x); }
inline float __int_as_float(int x) { return standin::same_bits<float>(x); }
inline long long __double_as_longlong(double x) { return standin::same_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return standin::same_bits<double>(x); }

template <class T, class U>
T atomicAdd(T* at, U x) {
    const T old = *at;
    *at = old + (T)x;
    return old;
}
template <class T, class U>
T atomicMax(T* at, U x) {
    const T old = *at;
    if (old < (T)x) *at = x;
    return old;
}
template <class T, class U>
T atomicMin(T* at, U x) {
    const T old = *at;
    if ((T)x < old) *at = x;
    return old;
}
template <class T, class U, class V>
T atomicCAS(T* at, U expected, V x) {
    const T old = *at;
    if (old == (T)expected) *at = x;
    return old;
}
