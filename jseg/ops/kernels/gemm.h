// Products of float matrices: one register tile, packing, and a blocked parallel product with a fused last step.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "vectors.h"

namespace jseg {

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};
typedef std::unique_ptr<float, Free> Buffer;

static inline Buffer new_buffer(long floats) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, floats * sizeof(float) + 64)) throw std::bad_alloc();
    return Buffer(static_cast<float*>(memory));
}

static inline long rounded_up(long length, long unit) { return (length + unit - 1) / unit * unit; }

// How a left-hand matrix lies in memory: element (row, k) is at row * row_stride + k * depth_stride.
enum Side { ROWS, COLUMNS };  // ROWS: depth_stride = 1, COLUMNS: row_stride = 1

// The sums of one tile on their way to where they belong.
struct Sums {
    alignas(64) float values[TILE_ROWS * TILE_COLUMNS];
    Vector left(long row) const { return load(values + row * TILE_COLUMNS); }
    Vector right(long row) const { return load(values + row * TILE_COLUMNS + LANES); }
};

// to(r, c) = sum over k < depth of a(r, k) * panel(k, c). `stride` is the one of a that is not 1; `panel` is (depth,
// TILE_COLUMNS), contiguous; `to` has row stride `to_stride`. Kept out of line: it is the bulk of the code and of the
// time, and is wanted once.
template <Side SIDE>
static __attribute__((noinline)) void multiply_tile(const float* a, long stride, const float* panel, long depth,
                                                    float* to, long to_stride) {
    constexpr int BASES = TILE_ROWS / 3;  // three rows share a pointer: there are only 16 general registers
    const float* base[BASES];
    for (int i = 0; i < BASES; i++) base[i] = a + (SIDE == ROWS ? 3 * i * stride : 0);
    Vector sums[TILE_ROWS][2] = {};
    for (long k = 0; k < depth; k++, panel += TILE_COLUMNS) {
        const Vector left = load(panel), right = load(panel + LANES);
#pragma GCC unroll 16
        for (int r = 0; r < TILE_ROWS; r++) {
            const Vector x = every(SIDE == ROWS ? base[r / 3][k + (r % 3) * stride] : a[k * stride + r]);
            sums[r][0] += x * left;
            sums[r][1] += x * right;
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < TILE_ROWS; r++) {
        store(to + r * to_stride, sums[r][0]);
        store(to + r * to_stride + LANES, sums[r][1]);
    }
}

// The same with `rows` <= TILE_ROWS rows; of a nothing beyond them is read, what `to` gets there means nothing.
template <Side SIDE>
static inline void tile(long rows, const float* a, long stride, const float* panel, long depth, float* to,
                        long to_stride = TILE_COLUMNS) {
    if (rows == TILE_ROWS) return multiply_tile<SIDE>(a, stride, panel, depth, to, to_stride);
    const Buffer padded = new_buffer(depth * TILE_ROWS);
    for (long k = 0; k < depth; k++)
        for (long r = 0; r < TILE_ROWS; r++)
            padded.get()[k * TILE_ROWS + r] = r < rows ? (SIDE == ROWS ? a[r * stride + k] : a[k * stride + r]) : 0;
    multiply_tile<COLUMNS>(padded.get(), TILE_ROWS, panel, depth, to, to_stride);
}

// Copies (depth, columns) with row stride `stride` into panels (columns / TILE_COLUMNS, panel_depth, TILE_COLUMNS), zeros
// at the end of the last one; `factor` multiplies every element. A panel is `panel_depth` >= depth rows deep.
static inline void pack_rows(const float* from, long stride, long depth, long columns, float* panels, float factor,
                             long panel_depth) {
    for (long first = 0; first < columns; first += TILE_COLUMNS, panels += panel_depth * TILE_COLUMNS) {
        const long width = std::min<long>(TILE_COLUMNS, columns - first);
        for (long k = 0; k < depth; k++) {
            const float* source = from + k * stride + first;
            float* target = panels + k * TILE_COLUMNS;
            if (width == TILE_COLUMNS) {
                store(target, load(source) * factor);
                store(target + LANES, load(source + LANES) * factor);
            } else {
                for (long c = 0; c < TILE_COLUMNS; c++) target[c] = c < width ? source[c] * factor : 0;
            }
        }
    }
}

static inline void pack_rows(const float* from, long stride, long depth, long columns, float* panels, float factor = 1) {
    pack_rows(from, stride, depth, columns, panels, factor, depth);
}

// Transposes each block of 2 HALF x 2 HALF in LANES rows of LANES floats: exchanges two quarters, then goes on with all
// four.
template <int HALF>
static inline void exchange_blocks(Vector* rows);

template <>
inline void exchange_blocks<0>(Vector*) {}

template <int HALF>
static inline void exchange_blocks(Vector* rows) {
    Integers low, high;
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) {
        low[i] = (i & HALF) ? LANES + i - HALF : i;
        high[i] = (i & HALF) ? LANES + i : i + HALF;
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) {
        if (i & HALF) continue;
        const Vector a = rows[i], b = rows[i + HALF];
        rows[i] = __builtin_shuffle(a, b, low);
        rows[i + HALF] = __builtin_shuffle(a, b, high);
    }
    exchange_blocks<HALF / 2>(rows);
}

