// Attention over segments that lie behind one another in one row, forward and backward, on a CPU.
//
// Legend: T tokens of all segments, H query heads, G key-value heads (H a multiple of G), D the width of a head.
// q, out, dout, dq: (T, H, D).  k, v, dk, dv: (T, G, D).  lse: (T, H), the logarithm of each softmax's denominator.
// A query sees the keys of its own segment: all of them, or (causal) those up to itself, or the last `window` of those.
// Keys may be other tokens than queries (a decoder's attention over its encoder): their segments begin at `key_starts`,
// and a query whose segment has no key gets zeros. A bias of each head that depends on key - query may join the scores.
//
// Inputs are float32 or bfloat16; everything inside is float32. One task is a segment and a key-value head with all the
// query heads that share it, so that no two tasks write to the same place. Scratch is padded with zeros to whole
// vectors, and queries are taken BLOCK at a time, so that a segment's scores need BLOCK rows and not all of them.
//
// Dao et al. 2022, FlashAttention, arXiv:2205.14135, algorithms 1 and 4, without the tiling of keys: they fit a cache.

#include "products.h"

// 1 / (1 - p) where a weight is kept and 0 where it is dropped: a function of (seed, head, query, key), so that the
// backward finds what the forward drew. The mixing is Wellons' lowbias32.
struct Dropout {
    uint32_t seed;
    float p;
    static uint32_t mix(uint32_t x) {
        x = (x ^ (x >> 16)) * 0x7feb352du;
        x = (x ^ (x >> 15)) * 0x846ca68bu;
        return x ^ (x >> 16);
    }
    uint32_t of_row(int head, int query) const { return mix(mix(seed + (uint32_t)query) ^ (uint32_t)head * 0x9E3779B9u); }
    Vector factors(uint32_t of_row, int j) const {
        const uint32_t dropped = (uint32_t)(p * 4294967296.0);
        Vector kept;
        for (int i = 0; i < WIDTH; i++)
            kept[i] = mix(of_row + (uint32_t)(j + i) * 0x9E3779B9u) < dropped ? 0.0f : 1.0f / (1.0f - p);
        return kept;
    }
};

struct Shape {
    int n_segments, H, G, D;
    float scale, softcap;
    int causal, window;
    Dropout dropout;
    const int* key_starts;
    const float* bias;  // (H, bias_row), that of key - query = 0 in column `middle`, a vector of zeros at the end; or null
    int middle, bias_row;
    const float* bias_of(int head) const { return bias ? bias + (long)head * bias_row + middle : nullptr; }
    // the first key that query i of a segment of n sees, and the one behind the last
    int first(int i) const { return window > 0 ? std::max(0, i - window + 1) : 0; }
    int last(int i, int n) const {
        if (causal) return i + 1;
        return window > 0 ? std::min(n, i + window) : n;
    }
};

// Scores of queries i0 to i0 + m of a head as they enter the softmax, (m, n padded), MASKED where nothing is seen.
static void scores(const Shape& shape, int head, int i0, int m, int n, const float* q, const float* keys, float* s) {
    const float* bias = shape.bias_of(head);
    const int width = padded(n), d = padded(shape.D), columns = std::min(width, padded(shape.last(i0 + m - 1, n)));
    product(m, columns, shape.D, q + (long)i0 * d, d, 1, keys, width, s, width, false);
    for (int i = 0; i < m; i++) {
        float* row = s + (long)i * width;
        const int first = shape.first(i0 + i), last = shape.last(i0 + i, n);
        if (shape.softcap > 0)
            for (int j = first; j < last; j++) row[j] = shape.softcap * std::tanh(row[j] * shape.scale / shape.softcap);
        else
            for (int j = 0; j < columns; j += WIDTH) at(row + j) *= shape.scale;
        if (bias)
            for (int j = 0; j < columns; j += WIDTH) at(row + j) += at(bias - (i0 + i) + j);
        std::fill(row, row + first, MASKED);
        std::fill(row + last, row + columns, MASKED);
    }
}

static std::vector<int> largest_first(const int* starts, const Shape& shape) {
    std::vector<int> order(shape.n_segments * shape.G);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int one, int other) {
        one /= shape.G, other /= shape.G;
        return starts[one + 1] - starts[one] > starts[other + 1] - starts[other];
    });
    return order;
}

