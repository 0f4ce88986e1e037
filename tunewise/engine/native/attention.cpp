// Attention over segments that lie behind one another in one row, forward and backward, on a CPU.
//
// Legend: T tokens of all segments, H query heads, G key-value heads (H a multiple of G), D the width of a head.
// q, out, dout, dq: (T, H, D).  k, v, dk, dv: (T, G, D).  lse: (T, H), the logarithm of each softmax's denominator.
// A query sees the keys of its own segment: all of them, or (causal) those up to itself, or the last `window` of those.
// Keys may be other tokens than queries (a decoder's attention over its encoder): their segments begin at `key_starts`,
// and a query whose segment has no key gets zeros. A bias of each head that depends on key - query may join the scores.
//
// Inputs are float32 or bfloat16; everything inside is float32. One task is a segment and a key-value head with all the
// query heads that share it, so that no two tasks write to the same place. Queries are taken TALL at a time, a tile of
// the products, so that little is computed that the mask takes away; the gradients of keys and values are added up for
// BLOCK of them at once.
//
// Dao et al. 2022, FlashAttention, arXiv:2205.14135, algorithms 1 and 4, without the tiling of keys: they fit a cache.

#include <omp.h>

#include "products.h"

constexpr int BLOCK = 22 * TALL;  // queries, as many as are usual in a segment

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
    // the keys that queries i0 to i0 + m are scored with: whole vectors, and whole tiles of keys
    int begin(int i0) const { return first(i0) / TALL * TALL / WIDTH * WIDTH; }
    int end(int i0, int m, int n) const {
        return std::min(padded(n), padded((last(i0 + m - 1, n) + TALL - 1) / TALL * TALL));
    }
    // the first query that sees one of the TALL keys from j0 on, and the one behind the last, where there is one
    int first_query(int j0) const { return causal ? j0 : window > 0 ? std::max(0, j0 - window + 1) : 0; }
    int last_query(int j0, int n) const { return window > 0 ? std::min(n, j0 + TALL - 1 + window) : n; }
};