// LANES rows of LANES floats, transposed in registers, times `factor`.
static inline void transpose_block(const float* from, long from_stride, float factor, float* to, long to_stride) {
    Vector rows[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) rows[i] = load(from + i * from_stride) * factor;
    exchange_blocks<LANES / 2>(rows);
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) store(to + i * to_stride, rows[i]);
}

// Copies the transpose of (columns, depth) with row stride `stride` into panels as `pack_rows` makes them.
static inline void pack_columns(const float* from, long stride, long depth, long columns, float* panels,
                                float factor = 1) {
    for (long first = 0; first < columns; first += TILE_COLUMNS, panels += depth * TILE_COLUMNS) {
        const long width = std::min<long>(TILE_COLUMNS, columns - first);
        for (int half = 0; half < 2; half++) {
            const float* source = from + (first + half * LANES) * stride;
            float* target = panels + half * LANES;
            const long filled = std::min<long>(std::max<long>(width - half * LANES, 0), LANES);
            long k = 0;
            if (filled == LANES)
                for (; k + LANES <= depth; k += LANES)
                    transpose_block(source + k, stride, factor, target + k * TILE_COLUMNS, TILE_COLUMNS);
            for (; k < depth; k++)
                for (long c = 0; c < LANES; c++)
                    target[k * TILE_COLUMNS + c] = c < filled ? source[c * stride + k] * factor : 0;
        }
    }
}

// Copies columns [0, columns) of (depth, …) with row stride `stride` into tiles (columns / TILE_ROWS, depth, TILE_ROWS).
static inline void pack_tiles(const float* from, long stride, long depth, long columns, float* tiles) {
    for (long k = 0; k < depth; k++, from += stride)
        for (long first = 0; first < columns; first += TILE_ROWS) {
            float* to = tiles + first * depth + k * TILE_ROWS;
            if (columns - first >= TILE_ROWS) {
                std::memcpy(to, from + first, TILE_ROWS * sizeof(float));
            } else {
                for (long r = 0; r < TILE_ROWS; r++) to[r] = first + r < columns ? from[first + r] : 0;
            }
        }
}

constexpr long DEPTH_BLOCK = 768;  // packed panel of 96 KB and ROW_BLOCK rows of a: both stay in a 1 MB cache
constexpr long ROW_BLOCK = 8 * TILE_ROWS;

