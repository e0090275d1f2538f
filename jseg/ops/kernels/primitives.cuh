// What the CUDA kernels need of the machine: barriers, asynchronous copies, matrix instructions of sm_80 and up.
//
// NVIDIA, "Parallel Thread Execution ISA": ldmatrix, mma.m16n8k16, mma.m16n8k8, cp.async. tests/cuda_emulation has the
// same functions for a CPU. Nothing in this folder knows Jittor.
#pragma once

#include <cstdint>

namespace jseg {

// A grid has at most 65535 rows: the number of equal slices, its third dimension, that leave no more; `rows` itself, which
// CUDA refuses, when there is none.
inline int grid_slices(int rows) {
    int slices = 1;
    while (slices < rows && (rows % slices || rows / slices > 65535)) slices++;
    return slices;
}

}  // namespace jseg

#ifdef JSEG_EMULATION
#include <emulated_primitives.h>
#else

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace jseg {

constexpr int WARP = 32;

__device__ __forceinline__ int thread_index() { return threadIdx.x; }
__device__ __forceinline__ int block_column() { return blockIdx.x; }
__device__ __forceinline__ int block_row() { return blockIdx.z * gridDim.y + blockIdx.y; }
__device__ __forceinline__ void synchronise_block() { __syncthreads(); }
__device__ __forceinline__ void synchronise_warp() { __syncwarp(); }
__device__ __forceinline__ float from_lane_xor(float x, int mask) { return __shfl_xor_sync(0xFFFFFFFFu, x, mask); }

// Whether this is the last of `blocks` blocks to call it, which then sees with `load_of_any_block` what all wrote before;
// `done`, in global memory, is 0 before and after.
__device__ __forceinline__ bool is_last_block(unsigned* done, unsigned blocks) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicInc(done, blocks - 1) == blocks - 1;
    __syncthreads();
    __threadfence();
    return last;
}

__device__ __forceinline__ float load_of_any_block(const float* at) { return __ldcg(at); }

__device__ __forceinline__ unsigned char* shared_memory() {
    extern __shared__ __align__(16) unsigned char shared[];
    return shared;
}

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Starts copying BYTES (4 or 16) to shared memory; zeros where not `valid`, which then reads nothing.
template <int BYTES>
__device__ __forceinline__ void copy_later(void* shared, const void* global, bool valid) {
    const int size = valid ? BYTES : 0;
    if constexpr (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(size)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(size)
                     : "memory");
}

// Ends a group of copies; `wait_for_copies` waits until at most `PENDING` of this thread's groups are under way.
__device__ __forceinline__ void end_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Four 8 x 8 matrices of 16-bit numbers; lanes 8 i to 8 i + 7 give the addresses of the rows of matrix i.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// sums (16 x 8) += a (16 x 16) b (16 x 8), or depth 8 for TensorFloat-32.
#define JSEG_MULTIPLY_ADD(name, instruction)                                                                      \
    __device__ __forceinline__ void name(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {    \
        asm volatile(instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"               \
                     : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                                 \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                             \
    }
JSEG_MULTIPLY_ADD(multiply_add_bfloat16, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")
JSEG_MULTIPLY_ADD(multiply_add_float16, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")
JSEG_MULTIPLY_ADD(multiply_add_tf32, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32")
#undef JSEG_MULTIPLY_ADD

// Two numbers rounded to nearest even, the first in the lower half.
__device__ __forceinline__ uint32_t two_bfloat16(float first, float second) {
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
}

__device__ __forceinline__ uint32_t two_float16(float first, float second) {
    uint32_t both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
}

__device__ __forceinline__ float float_of_float16(uint16_t bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

// Rounded to 10 bits after the point, as the bits of a float.
__device__ __forceinline__ uint32_t tf32_of(float x) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}

__device__ __forceinline__ float power_of_two(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}

__device__ __forceinline__ float binary_logarithm(float x) {
    float logarithm;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(logarithm) : "f"(x));
    return logarithm;
}

__device__ __forceinline__ float float_of(uint32_t bits) { return __uint_as_float(bits); }

// Runs `kernel` in columns x rows blocks of `threads` with `bytes` of shared memory, on the default stream as Jittor.
template <class Kernel, class Arguments>
void launch(Kernel kernel, int columns, int rows, int threads, int bytes, const Arguments& arguments) {
    if (columns == 0 || rows == 0) return;
    const int slices = grid_slices(rows);
    cudaError_t error = cudaSuccess;
    if (bytes > 48 << 10) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error == cudaSuccess) kernel<<<dim3(columns, rows / slices, slices), threads, bytes>>>(arguments);
    if (error == cudaSuccess) error = cudaGetLastError();
    if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA kernel of jseg: ") + cudaGetErrorString(error));
}

}  // namespace jseg
#endif
