// Weights out of their codes: 4 bits with a constant a block (NF4, FP4, whole numbers), the constants in 8 bits or not,
// and 8 bits with a scale a row.
//
// Legend: n weights, of which `block` have a constant in common. Products are those of float32, each rounded by itself;
// a weight in bfloat16 is the float32 one rounded once more.

#include <algorithm>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "vector.h"

constexpr long FEW = 1 << 14;  // weights that are not worth waking threads for

// Constants of blocks: as they are, or as codes of `values` with scales of their own, `block` in common, and a mean.
struct Constants {
    const float* plain;
    const uint8_t* codes;
    const float *values, *scales, *mean;
    int block;
    float of(long i) const {
        if (plain) return plain[i];
        const volatile float product = values[codes[i]] * scales[i / block];  // rounded before the mean is added
        return product + *mean;
    }
};

// The weights of one block: two codes a byte, the first in the upper half; of the last one `n` may be odd.
template <class Number>
static void dequantise_block(const uint8_t* codes, const float* values, float zero, float constant, Number* weights,
                             int n) {
    Number table[16];
    for (int code = 0; code < 16; code++) narrow((values[code] - zero) * constant, table + code);
    int i = 0;
#ifdef __AVX512F__
    __m512i words;  // of the table, each in a word of its own
    if constexpr (sizeof(Number) == 4)
        words = _mm512_loadu_si512(table);
    else
        words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)table));
    for (; i + 32 <= n; i += 32) {
        const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)(codes + i / 2)));
        const __m512i first = _mm512_permutexvar_epi32(_mm512_srli_epi32(bytes, 4), words);
        const __m512i second = _mm512_permutexvar_epi32(bytes, words);  // it reads the lowest four bits
        if constexpr (sizeof(Number) == 4) {
            const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            _mm512_storeu_si512(weights + i, _mm512_permutex2var_epi32(first, low, second));
            _mm512_storeu_si512(weights + i + 16, _mm512_permutex2var_epi32(first, high, second));
        } else {
            _mm512_storeu_si512(weights + i, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
        }
    }
#endif
    for (; i + 2 <= n; i += 2) {
        weights[i] = table[codes[i / 2] >> 4];
        weights[i + 1] = table[codes[i / 2] & 15];
    }
    if (i < n) weights[i] = table[codes[i / 2] >> 4];
}

template <class Number>
static void four_bits(const uint8_t* codes, const float* values, const Constants& constants, const uint8_t* zeros,
                      Number* weights, long n, int block) {
    const long n_blocks = (n + block - 1) / block;
#pragma omp parallel for schedule(static) if (n > FEW)
    for (long i = 0; i < n_blocks; i++) {
        const long first = i * block;
        const int size = std::min<long>(block, n - first);
        dequantise_block(codes + first / 2, values, zeros ? zeros[i] : 0, constants.of(i), weights + first, size);
    }
}

// Row by row: code · (scale / 127), the scale a row's largest magnitude.
template <class Number>
static void eight_bits(const int8_t* codes, const float* scales, Number* weights, long n, int d) {
#pragma omp parallel for schedule(static) if (n * d > FEW)
    for (long i = 0; i < n; i++) {
        const float scale = scales[i] * (float)(1.0 / 127);
        for (int j = 0; j < d; j++) narrow(codes[i * d + j] * scale, weights + i * d + j);
    }
}

extern "C" {
// either `plain` constants or the four others, with how many share a scale; zeros of blocks or none
void tunewise_four_bits(int is_bfloat16, const uint8_t* codes, const float* values, long n, int block,
                        const float* plain, const uint8_t* constants, const float* values_of_constants,
                        const float* scales, const float* mean, int block_of_constants, const uint8_t* zeros,
                        void* weights) {
    const Constants all{plain, constants, values_of_constants, scales, mean, block_of_constants};
    if (is_bfloat16)
        four_bits(codes, values, all, zeros, (Bfloat16*)weights, n, block);
    else
        four_bits(codes, values, all, zeros, (float*)weights, n, block);
}

void tunewise_eight_bits(int is_bfloat16, const int8_t* codes, const float* scales, void* weights, long n, int d) {
    if (is_bfloat16)
        eight_bits(codes, scales, (Bfloat16*)weights, n, d);
    else
        eight_bits(codes, scales, (float*)weights, n, d);
}
}
