// What a transformer does between its matrix products, each in one pass over memory, forward and backward, on a CPU.
//
// Legend: N rows, d their width, T tokens, H heads, D the width of a head, C classes (the vocabulary).
// Inputs are float32 or bfloat16; everything inside is float32 and rounded once. Every sum is taken in an order that
// depends on the shapes and the number of threads alone.

#include <algorithm>
#include <cmath>
#include <vector>

#include "vector.h"

extern "C" int omp_get_thread_num(), omp_get_max_threads();

constexpr long FEW = 1 << 14;  // numbers that are not worth waking threads for

static inline Vector sigmoid(Vector x) {
    const Vector most = Vector{} + 87.0f;  // beyond, e^-x is no number
    return 1.0f / (1.0f + exponential(-x < most ? -x : most));
}

// y = x · gain / sqrt(mean(x²) + eps); x (N, d) with `stride` numbers from row to row, inverse (N,) is kept.
template <class Number>
static void rms_norm(const Number* x, long stride, const float* gain, Number* y, float* inverse, long n, int d,
                     float eps) {
#pragma omp parallel for schedule(static) if (n * d > FEW)
    for (long i = 0; i < n; i++) {
        const Number* row = x + i * stride;
        Vector squares{};
        along(d, [&](int j, auto extent) {
            const Vector v = load(row + j, extent);
            squares += v * v;
        });
        const float scale = inverse[i] = 1 / std::sqrt(sum(squares) / d + eps);
        along(d, [&](int j, auto extent) {
            store(load(row + j, extent) * scale * load(gain + j, extent), y + i * d + j, extent);
        });
    }
}

// dx, and dgain (d,) where it is not null.
template <class Number>
static void rms_norm_backward(const Number* dy, const Number* x, long stride, const float* gain, const float* inverse,
                              Number* dx, float* dgain, long n, int d) {
    const int width = padded(d), n_threads = omp_get_max_threads();
    std::vector<float> partial(dgain ? (size_t)n_threads * width : 0, 0.0f);
#pragma omp parallel if (n * d > FEW)
    {
        float* own = dgain ? partial.data() + (size_t)omp_get_thread_num() * width : nullptr;
#pragma omp for schedule(static)
        for (long i = 0; i < n; i++) {
            const Number *row = x + i * stride, *outer = dy + i * d;
            const float scale = inverse[i];
            Vector products{};
            along(d, [&](int j, auto extent) {
                const Vector product = load(outer + j, extent) * load(row + j, extent) * scale;
                products += product * load(gain + j, extent);
                if (own) at(own + j) += product;
            });
            const float mean = sum(products) / d;
            along(d, [&](int j, auto extent) {
                const Vector to_normal = load(outer + j, extent) * load(gain + j, extent);
                store(scale * (to_normal - load(row + j, extent) * (scale * mean)), dx + i * d + j, extent);
            });
        }
    }
    if (!dgain) return;
    std::fill(dgain, dgain + d, 0.0f);
    for (int thread = 0; thread < n_threads; thread++)
        for (int j = 0; j < d; j++) dgain[j] += partial[(size_t)thread * width + j];
}

// x sigmoid(x), or the tanh form of GELU, which is x sigmoid(2 √(2/π) (x + 0.044715 x³)); and the derivative.
struct Activation {
    Vector value, slope;
};
static inline Activation silu(Vector x) {
    const Vector s = sigmoid(x);
    return {x * s, s + x * s * (1.0f - s)};
}
static inline Activation gelu_tanh(Vector x) {
    constexpr float a = 1.5957691216057308f, b = 0.044715f;
    const Vector s = sigmoid(a * (x + b * x * x * x));
    return {x * s, s + x * s * (1.0f - s) * (a * (1.0f + 3 * b * x * x))};
}

// y = gelu_tanh(x); x (N, d) with `stride` numbers from row to row, y dense.
template <class Number>
static void activated(const Number* x, long stride, Number* y, long n, int d) {
#pragma omp parallel for schedule(static) if (n * d > FEW)
    for (long i = 0; i < n; i++)
        along(d, [&](int j, auto extent) {
            store(gelu_tanh(load(x + i * stride + j, extent)).value, y + i * d + j, extent);
        });
}
template <class Number>
static void activated_backward(const Number* dy, const Number* x, long stride, Number* dx, long n, int d) {
#pragma omp parallel for schedule(static) if (n * d > FEW)
    for (long i = 0; i < n; i++)
        along(d, [&](int j, auto extent) {
            const Vector slope = gelu_tanh(load(x + i * stride + j, extent)).slope;
            store(load(dy + i * d + j, extent) * slope, dx + i * d + j, extent);
        });
}