// Scores of queries i0 to i0 + m as they enter the softmax, (m, ld), MASKED where nothing is seen; q (m, terms padded).
template <class Kind>
static void scores(const Shape& shape, int head, int i0, int m, int n, const float* q, const float* keys, float* s, int ld) {
    const float* bias = shape.bias_of(head);
    const int depth = Kind::depth(shape.D), begin = shape.begin(i0), end = shape.end(i0, m, n);
    product<Kind>(m, end - begin, depth, q, padded(depth), 1, keys + begin, ld, s + begin, ld, false);
    for (int i = 0; i < m; i++) {
        float* row = s + (long)i * ld;
        const int first = shape.first(i0 + i), last = shape.last(i0 + i, n);
        if (shape.softcap > 0)
            for (int j = first; j < last; j++) row[j] = shape.softcap * std::tanh(row[j] * shape.scale / shape.softcap);
        else
            for (int j = begin; j < end; j += WIDTH) at(row + j) *= shape.scale;
        if (bias)
            for (int j = begin; j < end; j += WIDTH) at(row + j) += at(bias - (i0 + i) + j);
        std::fill(row + begin, row + first, MASKED);
        std::fill(row + last, row + end, MASKED);
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

// A row of scores becomes exponentials, all less the largest; lse is the logarithm of what the scores' own sum up to,
// inverse 1 over the sum of what stands in the row.
struct Softmax {
    float lse, inverse;
    static Softmax of(float* row, int n) {
        Vector most = Vector{} + MASKED, total = Vector{};
        for (int j = 0; j < n; j += WIDTH) most = at(row + j) > most ? at(row + j) : most;
        const float top = largest(most);
        for (int j = 0; j < n; j += WIDTH) total += at(row + j) = exponential(at(row + j) - top);
        return {top + std::log(sum(total)), 1 / sum(total)};
    }
};

// A row of scores becomes the weights, and that of the weights' gradients those of the scores; slopes: (n,) scratch.
template <bool CAPPED>
static void through_softmax(const Shape& shape, float lse, float* row, float* gradients, float* slopes, int n) {
    Vector total = Vector{};
    const float inverse_square = CAPPED ? 1 / (shape.softcap * shape.softcap) : 0;
    for (int j = 0; j < n; j += WIDTH) {
        // d(cap tanh(x / cap)) / dx = 1 - (capped / cap)^2
        if (CAPPED) at(slopes + j) = shape.scale - shape.scale * inverse_square * at(row + j) * at(row + j);
        at(row + j) = exponential(at(row + j) - lse);
        total += at(row + j) * at(gradients + j);
    }
    const float mean = sum(total);
    for (int j = 0; j < n; j += WIDTH) {
        const Vector through = at(row + j) * (at(gradients + j) - mean);
        at(gradients + j) = CAPPED ? through * at(slopes + j) : through * shape.scale;
    }
}

// How far apart rows of n scores lie: where many would share the same few lines of a cache, a vector more.
static int leading(int n) { return padded(n) % 128 ? padded(n) : padded(n) + WIDTH; }

// strides: of a token and of a head, in numbers, of q, k, v, dout
template <class Number>
static void forward(const Number* q, const Number* k, const Number* v, Number* out, float* lse, const long* strides,
                    const int* starts, const Shape& shape) {
    using Kind = Terms<Number>;
    const std::vector<int> order = largest_first(starts, shape);
    const int H = shape.H, G = shape.G, D = shape.D, d = padded(D), terms = padded(Kind::depth(D));
    const auto ask = [&](const Number* tensor, int which, int task, int head, int i0) __attribute__((always_inline)) {
        const int* from = which == 2 || which == 4 ? shape.key_starts : starts;
        const int start = from[task / G] + i0, n = from[task / G + 1] - start;
        prefetch(tensor + start * strides[which] + head * strides[which + 1], strides[which], std::min(TALL, n), D);
    };
#pragma omp parallel
    {
        Scratch scratch;
#pragma omp for schedule(dynamic, 1)
        for (int task = 0; task < (int)order.size(); task++) {
            const int segment = order[task] / G, g = order[task] % G, start = starts[segment];
            const int n_queries = starts[segment + 1] - start, key_start = shape.key_starts[segment];
            const int n = shape.key_starts[segment + 1] - key_start, ld = leading(n);
            // what this thread will probably take next
            const int coming = order[std::min(task + omp_get_num_threads(), (int)order.size() - 1)];
            float *values = scratch.of((size_t)n * d + (size_t)terms * ld + (size_t)TALL * (ld + d + terms)),
                  *keys = values + (long)n * d, *s = keys + (long)terms * ld, *o = s + (long)TALL * ld,
                  *queries = o + (long)TALL * d;
            transpose<Kind>(k + key_start * strides[2] + g * strides[3], strides[2], n, D, keys, ld);
            gather(v + key_start * strides[4] + g * strides[5], strides[4], n, D, values);
            for (int h = g * (H / G); h < (g + 1) * (H / G); h++)
                for (int i0 = 0; i0 < n_queries; i0 += TALL) {
                    const int m = std::min(TALL, n_queries - i0), begin = shape.begin(i0), last = shape.last(i0 + m - 1, n);
                    Number* to = out + ((long)(start + i0) * H + h) * D;
                    prefetch<1>(to, (long)H * D, m, D);
                    const bool is_last = h + 1 == (g + 1) * (H / G);
                    ask(q, 0, is_last ? coming : order[task], is_last ? coming % G * (H / G) : h + 1, i0);
                    if (is_last) ask(k, 2, coming, coming % G, i0), ask(v, 4, coming, coming % G, i0);
                    gather<Kind>(q + (start + i0) * strides[0] + h * strides[1], strides[0], m, D, queries);
                    scores<Kind>(shape, h, i0, m, n, queries, keys, s, ld);
                    float inverse[TALL];
                    for (int i = 0; i < m; i++) {
                        float* row = s + (long)i * ld;
                        const Softmax softmax = Softmax::of(row + begin, last - begin);
                        if (shape.dropout.p > 0) {
                            const uint32_t drawn = shape.dropout.of_row(h, start + i0 + i);
                            for (int j = begin; j < last; j += WIDTH) at(row + j) *= shape.dropout.factors(drawn, j);
                        }
                        inverse[i] = n > 0 ? softmax.inverse : 0;
                        lse[(long)(start + i0 + i) * H + h] = softmax.lse;
                    }
                    product(m, d, last - begin, s + begin, ld, 1, values + (long)begin * d, d, o, d, false);
                    for (int i = 0; i < m; i++)
                        for (int j = 0; j < d; j += WIDTH) at(o + i * d + j) *= inverse[i];
                    scatter(o, m, D, to, (long)H * D);
                }
        }
    }
}

template <class Number>
static void backward(const Number* q, const Number* k, const Number* v, const Number* dout, const float* lse,
                     Number* dq, Number* dk, Number* dv, float* dbias, const long* strides, const int* starts,
                     const Shape& shape) {
    using Kind = Terms<Number>;
    // of every segment and head its own, and added up in their order: the sum is the same with any number of threads
    std::vector<float> dbiases(dbias ? (size_t)shape.n_segments * shape.H * shape.bias_row : 0);
    const std::vector<int> order = largest_first(starts, shape);
    const int H = shape.H, G = shape.G, D = shape.D, d = padded(D), depth = Kind::depth(D), terms = padded(depth);
    const auto through = shape.softcap > 0 ? through_softmax<true> : through_softmax<false>;
    const auto ask = [&](const Number* tensor, int which, int task, int head, int i0) __attribute__((always_inline)) {
        const int* from = which == 2 || which == 4 ? shape.key_starts : starts;
        const int start = from[task / G] + i0, n = from[task / G + 1] - start;
        prefetch(tensor + start * strides[which] + head * strides[which + 1], strides[which], std::min(TALL, n), D);
    };
#pragma omp parallel
    {
        Scratch scratch;
#pragma omp for schedule(dynamic, 1)
        for (int task = 0; task < (int)order.size(); task++) {
            const int segment = order[task] / G, g = order[task] % G, start = starts[segment];
            const int n_queries = starts[segment + 1] - start, key_start = shape.key_starts[segment];
            const int n = shape.key_starts[segment + 1] - key_start, ld = leading(n);
            // what this thread will probably take next
            const int coming = order[std::min(task + omp_get_num_threads(), (int)order.size() - 1)];
            // blocks of one size, as near to BLOCK as whole tiles and this segment allow
            const int n_blocks = std::max(1, (n_queries + BLOCK - 1) / BLOCK),
                      size = (n_queries + n_blocks * TALL - 1) / (n_blocks * TALL) * TALL;
            const long rows = (long)n * d, columns = (long)terms * ld;
            const long block = (long)size * d, weights = (long)size * ld;
            float *keys = scratch.of(3 * rows + 2 * columns + 2 * block + 2 * weights + ld + TALL * (d + 2 * terms)),
                  *to_keys = keys + rows, *to_values = to_keys + rows, *keys_t = to_values + rows,
                  *values_t = keys_t + columns, *queries = values_t + columns, *outer = queries + block,
                  *p = outer + block, *dp = p + weights, *slopes = dp + weights, *to_queries = slopes + ld,
                  *pairs = to_queries + (long)TALL * d;
            Number *const dk_rows = dk + ((long)key_start * G + g) * D, *const dv_rows = dv + ((long)key_start * G + g) * D;
            gather(k + key_start * strides[2] + g * strides[3], strides[2], n, D, keys);
            transpose<Kind>(k + key_start * strides[2] + g * strides[3], strides[2], n, D, keys_t, ld);
            transpose<Kind>(v + key_start * strides[4] + g * strides[5], strides[4], n, D, values_t, ld);
            std::fill(to_keys, to_keys + 2 * rows, 0.0f);
            for (int h = g * (H / G); h < (g + 1) * (H / G); h++)
                for (int b0 = 0; b0 < n_queries; b0 += size) {
                    float* to_bias = dbias ? dbiases.data() + ((long)segment * H + h) * shape.bias_row + shape.middle : nullptr;
                    const int b1 = std::min(n_queries, b0 + size);
                    const bool is_last = h + 1 == (g + 1) * (H / G);
                    const Number *q_rows = q + (start + b0) * strides[0] + h * strides[1],
                                 *dout_rows = dout + (start + b0) * strides[6] + h * strides[7];
                    gather(q_rows, strides[0], b1 - b0, D, queries);
                    gather(dout_rows, strides[6], b1 - b0, D, outer);
                    for (int i0 = b0; i0 < b1; i0 += TALL) {
                        const int m = std::min(TALL, b1 - i0), begin = shape.begin(i0), end = shape.end(i0, m, n);
                        const int last = shape.last(i0 + m - 1, n), row = i0 - b0;
                        float *s = p + (long)row * ld, *ds = dp + (long)row * ld;
                        Number* to = dq + ((long)(start + i0) * H + h) * D;
                        const int next = is_last ? coming : order[task];
                        const int next_h = is_last ? coming % G * (H / G) : h + 1;
                        ask(q, 0, next, next_h, i0), ask(dout, 6, next, next_h, i0);
                        const float *left = queries + (long)row * d, *outer_left = outer + (long)row * d;
                        if (!std::is_same_v<Kind, Singles>) {
                            left = gather<Kind>(q_rows + row * strides[0], strides[0], m, D, pairs);
                            outer_left =
                                gather<Kind>(dout_rows + row * strides[6], strides[6], m, D, pairs + TALL * terms);
                        }
                        scores<Kind>(shape, h, i0, m, n, left, keys_t, s, ld);
                        if (is_last) ask(k, 2, coming, coming % G, i0), ask(v, 4, coming, coming % G, i0);
                        product<Kind>(m, end - begin, depth, outer_left, terms, 1, values_t + begin, ld, ds + begin, ld,
                                      false);
                        prefetch<1>(to, (long)H * D, m, D);
                        if (is_last) {
                            prefetch<1>(dk_rows + (long)i0 * G * D, (long)G * D, m, D);
                            prefetch<1>(dv_rows + (long)i0 * G * D, (long)G * D, m, D);
                        }
                        for (int i = 0; i < m; i++, s += ld, ds += ld) {
                            const uint32_t drawn = shape.dropout.of_row(h, start + i0 + i);
                            const auto drop = [&](float* of) {
                                for (int j = begin; j < end; j += WIDTH) at(of + j) *= shape.dropout.factors(drawn, j);
                            };
                            if (shape.dropout.p > 0) drop(ds);
                            const float of_row = lse[(long)(start + i0 + i) * H + h];
                            through(shape, of_row, s + begin, ds + begin, slopes, end - begin);
                            if (to_bias)
                                for (int j = begin; j < end; j += WIDTH) at(to_bias - (i0 + i) + j) += at(ds + j);
                            if (shape.dropout.p > 0) drop(s);
                        }
                        ds = dp + (long)row * ld;
                        product(m, d, last - begin, ds + begin, ld, 1, keys + (long)begin * d, d, to_queries, d, false);
                        scatter(to_queries, m, D, to, (long)H * D);
                    }
                    for (int j0 = 0; j0 < n; j0 += TALL) {
                        const int i0 = std::max(b0, shape.first_query(j0)), i1 = std::min(b1, shape.last_query(j0, n_queries));
                        if (i0 >= i1) continue;
                        const int m = std::min(TALL, n - j0);
                        const long seen = (long)(i0 - b0) * ld + j0, row = (long)(i0 - b0) * d, to = (long)j0 * d;
                        product(m, d, i1 - i0, p + seen, 1, ld, outer + row, d, to_values + to, d, true);
                        product(m, d, i1 - i0, dp + seen, 1, ld, queries + row, d, to_keys + to, d, true);
                    }
                }
            scatter(to_keys, n, D, dk_rows, (long)G * D);
            scatter(to_values, n, D, dv_rows, (long)G * D);
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
