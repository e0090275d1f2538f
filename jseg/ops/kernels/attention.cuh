// What forward and backward attention on CUDA share: the problem, who sees whom, tiles in shared memory.
//
// Dao, "FlashAttention-2", 2023: a block of four warps owns rows (queries, or keys in the gradient of keys), 16 or 32 a
// warp, and walks over tiles of the other side, which arrive by asynchronous copies while the tile before is worked on.
// Scores stay in registers. Tokens of CLIP-RC are [leading | patches | regions], followed as keys by the prompts; regions
// lie in the same tiles as everything else and the few tiles that hold region tokens are masked by computation.
#pragma once

#include "fragments.cuh"

namespace jseg {

enum Mask { FULL, CAUSAL, REGIONS };

// Tokens of all heads: head h of token t of image b is the `depth` numbers at start + b * image + t * row + h * depth.
template <class Number>
struct Tokens {
    Number* start;
    long image, row;
    __device__ __forceinline__ Number* at(int number, int head, int depth) const { return start + number * image + head * depth; }
};

struct Problem {
    int batch, heads, depth;
    int queries, keys;             // tokens, regions included
    int prompts = 0;               // keys that are in tensors of their own
    int dense = 0;                 // REGIONS: tokens before the regions
    int leading = 0, columns = 1;  // REGIONS: tokens before the patches; patches in a row
    int block_rows = 1, block_columns = 1, region_rows = 0, region_columns = 0;  // patches of a region; regions
    uint32_t threshold = 0;        // share of the weights that is dropped, times 2^32
    float kept = 1;                // factor on the others
    const uint64_t* seed = nullptr;
    bool frozen = false;           // backward: only prompts get a gradient
    int first_block = 0;           // of keys with a gradient
    float score_scale = 0;         // log2(e) / sqrt(depth): scores are exponents of 2
    float gradient_scale = 0;      // 1 / sqrt(depth)
    bool aligned = false;          // rows of all tokens start at multiples of 16 bytes and are multiples of them long
};

constexpr int WARPS = 4, THREADS = WARPS * WARP;
constexpr float NEVER = -1e30f;  // a score whose weight is 0

template <class T, int DEPTH>
struct Shape {
    static constexpr bool SMALL = sizeof(typename T::Number) == 2 && DEPTH <= 64;
    static constexpr int LEFTS = SMALL ? 2 : 1;                                   // 16-row factors of a warp
    static constexpr int WARP_ROWS = 16 * LEFTS, ROWS = WARPS * WARP_ROWS;        // of a block
    static constexpr int COLUMNS = sizeof(typename T::Number) == 2 ? 64 : 32;     // of a tile of the other side
    static constexpr int STRIDE = stride_of<DEPTH>, TILE = COLUMNS * STRIDE, OWN = ROWS * STRIDE;
    static constexpr int BLOCKS = 2;  // a multiprocessor's; leaves 255 registers a thread
};

// --- who sees whom -------------------------------------------------------------------------------------------------

// REGIONS: what a token is. Patches: their region, NO_REGION for those without one and for leading tokens.
constexpr int NO_REGION = -1, PROMPT = -2, NOWHERE = -3, REGION = 1 << 24;

__device__ __forceinline__ int region_of(const Problem& p, int token) {
    const int patch = token - p.leading, row = patch / p.columns, column = patch % p.columns;
    if (patch < 0) return NO_REGION;
    const int y = row / p.block_rows, x = column / p.block_columns;
    return y < p.region_rows && x < p.region_columns ? y * p.region_columns + x : NO_REGION;
}

template <Mask MASK>
__device__ __forceinline__ int mark_of_query(const Problem& p, int query) {
    if constexpr (MASK != REGIONS) return query;
    return query < p.dense ? region_of(p, query) : REGION + query - p.dense;
}

template <Mask MASK>
__device__ __forceinline__ int mark_of_key(const Problem& p, int key) {
    if constexpr (MASK != REGIONS) return key < p.keys ? key : 1 << 30;
    if (key < p.dense) return region_of(p, key);
    if (key < p.keys) return REGION + key - p.dense;
    return key < p.keys + p.prompts ? PROMPT : NOWHERE;
}

template <Mask MASK>
__device__ __forceinline__ bool sees(int query, int key) {
    if constexpr (MASK == FULL) return key < 1 << 30;
    if constexpr (MASK == CAUSAL) return key <= query;
    if (query >= REGION) return key == query || key == query - REGION;  // itself and its own patches
    return (key >= PROMPT && key < REGION) || key == query + REGION;    // its own region
}

// Whether some pair of queries from `query` and keys from `key` on, so many, does not see each other.
template <Mask MASK>
__device__ __forceinline__ bool needs_mask(const Problem& p, int query, int queries, int key, int keys) {
    if (key + keys > p.keys + p.prompts) return true;
    if constexpr (MASK == CAUSAL) return key + keys > query + 1;
    if constexpr (MASK == REGIONS) return query + queries > p.dense || (key + keys > p.dense && key < p.keys);
    return false;
}

// --- dropped weights, as in the C++ kernels -------------------------------------------------------------------------

struct Stream {
    uint32_t low, high;
};

// Random numbers of one row of weights.
__device__ __forceinline__ Stream stream_of_row(const Problem& p, int pair, int query) {
    const uint64_t key = stream_key(*p.seed, (uint64_t)pair * p.queries + query);
    return {(uint32_t)key, (uint32_t)(key >> 32)};
}

// Factor on the weight of one key: drawn again in every pass, nothing is stored.
__device__ __forceinline__ float keep_factor(const Problem& p, Stream stream, int key) {
    return random_bits(stream.low, stream.high, (uint32_t)key) >= p.threshold ? p.kept : 0.0f;
}

// --- tiles ---------------------------------------------------------------------------------------------------------

// Rows of one head of one image: those of the tokens, then those of the prompts.
template <class Number>
struct Rows {
    Number *tokens, *prompts;
    long row, prompt_row;
    int count, total;
    __device__ __forceinline__ Number* at(int i) const { return i < count ? tokens + i * row : prompts + (i - count) * prompt_row; }
};

template <class Number>
__device__ __forceinline__ Rows<Number> rows_of(const Tokens<Number>& tokens, const Problem& p, int image, int head, int count) {
    return {tokens.at(image, head, p.depth), nullptr, tokens.row, 0, count, count};
}

template <class Number>
__device__ __forceinline__ Rows<Number> rows_of(const Tokens<Number>& tokens, const Tokens<Number>& prompts, const Problem& p,
                                                int image, int head) {
    return {tokens.at(image, head, p.depth), prompts.at(image, head, p.depth), tokens.row, prompts.row, p.keys,
            p.keys + p.prompts};
}

// Tiles of keys that queries before `end` see.
template <Mask MASK>
__device__ __forceinline__ int tiles_of_keys(const Problem& p, int end, int tile) {
    const int keys = MASK == CAUSAL ? min(end, p.keys) : p.keys + p.prompts;
    return (keys + tile - 1) / tile;
}

// Starts fetching rows [first, first + COUNT) into a tile; 0 beyond the last row and the last number of a row.
template <class T, int DEPTH, int COUNT>
__device__ __forceinline__ void fetch(const Problem& p, typename T::Number* tile, const Rows<const typename T::Number>& from,
                                      int first) {
    constexpr int AT_ONCE = 16 / sizeof(typename T::Number), PER_ROW = DEPTH / AT_ONCE;
#pragma unroll
    for (int i = thread_index(); i < COUNT * PER_ROW; i += THREADS) {
        const int row = i / PER_ROW, column = i % PER_ROW * AT_ONCE;
        const bool inside = first + row < from.total && column < p.depth;
        const typename T::Number* source = inside ? from.at(first + row) + column : from.tokens;
        typename T::Number* to = tile + row * stride_of<DEPTH> + column;
        if (p.aligned)
            copy_later<16>(to, source, inside);
        else
            for (int e = 0; e < AT_ONCE; e++) to[e] = inside && column + e < p.depth ? source[e] : 0;
    }
}

struct alignas(16) Chunk {
    uint32_t words[4];
};

// Writes a warp's sums times `factors` to rows from `first` on, through the warp's own rows of a tile.
template <class T, int DEPTH, int LEFTS>
__device__ __forceinline__ void write_rows(const Problem& p, typename T::Number* tile, const float (&sums)[LEFTS][DEPTH / 8][4],
                                           const float (&factors)[LEFTS][2], const Rows<typename T::Number>& to, int first) {
    constexpr int AT_ONCE = 16 / sizeof(typename T::Number), PER_ROW = DEPTH / AT_ONCE, STRIDE = stride_of<DEPTH>;
    synchronise_warp();
#pragma unroll
    for (int m = 0; m < LEFTS; m++)
#pragma unroll
        for (int n = 0; n < DEPTH / 8; n++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                T::store_two(tile + (16 * m + 8 * half + lane_index() / 4) * STRIDE + 8 * n + lane_index() % 4 * 2,
                             sums[m][n][2 * half] * factors[m][half], sums[m][n][2 * half + 1] * factors[m][half]);
    synchronise_warp();
    for (int i = lane_index(); i < 16 * LEFTS * PER_ROW; i += WARP) {
        const int row = i / PER_ROW, column = i % PER_ROW * AT_ONCE;
        if (first + row >= to.total || column >= p.depth) continue;
        const typename T::Number* from = tile + row * STRIDE + column;
        typename T::Number* target = to.at(first + row) + column;
        if (p.aligned)
            *reinterpret_cast<Chunk*>(target) = *reinterpret_cast<const Chunk*>(from);
        else
            for (int e = 0; e < AT_ONCE && column + e < p.depth; e++) target[e] = from[e];
    }
}

// A warp's rows of a tile as left factors: in registers where the number type keeps them there.
template <class T, int DEPTH, int LEFTS, bool KEEP = T::KEEP_LEFT>
struct LeftRows {
    const typename T::Number* rows;
    typename T::Left kept[KEEP ? LEFTS : 1][KEEP ? DEPTH / T::STEP : 1];

    __device__ __forceinline__ void keep() {
        if constexpr (KEEP)
#pragma unroll
            for (int m = 0; m < LEFTS; m++)
#pragma unroll
                for (int k = 0; k < DEPTH / T::STEP; k++)
                    T::load(kept[m][k], rows + 16 * m * stride_of<DEPTH> + k * T::STEP, stride_of<DEPTH>);
    }
    __device__ __forceinline__ typename T::Left get(int m, int k) const {
        if constexpr (KEEP) return kept[m][k];
        typename T::Left left;
        T::load(left, rows + 16 * m * stride_of<DEPTH> + k * T::STEP, stride_of<DEPTH>);
        return left;
    }
};

// sums of 8 columns and of the next 8 += left times right. Tensor cores cut off what they add: float32 keeps its digits
// when long sums are added up outside of them.
template <class T>
__device__ __forceinline__ void multiply_add(float (&first)[4], float (&second)[4], const typename T::Left& left,
                                             const typename T::Right& right) {
    if constexpr (!T::SUMS_APART) return T::multiply_add(first, second, left, right);
    float apart[2][4] = {};
    T::multiply_add(apart[0], apart[1], left, right);
#pragma unroll
    for (int i = 0; i < 4; i++) first[i] += apart[0][i], second[i] += apart[1][i];
}

// products (16 LEFTS x 16), in two halves of 8 columns, += left rows times 16 rows of a tile, transposed.
template <class T, int DEPTH, int LEFTS, bool KEEP>
__device__ __forceinline__ void multiply_rows(float (*products)[4], int stride, const LeftRows<T, DEPTH, LEFTS, KEEP>& left,
                                              const typename T::Number* rows) {
#pragma unroll
    for (int k = 0; k < DEPTH / T::STEP; k++) {
        typename T::Right right;
        T::load(right, rows + k * T::STEP, stride_of<DEPTH>);
#pragma unroll
        for (int m = 0; m < LEFTS; m++)
            multiply_add<T>(products[m * stride], products[m * stride + 1], left.get(m, k), right);
    }
}

// sums (16 LEFTS x DEPTH) += weights (16 LEFTS x 16, in two halves) times 16 rows of a tile.
template <class T, int DEPTH, int LEFTS>
__device__ __forceinline__ void add_weighted_rows(float (&sums)[LEFTS][DEPTH / 8][4], const float (*weights)[4], int stride,
                                                  const typename T::Number* rows) {
    constexpr int STEPS = 16 / T::STEP;
    typename T::Left left[LEFTS][STEPS];
#pragma unroll
    for (int m = 0; m < LEFTS; m++)
#pragma unroll
        for (int step = 0; step < STEPS; step++)
            sums_to_left<T>(left[m][step], weights[m * stride], weights[m * stride + 1], step);
#pragma unroll
    for (int n = 0; n < DEPTH / 8; n += 2)
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            typename T::Right right;
            T::load_transposed(right, rows + step * T::STEP * stride_of<DEPTH> + 8 * n, stride_of<DEPTH>);
#pragma unroll
            for (int m = 0; m < LEFTS; m++) multiply_add<T>(sums[m][n], sums[m][n + 1], left[m][step], right);
        }
}

// --- host ----------------------------------------------------------------------------------------------------------

// Whether 16-byte copies will do for all these tokens.
template <class Number>
bool are_aligned(const Problem& p, const Tokens<Number>& tokens) {
    constexpr long AT_ONCE = 16 / sizeof(Number);
    return reinterpret_cast<uintptr_t>(tokens.start) % 16 == 0 && tokens.image % AT_ONCE == 0 && tokens.row % AT_ONCE == 0 &&
           p.depth % AT_ONCE == 0;
}

template <class First, class... Others>
bool are_aligned(const Problem& p, const First& first, const Others&... others) {
    return are_aligned(p, first) && are_aligned(p, others...);
}

inline int tiles_of(int count, int tile) { return (count + tile - 1) / tile; }

}  // namespace jseg
