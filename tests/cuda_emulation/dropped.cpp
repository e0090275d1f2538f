// Which weights the C++ kernels drop, for comparison with the CUDA kernels; how the latter divide their grids.
#include "primitives.cuh"
#include "vectors.h"

// Factors on the weights of rows [0, rows) with `keys` keys each.
extern "C" void keep_factors(uint64_t seed, long rows, long keys, float rate, float* factors) {
    const uint32_t threshold = rate * 4294967296.0;
    for (long row = 0; row < rows; row++)
        for (long key = 0; key < keys; key += jseg::LANES) {
            const long count = keys - key < jseg::LANES ? keys - key : jseg::LANES;
            jseg::store_some(factors + row * keys + key,
                             jseg::kept(jseg::stream_key(seed, row), key, threshold, 1 / (1 - rate)), count);
        }
}

extern "C" int grid_slices(int rows) { return jseg::grid_slices(rows); }
