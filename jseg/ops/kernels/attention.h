// Softmax attention whose scores never leave the cache: online softmax forward, recomputation backward.
//
// Dao, "FlashAttention-2", 2023, for CPU caches. Keys are packed per head and block; a strip of queries meets a block of
// keys in a register tile. Scores are kept in base 2: q is multiplied by log2(e) / sqrt(depth) beforehand.
//
// With regions (CLIP-RC's region-level bridge), the tokens are [leading | patches | regions]: leading tokens and patches
// attend to each other and to the prompts, a patch also to its own region; a region to its own patches and itself.
#pragma once

#include <cmath>
#include <vector>

#include "gemm.h"

namespace jseg {

constexpr float NEVER = -1e30f;  // a score whose weight is 0

// Tokens of all heads: head h of token t of image b is the `depth` floats at start + b * batch + t * row + h * depth.
template <class Float>
struct Tokens {
    Float* start;
    long batch, row;
    Float* at(long image, long token, long head, long depth) const {
        return start + image * batch + token * row + head * depth;
    }
};
typedef Tokens<const float> Input;
typedef Tokens<float> Output;

struct Problem {
    long batch, heads, depth;
    long queries, keys;            // without regions and prompts
    long prompts = 0;              // keys that are in tensors of their own
    bool causal = false;           // a query sees the keys up to its own place
    bool frozen = false;           // backward: only prompts get a gradient
    long leading = 0, rows = 0, columns = 0, region_rows = 0, region_columns = 0;
    float dropout = 0;             // share of the weights that is dropped
    uint64_t seed = 0;