// strides: of a token and of a head, in numbers, of q, k, v, dout
template <class Number>
static void forward(const Number* q, const Number* k, const Number* v, Number* out, float* lse, const long* strides,
                    const int* starts, const Shape& shape) {
    const std::vector<int> order = largest_first(starts, shape);
    const int H = shape.H, G = shape.G, D = shape.D, d = padded(D);
#pragma omp parallel
    {
        std::vector<float> scratch;
#pragma omp for schedule(dynamic, 1)
        for (int task = 0; task < (int)order.size(); task++) {
            const int segment = order[task] / G, g = order[task] % G, start = starts[segment];
            const int n_queries = starts[segment + 1] - start, key_start = shape.key_starts[segment];
            const int n = shape.key_starts[segment + 1] - key_start, width = padded(n);
            const long size = (long)std::max(n, n_queries) * d;
            scratch.resize((size_t)3 * size + (size_t)D * width + (size_t)BLOCK * (width + d));
            float *queries = scratch.data(), *rows = queries + size, *values = rows + size, *keys = values + size,
                  *s = keys + (long)D * width, *o = s + (long)BLOCK * width;
            gather(k + key_start * strides[2] + g * strides[3], strides[2], n, D, rows);
            transpose(rows, n, D, keys);
            gather(v + key_start * strides[4] + g * strides[5], strides[4], n, D, values);
            for (int h = g * (H / G); h < (g + 1) * (H / G); h++) {
                gather(q + start * strides[0] + h * strides[1], strides[0], n_queries, D, queries);
                for (int i0 = 0; i0 < n_queries; i0 += BLOCK) {
                    const int m = std::min(BLOCK, n_queries - i0), last = shape.last(i0 + m - 1, n);
                    scores(shape, h, i0, m, n, queries, keys, s);
                    float inverse[BLOCK];
                    for (int i = 0; i < m; i++) {
                        float* row = s + (long)i * width;
                        Vector most = Vector{} + MASKED, sum = Vector{};
                        for (int j = 0; j < last; j += WIDTH) most = at(row + j) > most ? at(row + j) : most;
                        float largest = MASKED, total = 0;
                        for (int j = 0; j < WIDTH; j++) largest = std::max(largest, most[j]);
                        for (int j = 0; j < last; j += WIDTH) sum += at(row + j) = exponential(at(row + j) - largest);
                        for (int j = 0; j < WIDTH; j++) total += sum[j];
                        inverse[i] = n > 0 ? 1 / total : 0;
                        if (shape.dropout.p > 0) {
                            const uint32_t drawn = shape.dropout.of_row(h, start + i0 + i);
                            for (int j = 0; j < last; j += WIDTH) at(row + j) *= shape.dropout.factors(drawn, j);
                        }
                        lse[(long)(start + i0 + i) * H + h] = n > 0 ? largest + std::log(total) : 0;
                    }
                    product(m, d, last, s, width, 1, values, d, o, d, false);
                    for (int i = 0; i < m; i++)
                        for (int j = 0; j < d; j += WIDTH) at(o + i * d + j) *= inverse[i];
                    scatter(o, m, D, out + ((long)(start + i0) * H + h) * D, (long)H * D);
                }
            }
        }
    }
}

