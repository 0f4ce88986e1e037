// Attention of segments that each continue something read before: forward only, causal, on a CPU.
//
// Legend: T tokens of all segments, H query heads, G key-value heads (H a multiple of G), D the width of a head,
// P tokens of the prefix, N rows of keys and values. q, out: (T, H, D).  k, v: (N, G, D).
// Prefix, float32 and shared by all segments: keys (G, D, P padded), values (G, P, D padded).
// A query sees the prefix, then its segment's context (rows of k and v read earlier: a prompt, a cache), then its own
// segment up to itself; of all that the last `window` tokens, where there is a window.
//
// One task is a key-value head and a run of segments of at most BLOCK queries together (or one longer segment): the
// prefix is met by all queries of a run at once, so that its keys and values are loaded once for the run and not once
// for a segment; so is a context by the neighbouring segments that share it. Keys come in tiles that fit a cache.
//
// Milakov & Gimelshein 2018, arXiv:1805.02867, algorithm 3 (the softmax over tiles); Juravsky et al. 2024, Hydragen,
// arXiv:2402.05099, section 3 (attention over a shared prefix apart from the rest).

#include "products.h"

namespace {

constexpr int TILE = 512;  // keys at a time
constexpr int BLOCK = 32;  // queries at a time
constexpr int FEW = 4;     // queries for which keys are not turned round

struct Call {
    int n_segments, H, G, D, window, n_prefix, keys_width, values_width;  // the last two: of a row of the prefix
    float scale, softcap;
};

// What a segment is: where its queries, its own keys and its context begin, and how many there are.
struct Segment {
    int32_t queries, n, keys, context, n_context;
};

// Queries, scaled, and what they gathered so far: the largest score, the sum of exponentials, the weighted values.
struct Gathered {
    const float* queries;  // (m, D padded)
    const int* positions;  // (m,)
    float *most, *total, *out;
};

// The keys, (D, width) or where the width is 0 (n, D padded), and values, (n, values_width), of tokens at positions
// `from` and up.
struct Seen {
    const float *keys, *values;
    int n, width, values_width, from;
};

void meet(const Call& call, int m, const Gathered& rows, const Seen& seen, float* s) {
    const int d = padded(call.D);
    for (int j0 = 0; j0 < seen.n; j0 += TILE) {
        const int n = std::min(TILE, seen.n - j0);
        int first[BLOCK], last[BLOCK], begin = n, end = 0;
        for (int i = 0; i < m; i++) {
            const int distance = rows.positions[i] - seen.from - j0;
            last[i] = std::min(n, distance + 1);
            first[i] = call.window > 0 ? std::max(0, distance - call.window + 1) : 0;
            if (first[i] >= last[i]) continue;
            begin = std::min(begin, first[i]);
            end = std::max(end, last[i]);
        }
        if (begin >= end) continue;
        begin = begin / WIDTH * WIDTH;
        const int columns = padded(end) - begin;
        if (seen.width)
            product(m, columns, call.D, rows.queries, d, 1, seen.keys + j0 + begin, seen.width, s, TILE, false);
        else
            dots(m, end - begin, d, rows.queries, seen.keys + (long)(j0 + begin) * d, s, TILE);
        for (int i = 0; i < m; i++) {
            float* row = s + (long)i * TILE;
            if (first[i] >= last[i]) {
                std::fill(row, row + columns, 0.0f);
                continue;
            }
            const int low = first[i] - begin, high = last[i] - begin;
            if (call.softcap > 0)
                for (int j = low; j < high; j++) row[j] = call.softcap * std::tanh(row[j] / call.softcap);
            std::fill(row, row + low, MASKED);
            std::fill(row + high, row + columns, MASKED);
            Vector most = Vector{} + rows.most[i], sum = Vector{};
            for (int j = 0; j < columns; j += WIDTH) most = at(row + j) > most ? at(row + j) : most;
            float largest = MASKED, total = 0;
            for (int j = 0; j < WIDTH; j++) largest = std::max(largest, most[j]);
            for (int j = 0; j < columns; j += WIDTH) sum += at(row + j) = exponential(at(row + j) - largest);
            for (int j = 0; j < WIDTH; j++) total += sum[j];
            const float earlier = std::exp(rows.most[i] - largest);
            for (int j = 0; j < d; j += WIDTH) at(rows.out + (long)i * d + j) *= earlier;
            rows.total[i] = rows.total[i] * earlier + total;
            rows.most[i] = largest;
        }
        product(m, d, end - begin, s, TILE, 1, seen.values + (long)(j0 + begin) * seen.values_width,
                seen.values_width, rows.out, d, true);
    }
}

// Rows of k and v gathered for one key-value head.
struct Own {
    Scratch keys, values;
    template <class Number>
    Seen read(const Call& call, const Number* k, const Number* v, const long* strides, int g, int start, int n,
              int from, int n_queries) {
        const int d = padded(call.D), width = padded(n);
        const Number* rows = k + start * strides[2] + g * strides[3];
        float *to_values = values.of((size_t)n * d), *to_keys = keys.of((size_t)padded(n) * d);
        gather(v + start * strides[4] + g * strides[5], strides[4], n, call.D, to_values);
        if (n_queries < FEW) {
            gather(rows, strides[2], n, call.D, to_keys);
            return {to_keys, to_values, n, 0, d, from};
        }
        transpose(rows, strides[2], n, call.D, to_keys, width);
        return {to_keys, to_values, n, width, d, from};
    }
};

template <class Number>
void run(const Number* q, const Number* k, const Number* v, Number* out, const long* strides, const Seen& prefix,
         const Segment* segments, int n_segments, int g, const Call& call, Scratch& scratch, Own& own) {
    const int H = call.H, D = call.D, d = padded(D), shared = H / call.G;
    const int start = segments[0].queries, n = segments[n_segments - 1].queries + segments[n_segments - 1].n - start;
    const int m = shared * n;  // queries of one head stand behind those of another
    float *s = scratch.of((size_t)2 * m * d + 2 * m + (size_t)BLOCK * TILE), *queries = s + (long)BLOCK * TILE,
          *found = queries + (long)m * d, *total = found + (long)m * d, *most = total + m;
    std::fill(found, most, 0.0f);
    std::fill(most, most + m, MASKED);
    std::vector<int> positions(m);
    for (int h = 0; h < shared; h++) {
        float* to = queries + (long)h * n * d;
        gather(q + start * strides[0] + (g * shared + h) * strides[1], strides[0], n, D, to);
        for (long j = 0; j < (long)n * d; j += WIDTH) at(to + j) *= call.scale;
        for (int l = 0; l < n_segments; l++)
            for (int i = 0; i < segments[l].n; i++)
                positions[h * n + segments[l].queries - start + i] = call.n_prefix + segments[l].n_context + i;
    }
    const auto met_by = [&](int first, int last, const Seen& seen) {
        for (int i = first; i < last; i += BLOCK)
            meet(call, std::min(BLOCK, last - i),
                 {queries + (long)i * d, positions.data() + i, most + i, total + i, found + (long)i * d}, seen, s);
    };
    if (call.n_prefix > 0) met_by(0, m, prefix);
    for (int l = 0, behind; l < n_segments; l = behind) {
        const Segment& one = segments[l];
        for (behind = l + 1; behind < n_segments; behind++)
            if (segments[behind].context != one.context || segments[behind].n_context != one.n_context) break;
        if (one.n_context > 0) {
            const int first = one.queries - start, last = segments[behind - 1].queries + segments[behind - 1].n - start;
            const Seen context =
                own.read(call, k, v, strides, g, one.context, one.n_context, call.n_prefix, shared * (last - first));
            for (int h = 0; h < shared; h++) met_by(h * n + first, h * n + last, context);
        }
        for (int i = l; i < behind; i++) {
            const Segment& each = segments[i];
            const Seen seen =
                own.read(call, k, v, strides, g, each.keys, each.n, call.n_prefix + each.n_context, shared * each.n);
            const int first = each.queries - start;
            for (int h = 0; h < shared; h++) met_by(h * n + first, h * n + first + each.n, seen);
        }
    }
    for (int i = 0; i < m; i++)
        for (int j = 0; j < d; j += WIDTH) at(found + (long)i * d + j) *= 1 / total[i];
    for (int h = 0; h < shared; h++)
        scatter(found + (long)h * n * d, n, D, out + ((long)start * H + g * shared + h) * D, (long)H * D);
}

template <class Number>
void forward(const Number* q, const Number* k, const Number* v, const float* prefix_keys, const float* prefix_values,
             Number* out, const long* strides, const Segment* segments, const Call& call) {
    std::vector<int> begins{0};
    for (int l = 1, n = segments[0].n; l <= call.n_segments; l++) {
        if (l < call.n_segments && n + segments[l].n <= BLOCK) {
            n += segments[l].n;
            continue;
        }
        begins.push_back(l);
        if (l < call.n_segments) n = segments[l].n;
    }
    const int n_tasks = ((int)begins.size() - 1) * call.G;
#pragma omp parallel
    {
        Scratch scratch;
        Own own;
#pragma omp for schedule(dynamic, 1)
        for (int task = 0; task < n_tasks; task++) {
            const int first = begins[task / call.G], n_segments = begins[task / call.G + 1] - first, g = task % call.G;
            const Seen prefix{prefix_keys + (long)g * call.D * call.keys_width,
                              prefix_values + (long)g * call.n_prefix * call.values_width,
                              call.n_prefix, call.keys_width, call.values_width, 0};
            run(q, k, v, out, strides, prefix, segments + first, n_segments, g, call, scratch, own);
        }
    }
}

}  // namespace

extern "C" {

// strides: of a token and of a head, in numbers, of q, k, v; segments: (S, 5), see Segment; their queries stand behind
// one another; sizes: S, H, G, D, window, P, the width of a row of the prefix's keys and of one of its values; scales:
// of scores, softcap.
void tunewise_prefix_attention(int is_bfloat16, const void* q, const void* k, const void* v, const void* prefix_keys,
                               const void* prefix_values, void* out, const long* strides, const int32_t* segments,
                               const int* sizes, const float* scales) {
    const Call call{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7],
                    scales[0], scales[1]};
    const auto *keys = (const float*)prefix_keys, *values = (const float*)prefix_values;
    const auto* told = (const Segment*)segments;
    if (is_bfloat16)
        forward((const Bfloat16*)q, (const Bfloat16*)k, (const Bfloat16*)v, keys, values, (Bfloat16*)out, strides,
                told, call);
    else
        forward((const float*)q, (const float*)k, (const float*)v, keys, values, (float*)out, strides, told, call);
}
}
