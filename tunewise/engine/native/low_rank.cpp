// What a low-rank change adds to the output of a linear layer, forward and backward, in one pass each, on a CPU.
//
// Legend: N rows, d_in and d_out the widths of what enters and leaves, r the rank, which is small.
// x (N, d_in), y (N, d_out) and what becomes of them are float32 or bfloat16; A (r, d_in), B (d_out, r), their
// gradients and everything inside are float32. Rows are taken ROWS at a time: what a product leaves stays in the cache
// for the next. Every sum is taken in an order that depends on the shapes and the number of threads alone.

#include "products.h"

extern "C" int omp_get_thread_num(), omp_get_max_threads();

constexpr long FEW = 1 << 14;        // numbers that are not worth waking threads for
constexpr int ROWS = 2 * TALL;       // of x and y at a time
constexpr int ABREAST = 3, DEEP = 8;  // rows and ranks of a tile of `onto`: its sums fill the registers

// Where the numbers of the sides lie: rows `stride` apart, or in scratch that is padded with zeros to whole vectors.
template <class Number>
struct Side {
    const Number* from;
    long stride;
    int d;
    int width() const { return padded(d); }
    bool is_ready() const { return std::is_same_v<Number, float> && d % WIDTH == 0; }
    // Rows i to i + m as float32 in whole vectors, `ld` apart.
    const float* rows(long i, int m, float* scratch, long& ld) const {
        if (is_ready()) return ld = stride, (const float*)(from + i * stride);
        return ld = width(), gather(from + i * stride, stride, m, d, scratch);
    }
};

// A (r, d) as rows of whole vectors, zeros where there is nothing; or the transpose of B (d, r).
static void lay(const float* from, long row, long column, int r, int d, float* to) {
    const int width = padded(d);
    std::fill(to, to + (long)(r + DEEP - 1) / DEEP * DEEP * width, 0.0f);
    for (int k = 0; k < r; k++)
        for (int j = 0; j < d; j++) to[(long)k * width + j] = from[k * row + j * column];
}