template <class Number>
static void backward(const Number* q, const Number* k, const Number* v, const Number* dout, const float* lse,
                     Number* dq, Number* dk, Number* dv, float* dbias, const long* strides, const int* starts,
                     const Shape& shape) {
    const std::vector<int> order = largest_first(starts, shape);
    const int H = shape.H, G = shape.G, D = shape.D, d = padded(D);
    // of every segment and head its own, and added up in their order: the sum is the same with any number of threads
    std::vector<float> dbiases(dbias ? (size_t)shape.n_segments * H * shape.bias_row : 0);
    const float inverse_square = shape.softcap > 0 ? 1 / (shape.softcap * shape.softcap) : 0;
#pragma omp parallel
    {
        std::vector<float> scratch;
#pragma omp for schedule(dynamic, 1)
        for (int task = 0; task < (int)order.size(); task++) {
            const int segment = order[task] / G, g = order[task] % G, start = starts[segment];
            const int n_queries = starts[segment + 1] - start, key_start = shape.key_starts[segment];
            const int n = shape.key_starts[segment + 1] - key_start, width = padded(n);
            const long rows = (long)std::max(n, n_queries) * d, columns = (long)D * width;
            scratch.assign((size_t)6 * rows + 2 * columns + (size_t)BLOCK * (2 * width + d) + width, 0.0f);
            float *queries = scratch.data(), *keys = queries + rows, *values = keys + rows, *outer = values + rows,
                  *to_keys = outer + rows, *to_values = to_keys + rows, *keys_t = to_values + rows,
                  *values_t = keys_t + columns, *p = values_t + columns, *dp = p + (long)BLOCK * width,
                  *to_queries = dp + (long)BLOCK * width, *slopes = to_queries + (long)BLOCK * d;
            gather(k + key_start * strides[2] + g * strides[3], strides[2], n, D, keys);
            gather(v + key_start * strides[4] + g * strides[5], strides[4], n, D, values);
            transpose(keys, n, D, keys_t);
            transpose(values, n, D, values_t);
            for (int h = g * (H / G); h < (g + 1) * (H / G); h++) {
                gather(q + start * strides[0] + h * strides[1], strides[0], n_queries, D, queries);
                gather(dout + start * strides[6] + h * strides[7], strides[6], n_queries, D, outer);
                float* to_bias = dbias ? dbiases.data() + ((long)segment * H + h) * shape.bias_row + shape.middle : nullptr;
                for (int i0 = 0; i0 < n_queries; i0 += BLOCK) {
                    const int m = std::min(BLOCK, n_queries - i0), last = shape.last(i0 + m - 1, n);
                    scores(shape, h, i0, m, n, queries, keys_t, p);
                    product(m, padded(last), D, outer + (long)i0 * d, d, 1, values_t, width, dp, width, false);
                    for (int i = 0; i < m; i++) {
                        float *row = p + (long)i * width, *grow = dp + (long)i * width;
                        const float denominator = lse[(long)(start + i0 + i) * H + h];
                        Vector sum = Vector{};
                        const uint32_t drawn = shape.dropout.of_row(h, start + i0 + i);
                        if (shape.dropout.p > 0)
                            for (int j = 0; j < last; j += WIDTH) at(grow + j) *= shape.dropout.factors(drawn, j);
                        // d(cap tanh(x / cap)) / dx = 1 - (capped / cap)^2; without a cap that is 1
                        for (int j = 0; j < last; j += WIDTH) {
                            at(slopes + j) = shape.scale - shape.scale * inverse_square * at(row + j) * at(row + j);
                            at(row + j) = exponential(at(row + j) - denominator);
                            sum += at(row + j) * at(grow + j);
                        }
                        float total = 0;
                        for (int j = 0; j < WIDTH; j++) total += sum[j];
                        for (int j = 0; j < last; j += WIDTH)
                            at(grow + j) = at(row + j) * (at(grow + j) - total) * at(slopes + j);
                        if (to_bias)
                            for (int j = 0; j < last; j += WIDTH) at(to_bias - (i0 + i) + j) += at(grow + j);
                        if (shape.dropout.p > 0)
                            for (int j = 0; j < last; j += WIDTH) at(row + j) *= shape.dropout.factors(drawn, j);
                    }
                    product(last, d, m, p, 1, width, outer + (long)i0 * d, d, to_values, d, true);
                    product(last, d, m, dp, 1, width, queries + (long)i0 * d, d, to_keys, d, true);
                    product(m, d, last, dp, width, 1, keys, d, to_queries, d, false);
                    scatter(to_queries, m, D, dq + ((long)(start + i0) * H + h) * D, (long)H * D);
                }
            }
            scatter(to_keys, n, D, dk + ((long)key_start * G + g) * D, (long)G * D);
            scatter(to_values, n, D, dv + ((long)key_start * G + g) * D, (long)G * D);
        }
    }
    for (size_t i = 0; i < dbiases.size(); i++) dbias[i % ((size_t)H * shape.bias_row)] += dbiases[i] / shape.scale;
}

static Shape shape_of(const int* sizes, const float* scales, const int* key_starts, const float* bias) {
    return {sizes[0], sizes[1], sizes[2], sizes[3], scales[0], scales[1], sizes[4], sizes[5],
            {(uint32_t)sizes[6], scales[2]}, key_starts, bias, sizes[7], sizes[8]};
}

extern "C" {

// strides: of a token and of a head, in numbers, of q, k, v and (backward) dout; sizes: segments, H, G, D, causal, window,
// the seed of dropout, and of a bias the column of key - query = 0 and how many columns there are; scales: of scores,
// softcap, the share that is dropped. bias is null where there is none, dbias where it is not wanted, or (H, columns)
// zeros.
void tunewise_attention_forward(int is_bfloat16, const void* q, const void* k, const void* v, const float* bias,
                                void* out, float* lse, const long* strides, const int* starts, const int* key_starts,
                                const int* sizes, const float* scales) {
    const Shape shape = shape_of(sizes, scales, key_starts, bias);
    if (is_bfloat16)
        forward((const Bfloat16*)q, (const Bfloat16*)k, (const Bfloat16*)v, (Bfloat16*)out, lse, strides, starts, shape);
    else
        forward((const float*)q, (const float*)k, (const float*)v, (float*)out, lse, strides, starts, shape);
}

void tunewise_attention_backward(int is_bfloat16, const void* q, const void* k, const void* v, const float* bias,
                                 const void* dout, const float* lse, void* dq, void* dk, void* dv, float* dbias,
                                 const long* strides, const int* starts, const int* key_starts, const int* sizes,
                                 const float* scales) {
    const Shape shape = shape_of(sizes, scales, key_starts, bias);
    if (is_bfloat16)
        backward((const Bfloat16*)q, (const Bfloat16*)k, (const Bfloat16*)v, (const Bfloat16*)dout, lse,
                 (Bfloat16*)dq, (Bfloat16*)dk, (Bfloat16*)dv, dbias, strides, starts, shape);
    else
        backward((const float*)q, (const float*)k, (const float*)v, (const float*)dout, lse, (float*)dq, (float*)dk,
                 (float*)dv, dbias, strides, starts, shape);
}
}