// y = act(gate) · up; gate and up (N, d) with strides of their own, y dense.
template <Activation (*act)(Vector), class Number>
static void gated(const Number* gate, const Number* up, const long* strides, Number* y, long n, int d) {
#pragma omp parallel for schedule(static) if (n * d > FEW)
    for (long i = 0; i < n; i++)
        along(d, [&](int j, auto extent) {
            const Vector acted = act(load(gate + i * strides[0] + j, extent)).value;
            store(acted * load(up + i * strides[1] + j, extent), y + i * d + j, extent);
        });
}
template <Activation (*act)(Vector), class Number>
static void gated_backward(const Number* dy, const Number* gate, const Number* up, const long* strides, Number* dgate,
                           Number* dup, long n, int d) {
#pragma omp parallel for schedule(static) if (n * d > FEW)
    for (long i = 0; i < n; i++)
        along(d, [&](int j, auto extent) {
            const Activation acted = act(load(gate + i * strides[0] + j, extent));
            const Vector outer = load(dy + i * d + j, extent);
            store(outer * load(up + i * strides[1] + j, extent) * acted.slope, dgate + i * d + j, extent);
            store(outer * acted.value, dup + i * d + j, extent);
        });
}

// y = x cos + turned(x) sin, turned(x) = (−x₂, x₁) for the halves x₁, x₂ of a head, or (sign = −1) the transpose of
// that map; x (T, H, D) with strides of a token and a head, cos and sin (T, D), y dense.
template <class Number>
static void rotate(const Number* x, const long* strides, const Number* cos, const Number* sin, Number* y, long t, int h,
                   int D, bool back) {
    const int half = D / 2;
#pragma omp parallel for schedule(static) if (t * h * D > FEW)
    for (long i = 0; i < t; i++)
        for (int head = 0; head < h; head++) {
            const Number* from = x + i * strides[0] + head * strides[1];
            Number* to = y + (i * h + head) * D;
            along(half, [&](int j, auto extent) {
                const Vector one = load(from + j, extent), two = load(from + half + j, extent);
                const Vector cos1 = load(cos + i * D + j, extent), cos2 = load(cos + i * D + half + j, extent);
                const Vector sin1 = load(sin + i * D + j, extent), sin2 = load(sin + i * D + half + j, extent);
                store(back ? one * cos1 + two * sin2 : one * cos1 - two * sin1, to + j, extent);
                store(back ? two * cos2 - one * sin1 : two * cos2 + one * sin2, to + half + j, extent);
            });
        }
}

// losses (N,) = log Σ exp(x) − (1 − ε) x[label] − ε mean(x), ε the smoothing; lse (N,), the logarithm, is kept.
// x (N, C) dense.
template <class Number>
static void cross_entropy(const Number* x, const int64_t* labels, float* losses, float* lse, long n, int c,
                          float smoothing) {
#pragma omp parallel for schedule(static) if (n * c > FEW)
    for (long i = 0; i < n; i++) {
        const Number* row = x + i * c;
        float largest = -INFINITY;
        Vector most = Vector{} - INFINITY;
        int j = 0;
        for (; j + WIDTH <= c; j += WIDTH) {
            const Vector v = load(row + j, Whole{});
            most = v > most ? v : most;
        }
        for (; j < c; j++) largest = std::max(largest, wide(row[j]));
        for (int k = 0; k < WIDTH; k++) largest = std::max(largest, most[k]);
        Vector total{};
        for (j = 0; j + WIDTH <= c; j += WIDTH) total += exponential(load(row + j, Whole{}) - largest);
        float rest = sum(total);
        for (; j < c; j++) rest += std::exp(wide(row[j]) - largest);
        lse[i] = largest + std::log(rest);
        losses[i] = lse[i] - wide(row[labels[i]]);
        if (smoothing == 0) continue;
        Vector every{};
        along(c, [&](int j, auto extent) { every += load(row + j, extent); });
        losses[i] += smoothing * (wide(row[labels[i]]) - sum(every) / c);
    }
}

// dx = slopes[i] · (softmax(x) − (1 − ε) one-hot − ε / C).
template <class Number>
static void cross_entropy_backward(const Number* x, const int64_t* labels, const float* slopes, const float* lse,
                                   Number* dx, long n, int c, float smoothing) {
    const float share = smoothing / c;
#pragma omp parallel for schedule(static) if (n * c > FEW)
    for (long i = 0; i < n; i++) {
        const Number* row = x + i * c;
        along(c, [&](int j, auto extent) {
            store(slopes[i] * (exponential(load(row + j, extent) - lse[i]) - share), dx + i * c + j, extent);
        });
        const float rest = std::exp(wide(row[labels[i]]) - lse[i]) - (1 - smoothing) - share;
        narrow(slopes[i] * rest, dx + i * c + labels[i]);
    }
}

