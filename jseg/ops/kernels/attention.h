// Softmax attention whose scores never leave the cache: online softmax forward, recomputation backward.
//
// Dao, "FlashAttention-2", 2023, for CPU caches. Keys are packed per head and block; a strip of queries meets a block of
// keys in a register tile. Scores are kept in base 2: one side is multiplied by log2(e) / sqrt(depth) beforehand.
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
          threshold(drop_threshold(p.dropout)),
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

// Rows [first, first + count) of one head, contiguous.
static inline void gather(Input from, long image, long head, long first, long count, long depth, float* to) {
    for (long i = 0; i < count; i++) std::copy_n(from.at(image, first + i, head, depth), depth, to + i * depth);
}

// Keys (or values) [first, first + count) of one head: those of the tokens, then those of the prompts.
static inline void gather_keys(const Problem& p, Input tokens, Input prompts, long image, long head, long first,
                               long count, float* to) {
    const long of_tokens = std::min(std::max(p.keys - first, 0L), count);
    gather(tokens, image, head, first, of_tokens, p.depth, to);
    gather(prompts, image, head, first + of_tokens - p.keys, count - of_tokens, p.depth, to + of_tokens * p.depth);
}

// Scores (rows, columns; both rounded up to tiles) = a (rows, depth) times packed keys; columns without a key get NEVER.
static inline void scores_of(const float* a, long a_stride, const float* packed, long rows, long columns, long depth,
                             float* scores, long stride, bool mask) {
    for (long column = 0; column < columns; column += TILE_COLUMNS, packed += depth * TILE_COLUMNS)
        for (long row = 0; row < rows; row += TILE_ROWS)
            tile<ROWS>(std::min<long>(TILE_ROWS, rows - row), a + row * a_stride, a_stride, packed, depth,
                       scores + row * stride + column, stride);
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
            const Vector weight = exp2_of(load(row + c) - now);
            total += weight;
            store(row + c, weight);
        }
        for (long c = 0; p.dropout > 0 && c < columns; c += LANES)
            store(row + c, load(row + c) * dropped[r].factors(first_key + c));
        shrink[r] = exp2_of(every(largest[r] - now))[0];
        sums[r] = sums[r] * shrink[r] + sum_of(total);
        largest[r] = now;
    }
}

constexpr long FORWARD_KEYS = 640;  // keys at once: packed keys and values of depth 64 take 320 KB

// What a thread's forward pass works in.
struct ForwardSpace {
    long block, stride;  // keys at once, row stride of the scores
    Buffer rows, packed_k, packed_v, scores;
    explicit ForwardSpace(const Problem& p)
        : block(rounded_up(even_part(p.all_keys(), FORWARD_KEYS), TILE_COLUMNS)),
          stride(block + LANES),
          rows(new_buffer(block * p.depth)),
          packed_k(new_buffer(block * p.depth)),
          packed_v(new_buffer(block * rounded_up(p.depth, TILE_COLUMNS))),
          scores(new_buffer(TILE_ROWS * stride)) {}

    // Length of the parts of `length` when they are equal and at most `most`.
    static long even_part(long length, long most) {
        const long parts = std::max(1L, (length + most - 1) / most);
        return (length + parts - 1) / parts;
    }

    // Packs keys [first, first + count), scaled, and their values.
    void pack(const Problem& p, Input k, Input v, Input prompt_k, Input prompt_v, long image, long head, long first,
              long count) {
        const long depth = p.depth, of_tokens = std::min(std::max(p.keys - first, 0L), count);
        const long direct = of_tokens / TILE_COLUMNS * TILE_COLUMNS, rest = count - direct;
        const float scale = p.scale() * LOG2_E;
        pack_columns(k.at(image, first, head, depth), k.row, depth, direct, packed_k.get(), scale);
        gather_keys(p, k, prompt_k, image, head, first + direct, rest, rows.get());
        pack_columns(rows.get(), depth, depth, rest, packed_k.get() + direct * depth, scale);
        pack_rows(v.at(image, first, head, depth), v.row, of_tokens, depth, packed_v.get(), 1, count);
        pack_rows(prompt_v.at(image, first + of_tokens - p.keys, head, depth), prompt_v.row, count - of_tokens, depth,
                  packed_v.get() + of_tokens * TILE_COLUMNS, 1, count);
    }
};

