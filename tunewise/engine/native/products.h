// What the attention kernels are made of: small matrix products, rows of a head as float32 and back.
//
// Scratch is padded with zeros to whole vectors.

#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "vector.h"

constexpr int TALL = WIDTH == 16 ? 6 : 4;  // rows of a tile: with its four vectors each they fill the registers
constexpr int BLOCK = 32;  // queries at a time
constexpr float MASKED = -1e15f;  // far below every score, and its square is still finite

// C (m, n) = A (m, k) B (k, n), or added to it; A's element (i, l) stands at a[i * row + l * column].
template <int ROWS, int VECTORS>
static inline void tile(int k, const float* a, long row, long column, const float* b, int ldb, float* c, int ldc,
                        bool add) {
    Vector sum[ROWS][VECTORS];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < VECTORS; j++) sum[i][j] = add ? at(c + i * ldc + j * WIDTH) : Vector{};
    for (int l = 0; l < k; l++) {
        Vector right[VECTORS];
        for (int j = 0; j < VECTORS; j++) right[j] = at(b + (long)l * ldb + j * WIDTH);
        for (int i = 0; i < ROWS; i++) {
            const float left = a[i * row + l * column];
            for (int j = 0; j < VECTORS; j++) sum[i][j] += left * right[j];
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < VECTORS; j++) at(c + i * ldc + j * WIDTH) = sum[i][j];
}

template <int VECTORS>
static inline void strip(int m, int k, const float* a, long row, long column, const float* b, int ldb, float* c,
                         int ldc, bool add) {
    int i = 0;
    for (; i + TALL <= m; i += TALL) tile<TALL, VECTORS>(k, a + i * row, row, column, b, ldb, c + (long)i * ldc, ldc, add);
    a += i * row, c += (long)i * ldc;
    switch (m - i) {
        case 5: return tile<5, VECTORS>(k, a, row, column, b, ldb, c, ldc, add);
        case 4: return tile<4, VECTORS>(k, a, row, column, b, ldb, c, ldc, add);
        case 3: return tile<3, VECTORS>(k, a, row, column, b, ldb, c, ldc, add);
        case 2: return tile<2, VECTORS>(k, a, row, column, b, ldb, c, ldc, add);
        case 1: return tile<1, VECTORS>(k, a, row, column, b, ldb, c, ldc, add);
    }
}

// n is a multiple of WIDTH.
static void product(int m, int n, int k, const float* a, long row, long column, const float* b, int ldb, float* c,
                    int ldc, bool add) {
    int j = 0;
    for (; j + 4 * WIDTH <= n; j += 4 * WIDTH) strip<4>(m, k, a, row, column, b + j, ldb, c + j, ldc, add);
    for (; j < n; j += WIDTH) strip<1>(m, k, a, row, column, b + j, ldb, c + j, ldc, add);
}

// C (m, n) = A (m, d) B (n, d) transposed, for so few rows of A that turning B round would cost more; d is padded.
static void dots(int m, int n, int d, const float* a, const float* b, float* c, int ldc) {
    for (int j = 0; j < n; j++)
        for (int i = 0; i < m; i++) {
            Vector sum = Vector{};
            for (int l = 0; l < d; l += WIDTH) sum += at(a + (long)i * d + l) * at(b + (long)j * d + l);
            float total = 0;
            for (int l = 0; l < WIDTH; l++) total += sum[l];
            c[(long)i * ldc + j] = total;
        }
}

// The rows of one head of one segment, as float32 (n, d padded).
template <class Number>
static void gather(const Number* from, long stride, int n, int d, float* to) {
    const int width = padded(d);
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < d; j++) to[i * width + j] = wide(from[i * stride + j]);
        for (int j = d; j < width; j++) to[i * width + j] = 0;
    }
}
template <class Number>
static void scatter(const float* from, int n, int d, Number* to, long stride) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < d; j++) narrow(from[i * padded(d) + j], to + i * stride + j);
}
static void transpose(const float* from, int n, int d, float* to) {  // (n, d padded) -> (d, n padded)
    const int width = padded(n);
    std::fill(to, to + (long)d * width, 0.0f);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < d; j++) to[(long)j * width + i] = from[i * padded(d) + j];
}
