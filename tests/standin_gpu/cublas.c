// A stand-in for libcublas and libcublasLt: products leave their output as it is, or with COMPUTING are computed, slowly.
#include "cublas_v2.h"

#include <stdlib.h>
#include <string.h>

static char context;
long jseg_products;  // read by cost.py
cublasStatus_t cublasCreate(cublasHandle_t *handle) {
    *handle = (cublasHandle_t)&context;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy(cublasHandle_t handle) { return CUBLAS_STATUS_SUCCESS; }

typedef struct {
    char *at;
    cudaDataType type;
    int leading;  // elements from one column to the next
} Matrix;

static float number(Matrix x, long index) {
    float value;
    if (x.type == CUDA_R_32F) return ((float *)x.at)[index];
    if (x.type == CUDA_R_16F) return ((_Float16 *)x.at)[index];
    const unsigned bits = (unsigned)((unsigned short *)x.at)[index] << 16;
    memcpy(&value, &bits, 4);
    return value;
}

static void set(Matrix x, long index, float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    if (x.type == CUDA_R_32F)
        ((float *)x.at)[index] = value;
    else if (x.type == CUDA_R_16F)
        ((_Float16 *)x.at)[index] = value;
    else  // rounded to nearest, ties to even
        ((unsigned short *)x.at)[index] = value != value ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

// float32 (rows, depth), row by row, of a matrix in columns; `transposed`: of its transpose.
static float *in_rows(Matrix x, int transposed, int rows, int depth) {
    float *copy = malloc(((long)rows * depth + 1) * sizeof(float));
    for (long row = 0; row < rows; row++)
        for (long k = 0; k < depth; k++)
            copy[row * depth + k] = number(x, transposed ? k + row * x.leading : row + k * x.leading);
    return copy;
}

// c = alpha a b + beta c, of m x k and k x n; sums in float32.
static cublasStatus_t product(cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k, float alpha,
                              Matrix a, Matrix b, float beta, Matrix c, cublasComputeType_t compute) {
    const int fits = a.leading >= (transa ? k : m) && b.leading >= (transb ? n : k) && c.leading >= m;
    if (!fits || m < 0 || n < 0 || k < 0) return CUBLAS_STATUS_INVALID_VALUE;
    if (compute != CUBLAS_COMPUTE_32F || a.type != b.type) return CUBLAS_STATUS_NOT_SUPPORTED;
#ifdef COMPUTING
    float *left = in_rows(a, transa, m, k), *right = in_rows(b, !transb, n, k);
    for (long column = 0; column < n; column++)
        for (long row = 0; row < m; row++) {
            const long at = row + column * c.leading;
            float sum = 0;
            for (long i = 0; i < k; i++) sum += left[row * k + i] * right[column * k + i];
            set(c, at, alpha * sum + (beta ? beta * number(c, at) : 0));
        }
    free(left);
    free(right);
#endif
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n,
                           int k, const float *alpha, const float *a, int lda, const float *b, int ldb,
                           const float *beta, float *c, int ldc) {
    return cublasGemmEx(handle, transa, transb, m, n, k, alpha, a, CUDA_R_32F, lda, b, CUDA_R_32F, ldb, beta, c,
                        CUDA_R_32F, ldc, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}
cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n,
                            int k, const void *alpha, const void *a, cudaDataType type_a, int lda, const void *b,
                            cudaDataType type_b, int ldb, const void *beta, void *c, cudaDataType type_c, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
    return cublasGemmStridedBatchedEx(handle, transa, transb, m, n, k, alpha, a, type_a, lda, 0, b, type_b, ldb, 0,
                                      beta, c, type_c, ldc, 0, 1, compute, algorithm);
}
cublasStatus_t cublasGemmStridedBatchedEx(
    cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k, const void *alpha,
    const void *a, cudaDataType type_a, int lda, long long stride_a, const void *b, cudaDataType type_b, int ldb,
    long long stride_b, const void *beta, void *c, cudaDataType type_c, int ldc, long long stride_c, int count,
    cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    jseg_products++;
    for (int i = 0; i < count && status == CUBLAS_STATUS_SUCCESS; i++) {
        const long bytes_a = type_a == CUDA_R_32F ? 4 : 2, bytes_b = type_b == CUDA_R_32F ? 4 : 2;
        const long bytes_c = type_c == CUDA_R_32F ? 4 : 2;
        status = product(transa, transb, m, n, k, *(float *)alpha, (Matrix){(char *)a + i * stride_a * bytes_a, type_a, lda},
                         (Matrix){(char *)b + i * stride_b * bytes_b, type_b, ldb}, *(float *)beta,
                         (Matrix){(char *)c + i * stride_c * bytes_c, type_c, ldc}, compute);
    }
    return status;
}
