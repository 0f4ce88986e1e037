// What the kernels of attention and of low ranks are made of: small matrix products, rows as they enter them, and back.
//
// Scratch is padded with zeros to whole vectors.

#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <type_traits>
#include <vector>

#include "vector.h"

constexpr int TALL = 6;  // rows of a tile: with BROAD vectors each, and what is multiplied, they fill the registers
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int BROAD = 4;  // of 32 registers
#else
constexpr int BROAD = 2;  // of 16
#endif
constexpr float MASKED = -1e15f;  // far below every score, and its square is still finite

// What products are sums of. A row of D numbers has `depth(D)` terms; in scratch, each lies in a float's place.
struct Singles {  // float32
    static constexpr int EACH = 1;
    static int depth(int d) { return d; }
    template <class Number>
    static Vector load(const Number* row, int j) {
        return ::load(row + j, Whole{});
    }
    template <class Number>
    static Vector load(const Number* row, int j, int d) {
        return j + WIDTH <= d ? load(row, j) : ::load(row + j, Part{d - j});
    }
    static void add(Vector& sum, float left, const Vector& right) { sum += left * right; }
};
#ifdef __AVX512BF16__
// Two neighbours of bfloat16, multiplied and added with the roundings of float32. The instruction takes the second one
// first: with the neighbours swapped, sums are those of Singles to the last bit.
struct Pairs {
    static constexpr int EACH = 2;
    static int depth(int d) { return (d + 1) / 2; }
    static Vector swapped(Words words) { return (Vector)(words << 16 | words >> 16); }
    static Vector load(const Bfloat16* row, int j) { return swapped((Words)at((const float*)(row + 2 * j))); }
    static Vector load(const Bfloat16* row, int j, int d) {
        if (2 * (j + WIDTH) <= d) return load(row, j);
        Words words{};
        std::memcpy(&words, row + 2 * j, (d - 2 * j) * sizeof(Bfloat16));
        return swapped(words);
    }
    static void add(Vector& sum, float left, const Vector& right) {
        sum = (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_ps(left), (__m512bh)right);
    }
};
#else
using Pairs = Singles;
#endif
template <class Number>
using Terms = std::conditional_t<std::is_same_v<Number, float>, Singles, Pairs>;

// C (m, n) = A (m, k) B (k, n), or added to it; A's element (i, l) stands at a[i * row + l * column]. All is written out,
// for the compiler to keep the sums in registers from beginning to end.
template <class Kind, int VECTORS, int... I, int... J>
static inline void tile(int k, const float* a, long row, long column, const float* b, int ldb, float* c, int ldc,
                        bool add, std::integer_sequence<int, I...>, std::integer_sequence<int, J...>) {
    Vector sum[sizeof...(I)] = {}, right[VECTORS];
    if (add) ((sum[I] = at(c + I / VECTORS * ldc + I % VECTORS * WIDTH)), ...);
    for (; k > 0; k--, a += column, b += ldb) {
        ((right[J] = at(b + J * WIDTH)), ...);
        (Kind::add(sum[I], a[I / VECTORS * row], right[I % VECTORS]), ...);
    }
    ((at(c + I / VECTORS * ldc + I % VECTORS * WIDTH) = sum[I]), ...);
}
template <class Kind, int ROWS, int VECTORS>
static inline void tile(int k, const float* a, long row, long column, const float* b, int ldb, float* c, int ldc,
                        bool add) {
    tile<Kind, VECTORS>(k, a, row, column, b, ldb, c, ldc, add, std::make_integer_sequence<int, ROWS * VECTORS>(),
                        std::make_integer_sequence<int, VECTORS>());
}

template <class Kind, int VECTORS>
static inline void strip(int m, int k, const float* a, long row, long column, const float* b, int ldb, float* c,
                         int ldc, bool add) {
    int i = 0;
    for (; i + TALL <= m; i += TALL)
        tile<Kind, TALL, VECTORS>(k, a + i * row, row, column, b, ldb, c + (long)i * ldc, ldc, add);
    a += i * row, c += (long)i * ldc;
    switch (m - i) {
        case 5: return tile<Kind, 5, VECTORS>(k, a, row, column, b, ldb, c, ldc, add);
        case 4: return tile<Kind, 4, VECTORS>(k, a, row, column, b, ldb, c, ldc, add);
        case 3: return tile<Kind, 3, VECTORS>(k, a, row, column, b, ldb, c, ldc, add);
        case 2: return tile<Kind, 2, VECTORS>(k, a, row, column, b, ldb, c, ldc, add);
        case 1: return tile<Kind, 1, VECTORS>(k, a, row, column, b, ldb, c, ldc, add);
    }
}