    long regions() const { return region_rows * region_columns; }
    float scale() const { return 1 / std::sqrt((float)depth); }
    long all_keys() const { return keys + prompts; }
};

// Region of each query, -1 where there is none; regions are equal blocks of patches, the rest belongs to none.
static inline std::vector<long> region_of_query(const Problem& p) {
    std::vector<long> region(p.queries, -1);
    if (p.regions() == 0) return region;
    const long block_rows = p.rows / p.region_rows, block_columns = p.columns / p.region_columns;
    for (long y = 0; y < p.region_rows * block_rows; y++)
        for (long x = 0; x < p.region_columns * block_columns; x++)
            region[p.leading + y * p.columns + x] = y / block_rows * p.region_columns + x / block_columns;
    return region;
}

// Which weights of one query are dropped: the same in every pass, nothing is stored.
struct Dropped {
    uint64_t key;
    uint32_t threshold;
    float scale;
    Dropped(const Problem& p, long image, long head, long query)
        : key(stream_key(p.seed, (image * p.heads + head) * p.queries + query)),
          threshold((uint32_t)std::min(4294967295.0, p.dropout * 4294967296.0)),
          scale(1 / (1 - p.dropout)) {}
    Vector factors(long first_key) const { return kept(key, (uint32_t)first_key, threshold, scale); }
};

static inline float dot(const float* x, const float* y, long depth) {
    float sum = 0;
    for (long i = 0; i < depth; i++) sum += x[i] * y[i];
    return sum;
}

static inline void add(float* to, const float* x, float factor, long depth) {
    for (long i = 0; i < depth; i++) to[i] += factor * x[i];
}

// Rows [first, first + count) of one head, contiguous, times `factor`.
static inline void gather(Input from, long image, long head, long first, long count, long depth, float* to,
                          float factor = 1) {
    for (long i = 0; i < count; i++) {
        const float* row = from.at(image, first + i, head, depth);
        for (long c = 0; c < depth; c++) to[i * depth + c] = row[c] * factor;
    }
}

// Keys (or values) [first, first + count) of one head: those of the tokens, then those of the prompts.
static inline void gather_keys(const Problem& p, Input tokens, Input prompts, long image, long head, long first,
                               long count, float* to) {
    const long of_tokens = std::min(std::max(p.keys - first, 0L), count);
    gather(tokens, image, head, first, of_tokens, p.depth, to);
    gather(prompts, image, head, first + of_tokens - p.keys, count - of_tokens, p.depth, to + of_tokens * p.depth);
}

// Scores (rows, columns rounded up) = a (rows, depth) times packed keys; columns without a key get NEVER.
static inline void scores_of(const float* a, const float* packed, long rows, long columns, long depth, float* scores,
                             long stride, bool mask) {
    for (long column = 0; column < columns; column += TILE_COLUMNS, packed += depth * TILE_COLUMNS) {
        for (long row = 0; row < rows; row += TILE_ROWS) {
            const long height = std::min<long>(TILE_ROWS, rows - row);
            Sums sums;
            tile<ROWS>(height, a + row * depth, depth, packed, depth, sums);
            for (long r = 0; r < height; r++) {
                store(scores + (row + r) * stride + column, sums.left(r));
                store(scores + (row + r) * stride + column + LANES, sums.right(r));
            }
        }
    }
    for (long row = 0; mask && row < rows; row++)
        for (long c = columns; c < rounded_up(columns, TILE_COLUMNS); c++) scores[row * stride + c] = NEVER;
}

// A query does not see the keys after it.
static inline void hide_later_keys(float* scores, long stride, long rows, long columns, long first_row, long first_key) {
    for (long row = 0; row < rows; row++)
        for (long c = std::max(first_row + row + 1 - first_key, 0L); c < columns; c++) scores[row * stride + c] = NEVER;
}

// Rows [0, rows) of a region's own patches and itself, for loops over what a region sees.
template <class Visit>
static inline void each_key_of_region(const Problem& p, long region, const Visit& visit) {
    const long block_rows = p.rows / p.region_rows, block_columns = p.columns / p.region_columns;
    const long top = region / p.region_columns * block_rows, left = region % p.region_columns * block_columns;
    for (long y = top; y < top + block_rows; y++)
        for (long x = left; x < left + block_columns; x++) visit(p.leading + y * p.columns + x);
    visit(p.queries + region);
}

static inline void region_forward(const Problem& p, Input q, Input k, Input v, Output out, float* log_sums, long image,
                                  long head) {
    std::vector<float> weights;
    for (long region = 0; region < p.regions(); region++) {
        const float* query = q.at(image, p.queries + region, head, p.depth);
        float* to = out.at(image, p.queries + region, head, p.depth);
        float largest = NEVER, sum = 0;
        weights.clear();
        each_key_of_region(p, region, [&](long key) {
            weights.push_back(dot(query, k.at(image, key, head, p.depth), p.depth) * p.scale() * LOG2_E);
            largest = std::max(largest, weights.back());
        });
        for (float& weight : weights) sum += weight = std::exp2(weight - largest);
        std::fill(to, to + p.depth, 0.0f);
        long i = 0;
        each_key_of_region(p, region, [&](long key) { add(to, v.at(image, key, head, p.depth), weights[i++] / sum, p.depth); });
        log_sums[p.queries + region] = largest + std::log2(sum);
    }
}

// One strip of at most TILE_ROWS queries against one block of packed keys: scores become weights, sums go on.
static inline void softmax_strip(const Problem& p, float* scores, long stride, long rows, long columns, long first_key,
                                 float* largest, float* sums, float* shrink, const Dropped* dropped) {
    for (long r = 0; r < rows; r++) {
        float* row = scores + r * stride;
        Vector most = load(row), total = {};
        for (long c = LANES; c < columns; c += LANES) most = larger(most, load(row + c));
        const float now = std::max(largest[r], largest_of(most));
        for (long c = 0; c < columns; c += LANES) {
            Vector weight = exp2_of(load(row + c) - now);
            total += weight;
            if (p.dropout > 0) weight *= dropped[r].factors(first_key + c);
            store(row + c, weight);
        }
        shrink[r] = exp2_of(every(largest[r] - now))[0];
        sums[r] = sums[r] * shrink[r] + sum_of(total);
        largest[r] = now;
    }
}

constexpr long FORWARD_KEYS = 640;  // keys at once: packed keys and values of depth 64 take 320 KB

// Queries [start, end) of one head.
static inline void forward_head(const Problem& p, const std::vector<long>& region, Input q, Input k, Input v,
                                Input prompt_k, Input prompt_v, Output out, float* log_sums, long image, long head,
                                long start, long end) {
    const long depth = p.depth, depth_panels = rounded_up(depth, TILE_COLUMNS) / TILE_COLUMNS;
    const long blocks = std::max(1L, (p.all_keys() + FORWARD_KEYS - 1) / FORWARD_KEYS);
    const long block = rounded_up((p.all_keys() + blocks - 1) / blocks, TILE_COLUMNS), stride = block + LANES;
    const Buffer rows = new_buffer(block * depth), packed_k = new_buffer(block * depth);
    const Buffer packed_v = new_buffer(block * depth_panels * TILE_COLUMNS);
    const Buffer scores = new_buffer(TILE_ROWS * stride), strip = new_buffer(TILE_ROWS * depth);
    std::vector<float> largest(end - start, NEVER), sums(end - start, 0.0f);
    for (long first = 0; first < p.all_keys(); first += block) {
        const long count = std::min(block, p.all_keys() - first), columns = rounded_up(count, TILE_COLUMNS);
        gather_keys(p, k, prompt_k, image, head, first, count, rows.get());
        pack_columns(rows.get(), depth, depth, count, packed_k.get());
        gather_keys(p, v, prompt_v, image, head, first, count, rows.get());
        pack_rows(rows.get(), depth, count, depth, packed_v.get());
        for (long query = start; query < end; query += TILE_ROWS) {
            const long height = std::min<long>(TILE_ROWS, end - query);
            if (p.causal && query + height <= first) continue;
            gather(q, image, head, query, height, depth, strip.get(), p.scale() * LOG2_E);
            float* most = &largest[query - start];
            float* sum = &sums[query - start];
            float shrink[TILE_ROWS];
            std::vector<Dropped> dropped;
            for (long r = 0; r < height; r++) {
                if (p.dropout > 0) dropped.emplace_back(p, image, head, query + r);
                if (first > 0) continue;
                const long own = region[query + r];
                float* to = out.at(image, query + r, head, depth);
                if (own < 0) {
                    std::fill(to, to + depth, 0.0f);
                } else {  // the sums start with the key that only this block of patches sees
                    most[r] = dot(strip.get() + r * depth, k.at(image, p.queries + own, head, depth), depth);
                    sum[r] = 1;
                    std::copy_n(v.at(image, p.queries + own, head, depth), depth, to);
                }
            }
            scores_of(strip.get(), packed_k.get(), height, count, depth, scores.get(), stride, true);
            if (p.causal) hide_later_keys(scores.get(), stride, height, count, query, first);
            softmax_strip(p, scores.get(), stride, height, columns, first, most, sum, shrink, dropped.data());
            const bool last = first + block >= p.all_keys() || (p.causal && query + height <= first + block);
            for (long panel = 0; panel < depth_panels; panel++) {
                const float* values = packed_v.get() + panel * count * TILE_COLUMNS;
                const long width = std::min<long>(depth - panel * TILE_COLUMNS, TILE_COLUMNS);
                Sums products;
                tile<ROWS>(height, scores.get(), stride, values, count, products);
                for (long r = 0; r < height; r++) {
                    float* to = out.at(image, query + r, head, depth) + panel * TILE_COLUMNS;
                    const float factor = last ? 1 / sum[r] : 1.0f;
                    const long of_left = std::min<long>(width, LANES), of_right = width - of_left;
                    store_some(to, (load_some(to, of_left) * shrink[r] + products.left(r)) * factor, of_left);
                    if (of_right == 0) continue;
                    to += LANES;
                    store_some(to, (load_some(to, of_right) * shrink[r] + products.right(r)) * factor, of_right);
                }
            }
            if (last)
                for (long r = 0; r < height; r++) log_sums[query + r] = most[r] + std::log2(sum[r]);
        }
    }
}

// out (batch, queries + regions, heads * depth) and log_sums (batch, heads, queries + regions): log2 of the sum of
// 2^score, which is all that the backward pass needs of the softmax.
static inline void attention_forward(const Problem& p, Input q, Input k, Input v, Input prompt_k, Input prompt_v,
                                     Output out, float* log_sums) {
    const std::vector<long> region = region_of_query(p);
    const long all = p.queries + p.regions(), pairs = p.batch * p.heads;
    const long wanted = (4L * omp_get_max_threads() + pairs - 1) / pairs;
    const long parts = std::max(1L, std::min(wanted, p.queries / (10 * TILE_ROWS)));
    const long part = rounded_up((p.queries + parts - 1) / parts, TILE_ROWS);
#pragma omp parallel for schedule(dynamic, 1)
    for (long task = 0; task < pairs * parts; task++) {
        const long pair = task / parts, image = pair / p.heads, head = pair % p.heads, start = task % parts * part;
        if (start < p.queries)
            forward_head(p, region, q, k, v, prompt_k, prompt_v, out, log_sums + pair * all, image, head, start,
                         std::min(p.queries, start + part));
        if (start == 0) region_forward(p, q, k, v, out, log_sums + pair * all, image, head);
    }
}

}  // namespace jseg