// out (height, depth) = (out * shrink + weights (height, count) times packed values) * factor, row by row.
static inline void add_values(const float* weights, long stride, const float* packed, long height, long count,
                              long depth, const float* shrink, const float* factor, float* out, long out_stride) {
    for (long column = 0; column < depth; column += TILE_COLUMNS, packed += count * TILE_COLUMNS) {
        Sums sums;
        tile<ROWS>(height, weights, stride, packed, count, sums.values);
        const long of_left = std::min<long>(depth - column, LANES);
        const long of_right = std::min<long>(depth - column - of_left, LANES);
        for (long r = 0; r < height; r++) {
            float* to = out + r * out_stride + column;
            store_some(to, (load_some(to, of_left) * shrink[r] + sums.left(r)) * factor[r], of_left);
            if (of_right == 0) continue;
            to += LANES;
            store_some(to, (load_some(to, of_right) * shrink[r] + sums.right(r)) * factor[r], of_right);
        }
    }
}

// Queries [start, end) of one head.
static inline void forward_head(const Problem& p, ForwardSpace& space, const std::vector<long>& region, Input q, Input k,
                                Input v, Input prompt_k, Input prompt_v, Output out, float* log_sums, long image,
                                long head, long start, long end) {
    const long depth = p.depth, block = space.block;
    float* scores = space.scores.get();
    std::vector<float> largest(end - start, NEVER), sums(end - start, 0.0f);
    std::vector<Dropped> dropped;
    for (long first = 0; first < p.all_keys(); first += block) {
        const long count = std::min(block, p.all_keys() - first), columns = rounded_up(count, TILE_COLUMNS);
        space.pack(p, k, v, prompt_k, prompt_v, image, head, first, count);
        for (long query = start; query < end; query += TILE_ROWS) {
            const long height = std::min<long>(TILE_ROWS, end - query);
            if (p.causal && query + height <= first) continue;
            const float* queries = q.at(image, query, head, depth);
            float* to = out.at(image, query, head, depth);
            float *most = &largest[query - start], *sum = &sums[query - start];
            float shrink[TILE_ROWS], factor[TILE_ROWS];
            dropped.clear();
            for (long r = 0; r < height; r++) {
                if (p.dropout > 0) dropped.emplace_back(p, image, head, query + r);
                if (first > 0) continue;
                const long own = region[query + r];
                if (own < 0) {
                    std::fill_n(to + r * out.row, depth, 0.0f);
                } else {  // the sums start with the key that only this block of patches sees
                    const float* key = k.at(image, p.queries + own, head, depth);
                    most[r] = dot(queries + r * q.row, key, depth) * p.scale() * LOG2_E;
                    sum[r] = 1;
                    std::copy_n(v.at(image, p.queries + own, head, depth), depth, to + r * out.row);
                }
            }
            scores_of(queries, q.row, space.packed_k.get(), height, count, depth, scores, space.stride, true);
            if (p.causal) hide_later_keys(scores, space.stride, height, count, query, first);
            softmax_strip(p, scores, space.stride, height, columns, first, most, sum, shrink, dropped.data());
            const bool last = first + block >= p.all_keys() || (p.causal && query + height <= first + block);
            for (long r = 0; r < height; r++) {
                factor[r] = last ? 1 / sum[r] : 1;
                if (last) log_sums[query + r] = most[r] + std::log2(sum[r]);
            }
            add_values(scores, space.stride, space.packed_v.get(), height, count, depth, shrink, factor, to, out.row);
        }
    }
}