// n is a multiple of WIDTH, k the number of terms.
template <class Kind = Singles>
static __attribute__((noinline)) void product(int m, int n, int k, const float* a, long row, long column,
                                              const float* b, int ldb, float* c, int ldc, bool add) {
    for (; n >= BROAD * WIDTH; n -= BROAD * WIDTH, b += BROAD * WIDTH, c += BROAD * WIDTH)
        strip<Kind, BROAD>(m, k, a, row, column, b, ldb, c, ldc, add);
    switch (n / WIDTH) {
        case 3: return strip<Kind, std::min(3, BROAD)>(m, k, a, row, column, b, ldb, c, ldc, add);
        case 2: return strip<Kind, std::min(2, BROAD)>(m, k, a, row, column, b, ldb, c, ldc, add);
        case 1: return strip<Kind, 1>(m, k, a, row, column, b, ldb, c, ldc, add);
    }
}

// C (m, n) = A (m, d) B (n, d) transposed, for so few rows of A that turning B round would cost more; d is padded.
static void dots(int m, int n, int d, const float* a, const float* b, float* c, int ldc) {
    for (int j = 0; j < n; j++)
        for (int i = 0; i < m; i++) {
            Vector total = Vector{};
            for (int l = 0; l < d; l += WIDTH) total += at(a + (long)i * d + l) * at(b + (long)j * d + l);
            c[(long)i * ldc + j] = sum(total);
        }
}

// The rows of one head of one segment as terms of a product: (n, terms padded).
template <class Kind = Singles, class Number>
static float* gather(const Number* from, long stride, int n, int d, float* to) {
    const int depth = Kind::depth(d), width = padded(depth);
    for (int i = 0; i < n; i++, from += stride)
        for (int j = 0; j < depth; j += WIDTH) at(to + i * width + j) = Kind::load(from, j, d);
    return to;
}
// And as its right side: (terms padded, ld), zeros behind n up to padded(n).
template <class Kind = Singles, class Number>
static void transpose(const Number* from, long stride, int n, int d, float* to, int ld) {
    constexpr int SIDE = WIDTH * Kind::EACH;
    for (int j = 0; j < d; j += SIDE, from += SIDE, to += (long)WIDTH * ld)
        for (int i = 0; i < n; i += WIDTH) {
            Vector square[WIDTH];
            if (i + WIDTH <= n && j + SIDE <= d) {
                for (int l = 0; l < WIDTH; l++) square[l] = Kind::load(from + (i + l) * stride, 0);
            } else {
                float edge[WIDTH * WIDTH] = {};
                gather<Kind>(from + i * stride, stride, std::min(WIDTH, n - i), std::min(SIDE, d - j), edge);
                for (int l = 0; l < WIDTH; l++) square[l] = at(edge + l * WIDTH);
            }
            turn(square);
            for (int l = 0; l < WIDTH; l++) at(to + (long)l * ld + i) = square[l];
        }
}
template <class Number>
static void scatter(const float* from, int n, int d, Number* to, long stride) {
    for (int i = 0; i < n; i++, from += padded(d), to += stride)
        along(d, [&](int j, auto extent) { store(at(from + j), to + j, extent); });
}

// Rows of one head that will soon be read, or written: into the second cache. To be inlined at every level: what does
// nothing else is taken for what does nothing.
template <int WRITTEN = 0, class Number>
static inline __attribute__((always_inline)) void prefetch(const Number* from, long stride, int n, int d) {
    for (int i = 0; i < n; i++, from += stride)
        for (int j = 0; j < d; j += 64 / (int)sizeof(Number)) __builtin_prefetch(from + j, WRITTEN, 2);
}

// Room for n numbers that begins with a line of the cache; whatever was in it.
struct Scratch {
    std::unique_ptr<float[]> kept;
    size_t size = 0;
    float* of(size_t n) {
        if (size < n + 15) kept.reset(), kept.reset(new float[size = n + 15]);
        return (float*)(((uintptr_t)kept.get() + 63) / 64 * 64);
    }
};
