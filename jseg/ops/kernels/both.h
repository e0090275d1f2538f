// Marks functions that C++ and CUDA share.
#pragma once

#ifdef __CUDACC__
#define JSEG_BOTH __host__ __device__ __forceinline__
#else
#define JSEG_BOTH static inline
#endif