// out (batch, queries + regions, heads * depth) and log_sums (batch, heads, queries + regions): log2 of the sum of
// 2^score, which is all that the backward pass needs of the softmax.
static inline void attention_forward(const Problem& p, Input q, Input k, Input v, Input prompt_k, Input prompt_v,
                                     Output out, float* log_sums) {
    const std::vector<long> region = region_of_query(p);
    const long all = p.queries + p.regions(), pairs = p.batch * p.heads;
    if (pairs == 0) return;
    const long wanted = (4L * omp_get_max_threads() + pairs - 1) / pairs;
    const long parts = std::max(1L, std::min(wanted, p.queries / (10 * TILE_ROWS)));
    const long part = rounded_up((p.queries + parts - 1) / parts, TILE_ROWS);
#pragma omp parallel
    {
        ForwardSpace space(p);
#pragma omp for schedule(dynamic, 1)
        for (long task = 0; task < pairs * parts; task++) {
            const long pair = task / parts, image = pair / p.heads, head = pair % p.heads, start = task % parts * part;
            if (start < p.queries)
                forward_head(p, space, region, q, k, v, prompt_k, prompt_v, out, log_sums + pair * all, image, head,
                             start, std::min(p.queries, start + part));
            if (start == 0) region_forward(p, q, k, v, out, log_sums + pair * all, image, head);
        }
    }
}

// Self-attention whose queries, keys and values lie side by side in one tensor (batch, tokens, 3 * width); keys and values
// of prompts likewise in another, which all images may share. `number(name)` gives a size.
struct Joint {
    Problem p;
    long width, image, prompt_image;
    Input q, k, v, prompt_k, prompt_v;

    template <class Numbers>
    Joint(const Numbers& number, const float* projected, const float* prompts) {
        const long dense = number("tokens") - number("region_rows") * number("region_columns");
        p = Problem{(long)number("batch"), (long)number("heads"), (long)number("depth"), dense, dense};
        p.prompts = number("prompts"), p.causal = number("causal"), p.frozen = number("frozen");
        p.leading = number("leading"), p.rows = number("rows"), p.columns = number("columns");
        p.region_rows = number("region_rows"), p.region_columns = number("region_columns");
        width = p.heads * p.depth, image = 3 * width * (p.queries + p.regions());
        prompt_image = number("shared") ? 0 : 3 * width * p.prompts;
        q = {projected, image, 3 * width}, k = {projected + width, image, 3 * width};
        v = {projected + 2 * width, image, 3 * width};
        prompt_k = {prompts + width, prompt_image, 3 * width}, prompt_v = {prompts + 2 * width, prompt_image, 3 * width};
    }
};

template <class Numbers>
static inline void joint_forward(const Numbers& number, const float* projected, const float* prompts, float* out,
                                 float* log_sums) {
    const Joint x(number, projected, prompts);
    attention_forward(x.p, x.q, x.k, x.v, x.prompt_k, x.prompt_v, Output{out, x.image / 3, x.width}, log_sums);
}

// Attention of queries (batch, queries, width) to keys and values (batch, keys, width).
struct Cross {
    Problem p;
    long width;
    Input q, k, v;

    template <class Numbers>
    Cross(const Numbers& number, const float* queries, const float* keys, const float* values, const void* seed) {
        p = Problem{(long)number("batch"), (long)number("heads"), (long)number("depth"), (long)number("queries"),
                    (long)number("keys")};
        p.dropout = number("dropout"), p.seed = seed_of(seed);
        width = p.heads * p.depth;
        q = {queries, p.queries * width, width}, k = {keys, p.keys * width, width}, v = {values, p.keys * width, width};
    }
};

template <class Numbers>
static inline void cross_forward(const Numbers& number, const float* q, const float* k, const float* v, const void* seed,
                                 float* out, float* log_sums) {
    const Cross x(number, q, k, v, seed);
    attention_forward(x.p, x.q, x.k, x.v, x.k, x.v, Output{out, x.q.batch, x.width}, log_sums);
}

}  // namespace jseg