extern "C" {

#define BY_PRECISION(call_float, call_bfloat16) \
    if (is_bfloat16)                            \
        call_bfloat16;                          \
    else                                        \
        call_float

typedef const float* F;
typedef const Bfloat16* B;

void tunewise_rms_norm(int is_bfloat16, const void* x, long stride, const float* gain, void* y, float* inverse, long n,
                       int d, float eps) {
    BY_PRECISION(rms_norm((F)x, stride, gain, (float*)y, inverse, n, d, eps),
                 rms_norm((B)x, stride, gain, (Bfloat16*)y, inverse, n, d, eps));
}

void tunewise_rms_norm_backward(int is_bfloat16, const void* dy, const void* x, long stride, const float* gain,
                                const float* inverse, void* dx, float* dgain, long n, int d) {
    BY_PRECISION(rms_norm_backward((F)dy, (F)x, stride, gain, inverse, (float*)dx, dgain, n, d),
                 rms_norm_backward((B)dy, (B)x, stride, gain, inverse, (Bfloat16*)dx, dgain, n, d));
}

void tunewise_gelu_tanh(int is_bfloat16, const void* x, long stride, void* y, long n, int d) {
    BY_PRECISION(activated((F)x, stride, (float*)y, n, d), activated((B)x, stride, (Bfloat16*)y, n, d));
}

void tunewise_gelu_tanh_backward(int is_bfloat16, const void* dy, const void* x, long stride, void* dx, long n, int d) {
    BY_PRECISION(activated_backward((F)dy, (F)x, stride, (float*)dx, n, d),
                 activated_backward((B)dy, (B)x, stride, (Bfloat16*)dx, n, d));
}

// strides: from row to row of gate and up
void tunewise_gated(int is_bfloat16, int is_gelu, const void* gate, const void* up, const long* strides, void* y, long n,
                    int d) {
    if (is_gelu)
        BY_PRECISION(gated<gelu_tanh>((F)gate, (F)up, strides, (float*)y, n, d),
                     gated<gelu_tanh>((B)gate, (B)up, strides, (Bfloat16*)y, n, d));
    else
        BY_PRECISION(gated<silu>((F)gate, (F)up, strides, (float*)y, n, d),
                     gated<silu>((B)gate, (B)up, strides, (Bfloat16*)y, n, d));
}

void tunewise_gated_backward(int is_bfloat16, int is_gelu, const void* dy, const void* gate, const void* up,
                             const long* strides, void* dgate, void* dup, long n, int d) {
    if (is_gelu)
        BY_PRECISION(gated_backward<gelu_tanh>((F)dy, (F)gate, (F)up, strides, (float*)dgate, (float*)dup, n, d),
                     gated_backward<gelu_tanh>((B)dy, (B)gate, (B)up, strides, (Bfloat16*)dgate, (Bfloat16*)dup, n, d));
    else
        BY_PRECISION(gated_backward<silu>((F)dy, (F)gate, (F)up, strides, (float*)dgate, (float*)dup, n, d),
                     gated_backward<silu>((B)dy, (B)gate, (B)up, strides, (Bfloat16*)dgate, (Bfloat16*)dup, n, d));
}

// strides: of a token and of a head
void tunewise_rotate(int is_bfloat16, int back, const void* x, const long* strides, const void* cos, const void* sin,
                     void* y, long t, int h, int d) {
    BY_PRECISION(rotate((F)x, strides, (F)cos, (F)sin, (float*)y, t, h, d, back),
                 rotate((B)x, strides, (B)cos, (B)sin, (Bfloat16*)y, t, h, d, back));
}

void tunewise_cross_entropy(int is_bfloat16, const void* x, const int64_t* labels, float* losses, float* lse, long n,
                            int c, float smoothing) {
    BY_PRECISION(cross_entropy((F)x, labels, losses, lse, n, c, smoothing),
                 cross_entropy((B)x, labels, losses, lse, n, c, smoothing));
}

void tunewise_cross_entropy_backward(int is_bfloat16, const void* x, const int64_t* labels, const float* slopes,
                                     const float* lse, void* dx, long n, int c, float smoothing) {
    BY_PRECISION(cross_entropy_backward((F)x, labels, slopes, lse, (float*)dx, n, c, smoothing),
                 cross_entropy_backward((B)x, labels, slopes, lse, (Bfloat16*)dx, n, c, smoothing));
}
}