// out(m, n) = finish(sum over k of a(m, k) * b(k, n)).
//
// a: (rows, depth), as SIDE says, stride `a_stride`. b: (depth, columns) with row stride `b_stride`; when `b_transposed`
// (columns, depth). out: (rows, columns), row stride `out_stride`. `finish(row, column, x, lanes)` gets each sum
// (Vector of LANES columns, of which the first `lanes` count) and returns what is to be stored.
template <Side SIDE, class Finish>
static __attribute__((noinline)) void product(long rows, long columns, long depth, const float* a, long a_stride, const float* b, long b_stride,
                    bool b_transposed, float* out, long out_stride, const Finish& finish) {
    if (rows <= 0 || columns <= 0) return;
    const long panels = (columns + TILE_COLUMNS - 1) / TILE_COLUMNS, row_blocks = (rows + ROW_BLOCK - 1) / ROW_BLOCK;
    // equal blocks of depth; equal groups of panels, so that few rows still give work to all threads
    const long depth_blocks = std::max<long>(1, (depth + DEPTH_BLOCK - 1) / DEPTH_BLOCK);
    const long depth_block = std::max<long>(1, (depth + depth_blocks - 1) / depth_blocks);
    const long wanted = std::max<long>(1, 6 * omp_get_max_threads() / row_blocks);
    const long group = std::max<long>(1, panels / wanted), groups = (panels + group - 1) / group;
    Buffer packed = new_buffer(panels * depth_block * TILE_COLUMNS);
#pragma omp parallel
    for (long from = 0; from < std::max<long>(depth, 1); from += depth_block) {
        const long length = std::min(depth_block, depth - from);
        const bool first_block = from == 0, last_block = from + depth_block >= depth;
#pragma omp for schedule(dynamic, 4)
        for (long panel = 0; panel < panels; panel++) {
            const long column = panel * TILE_COLUMNS, width = std::min<long>(TILE_COLUMNS, columns - column);
            float* to = packed.get() + panel * length * TILE_COLUMNS;
            if (b_transposed)
                pack_columns(b + column * b_stride + from, b_stride, length, width, to);
            else
                pack_rows(b + from * b_stride + column, b_stride, length, width, to);
        }
#pragma omp for schedule(dynamic, 1)
        for (long task = 0; task < row_blocks * groups; task++) {
            const long row_start = task / groups * ROW_BLOCK, row_end = std::min(rows, row_start + ROW_BLOCK);
            const long panel_start = task % groups * group, panel_end = std::min(panels, panel_start + group);
            // Rows a multiple of 4 KB apart would all fall into the same few places of the first cache, and columns
            // far apart would each take a page of the address cache.
            const bool copied = SIDE == COLUMNS || a_stride % 1024 == 0;
            const long copy_stride = SIDE == COLUMNS ? TILE_ROWS : rounded_up(length, LANES) + LANES;
            const Buffer copy = new_buffer(copied ? ROW_BLOCK * std::max(copy_stride, length) : 0);
            for (long row = row_start; copied && SIDE == ROWS && row < row_end; row++)
                std::memcpy(copy.get() + (row - row_start) * copy_stride, a + row * a_stride + from, length * 4);
            if (SIDE == COLUMNS) pack_tiles(a + from * a_stride + row_start, a_stride, length, row_end - row_start, copy.get());
            for (long panel = panel_start; panel < panel_end; panel++) {
                const float* b_panel = packed.get() + panel * length * TILE_COLUMNS;
                const long column = panel * TILE_COLUMNS, width = columns - column;
                for (long row = row_start; row < row_end; row += TILE_ROWS) {
                    const float* a_tile = SIDE == COLUMNS ? copy.get() + (row - row_start) * length
                                          : copied        ? copy.get() + (row - row_start) * copy_stride
                                                          : a + row * a_stride + from;
                    const long count = std::min<long>(TILE_ROWS, row_end - row);
                    Sums sums;
                    tile<SIDE>(count, a_tile, copied ? copy_stride : a_stride, b_panel, length, sums.values);
                    const auto put = [&](long r, long here, Vector sum, auto lanes) {
                        float* to = out + (row + r) * out_stride + here;
                        if (!first_block) sum += load_some(to, lanes);
                        if (last_block) sum = finish(row + r, here, sum, lanes);
                        store_some(to, sum, lanes);
                    };
                    for (long r = 0; r < count; r++) {
                        if (width >= TILE_COLUMNS) {
                            put(r, column, sums.left(r), ALL_LANES());
                            put(r, column + LANES, sums.right(r), ALL_LANES());
                        } else {
                            put(r, column, sums.left(r), std::min<long>(width, LANES));
                            if (width > LANES) put(r, column + LANES, sums.right(r), width - LANES);
                        }
                    }
                }
            }
        }
    }
}

}  // namespace jseg