// to (m, r) = factor · x aᵀ, the rows of x `ld` apart and those of a (r padded to DEEP, width) in whole vectors.
template <int ABREAST>
static inline void onto(const float* x, long ld, const float* a, int width, int r, float factor, float* to) {
    for (int k0 = 0; k0 < r; k0 += DEEP, a += (long)DEEP * width) {
        Vector sums[ABREAST][DEEP] = {};
        for (int j = 0; j < width; j += WIDTH) {
            Vector left[ABREAST];
#pragma GCC unroll 8
            for (int i = 0; i < ABREAST; i++) left[i] = at(x + i * ld + j);
#pragma GCC unroll 8
            for (int k = 0; k < DEEP; k++) {
                const Vector right = at(a + (long)k * width + j);
#pragma GCC unroll 8
                for (int i = 0; i < ABREAST; i++) sums[i][k] += left[i] * right;
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < ABREAST; i++)
#pragma GCC unroll 8
            for (int k = 0; k < DEEP; k++)
                if (k0 + k < r) to[(long)i * r + k0 + k] = factor * sum(sums[i][k]);
    }
}
static void onto(int m, const float* x, long ld, const float* a, int width, int r, float factor, float* to) {
    int i = 0;
    for (; i + ABREAST <= m; i += ABREAST) onto<ABREAST>(x + i * ld, ld, a, width, r, factor, to + (long)i * r);
    for (; i < m; i++) onto<1>(x + i * ld, ld, a, width, r, factor, to + (long)i * r);
}

// out = y + s B A x; inner (N, r) = s A x is kept.
template <class Number>
static void forward(Side<Number> x, Side<Number> y, const float* a, const float* b, Number* out, float* inner, long n,
                    int r, float s) {
    const int deep = (r + DEEP - 1) / DEEP * DEEP;
    Scratch laid;
    float *rows_a = laid.of((size_t)deep * (x.width() + y.width())), *columns_b = rows_a + (long)deep * x.width();
    lay(a, x.d, 1, r, x.d, rows_a);
    lay(b, 1, r, r, y.d, columns_b);
#pragma omp parallel if (n * x.d > FEW)
    {
        Scratch scratch;
        float *wide = scratch.of((size_t)ROWS * (x.width() + y.width())), *added = wide + (long)ROWS * x.width();
#pragma omp for schedule(static)
        for (long i0 = 0; i0 < n; i0 += ROWS) {
            const int m = std::min<long>(ROWS, n - i0);
            long ld;
            const float* entering = x.rows(i0, m, wide, ld);
            float* middle = inner + i0 * r;
            onto(m, entering, ld, rows_a, x.width(), r, s, middle);
            product(m, y.width(), r, middle, r, 1, columns_b, y.width(), added, y.width(), false);
            for (int i = 0; i < m; i++)
                along(y.d, [&](int j, auto extent) {
                    const Vector before = load(y.from + (i0 + i) * y.stride + j, extent);
                    store(before + at(added + (long)i * y.width() + j), out + (i0 + i) * y.d + j, extent);
                });
        }
    }
}

// dx (N, d_in) where it is not null, dA and dB from dy, x and inner.
template <class Number>
static void backward(Side<Number> dy, Side<Number> x, const float* a, const float* b, const float* inner, Number* dx,
                     float* da, float* db, long n, int r, float s) {
    const int deep = (r + DEEP - 1) / DEEP * DEEP, n_threads = omp_get_max_threads();
    const long of_a = (long)deep * x.width(), of_b = (long)deep * dy.width();
    Scratch laid;
    float *rows_a = laid.of((size_t)(1 + n_threads) * (of_a + of_b)), *columns_b = rows_a + of_a, *partial = columns_b + of_b;
    lay(a, x.d, 1, r, x.d, rows_a);
    lay(b, 1, r, r, dy.d, columns_b);
    std::fill(partial, partial + n_threads * (of_a + of_b), 0.0f);
#pragma omp parallel if (n * x.d > FEW)
    {
        Scratch scratch;
        float *wide = scratch.of((size_t)ROWS * (2 * x.width() + dy.width() + r)), *outer = wide + (long)ROWS * x.width(),
              *to_x = outer + (long)ROWS * dy.width(), *middle = to_x + (long)ROWS * x.width();
        float *own_a = partial + omp_get_thread_num() * (of_a + of_b), *own_b = own_a + of_a;
#pragma omp for schedule(static)
        for (long i0 = 0; i0 < n; i0 += ROWS) {
            const int m = std::min<long>(ROWS, n - i0);
            long ld, ld_outer;
            const float *entering = x.rows(i0, m, wide, ld), *leaving = dy.rows(i0, m, outer, ld_outer);
            onto(m, leaving, ld_outer, columns_b, dy.width(), r, s, middle);
            product(r, dy.width(), m, inner + i0 * r, 1, r, leaving, ld_outer, own_b, dy.width(), true);
            product(r, x.width(), m, middle, 1, r, entering, ld, own_a, x.width(), true);
            if (!dx) continue;
            product(m, x.width(), r, middle, r, 1, rows_a, x.width(), to_x, x.width(), false);
            scatter(to_x, m, x.d, dx + i0 * x.d, x.d);
        }
    }
    for (int thread = 1; thread < n_threads; thread++)
        for (long j = 0; j < of_a + of_b; j++) partial[j] += partial[thread * (of_a + of_b) + j];
    for (int k = 0; k < r; k++) {
        std::copy_n(partial + (long)k * x.width(), x.d, da + (long)k * x.d);
        for (int j = 0; j < dy.d; j++) db[(long)j * r + k] = partial[of_a + (long)k * dy.width() + j];
    }
}

extern "C" {

// strides: from row to row of x and y; sizes: d_in, d_out, r
void tunewise_low_rank(int is_bfloat16, const void* x, const void* y, const long* strides, const float* a,
                       const float* b, void* out, float* inner, long n, const int* sizes, float s) {
    const auto go = [&](auto number) {
        using Number = decltype(number);
        forward<Number>({(const Number*)x, strides[0], sizes[0]}, {(const Number*)y, strides[1], sizes[1]}, a, b,
                        (Number*)out, inner, n, sizes[2], s);
    };
    is_bfloat16 ? go(Bfloat16{}) : go(0.0f);
}

// strides: from row to row of x and dy
void tunewise_low_rank_backward(int is_bfloat16, const void* dy, const void* x, const long* strides, const float* a,
                                const float* b, const float* inner, void* dx, float* da, float* db, long n,
                                const int* sizes, float s) {
    const auto go = [&](auto number) {
        using Number = decltype(number);
        backward<Number>({(const Number*)dy, strides[1], sizes[1]}, {(const Number*)x, strides[0], sizes[0]}, a, b,
                         inner, (Number*)dx, da, db, n, sizes[2], s);
    };
    is_bfloat16 ? go(Bfloat16{}) : go(0.0f);
}
}
