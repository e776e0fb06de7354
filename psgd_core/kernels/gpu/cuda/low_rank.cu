// The passes of an update of Q = (I + U V^T) diag(d), U and V in rows (r, n). With x = d h and y = p / d, each
// over a unit, all of it is combinations of the rows [U; V; x; y], m = 2 r + 2 of them.
//
// survey     is it a pair, and what are the largest entries of x and y?        reads d, h, p
// judge      is the automatic scale due, how are h and p to be read?
// gram       the Gram matrix of the rows in float64: parts by blocks           reads U, V, d, h, p
// gram_sum   their sum, in the order of the blocks
// extremes   the largest entries of P h ⊙ h and v ⊙ P^{-1} v                   reads U, V, d, h, p
// combine    any combinations of the rows                                      the same, writes them
// rewrite    the new factors and the new d, in place or elsewhere              the same, writes them
//
// x and y are made where they are needed, and never stored. Maxima are taken by atomics on the bits of what
// is not negative, which have its order (NaN is above all): so they do not depend on the order of threads.
#include "common.cuh"
#include "rows.cuh"
#include "gram.cuh"

enum { TOGETHER = 4 };
enum { NOT_FINITE = 1, SOME_P = 2, SOME_H = 4 };

// -- is it a pair? ----------------------------------------------------------------------------------------

// The flags, and the bits of the largest entries of d h, of d h with the damping's noise and of p / d; zero before.
template <class T>
__global__ void survey(Index n, const T *__restrict__ d, const T *__restrict__ h, const T *__restrict__ p,
                       const int *count, const T *damping, unsigned int *flags,
                       typename BitsOf<T>::Type *largest) {
    typedef typename BitsOf<T>::Type Bits;
    __shared__ unsigned int all_flags;
    __shared__ Bits all_largest[3];
    if (threadIdx.x == 0) all_flags = 0;
    if (threadIdx.x < 3) all_largest[threadIdx.x] = 0;
    __syncthreads();
    const T plain[3] = {T(1), T(1), T(0)}, damped[3] = {T(1), T(1), magnitude(*damping)};
    const Reading<T> as_plain(plain, count), as_damped(damped, count);
    unsigned int own = 0;
    Bits most[3] = {0, 0, 0};
    for (Index t = first_item(); t < n; t += all_items()) {
        const T at_d = d[t], at_h = h[t], at_p = p[t];
        own |= is_number(at_h) && is_number(at_p) ? 0 : NOT_FINITE;
        own |= (at_p != T(0) ? SOME_P : 0) | (at_h != T(0) ? SOME_H : 0);
        const Pair<T> pair(at_d, at_h, at_p, t, as_plain), noisy(at_d, at_h, at_p, t, as_damped);
        const Bits bits[3] = {bits_of(pair.x), bits_of(noisy.x), bits_of(pair.y)};
#pragma unroll
        for (int i = 0; i < 3; ++i) most[i] = bits[i] > most[i] ? bits[i] : most[i];
    }
    if (own) atomicOr(&all_flags, own);
#pragma unroll
    for (int i = 0; i < 3; ++i) atomicMax(&all_largest[i], most[i]);
    __syncthreads();
    if (threadIdx.x == 0) atomicOr(flags, all_flags);
    if (threadIdx.x < 3) atomicMax(largest + threadIdx.x, all_largest[threadIdx.x]);
}

template <class T> __device__ inline T unit_of(typename BitsOf<T>::Type largest) {
    const T found = from_bits(largest);
    return found > T(0) ? found : T(1);
}

// One thread. The pair that sets the scale has no noise, and a unit each for x and y, which may be far apart.
template <class T>
__global__ void judge(const unsigned int *flags, const typename BitsOf<T>::Type *largest, const T *damping,
                      const bool *pending, T *reading, bool *usable, bool *seen, bool *due) {
    *usable = (*flags & (NOT_FINITE | SOME_P)) == SOME_P;
    *seen = *usable && (*flags & SOME_H);
    *due = *pending && *seen;
    const typename BitsOf<T>::Type both = largest[1] > largest[2] ? largest[1] : largest[2];
    reading[0] = unit_of<T>(*due ? largest[0] : both);
    reading[1] = unit_of<T>(*due ? largest[2] : both);
    reading[2] = *due ? T(0) : magnitude(*damping);
}

// -- combinations of the rows -----------------------------------------------------------------------------

// Coefficients (outputs, m) as the kernels read them: (m, wide), zero where filled up. The first 2 r rows
// are two groups, each filled up to `half` columns.
template <class T>
__global__ void arrange(int m, int outputs, int r, int half, int wide, const double *__restrict__ from,
                        T *__restrict__ to) {
    for (Index k = first_item(); k < Index(m) * wide; k += all_items()) {
        const int j = static_cast<int>(k % wide), row = static_cast<int>(k / wide), inside = half ? j % half : 0;
        int source = j - 2 * half + 2 * r;
        if (j < 2 * half) source = inside < r ? j / half * r + inside : outputs;
        to[k] = source < outputs ? T(from[Index(source) * m + row]) : T(0);
    }
}

// Put a column of the rows where its thread alone reads it again, and return d, x and y.
template <class T>
__device__ inline Pair<T> take_column(T *own, Index t, Index n, int r, const T *u, const T *v, const T *d,
                                      const T *h, const T *p, const Reading<T> &as) {
    const int width = blockDim.x;
#pragma unroll 8
    for (int i = 0; i < r; ++i) own[i * width] = u[i * n + t];
#pragma unroll 8
    for (int i = 0; i < r; ++i) own[(r + i) * width] = v[i * n + t];
    const Pair<T> pair(d[t], h[t], p[t], t, as);
    own[2 * r * width] = pair.x;
    own[(2 * r + 1) * width] = pair.y;
    return pair;
}

// Four combinations at once; coefficients are (m, wide), `wide` a multiple of four.
template <class T>
__device__ inline Pack<T, TOGETHER> combined(const T *own, int m, const T *__restrict__ coefficients, int wide) {
    Pack<T, TOGETHER> total;
#pragma unroll
    for (int i = 0; i < TOGETHER; ++i) total.at[i] = T(0);
#pragma unroll 4
    for (int k = 0; k < m; ++k) {
        const T x = own[k * blockDim.x];
        const Pack<T, TOGETHER> c = fetch<TOGETHER>(coefficients + k * wide);
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i) total.at[i] += c.at[i] * x;
    }
    return total;
}

template <class T>
__global__ void combine(Index n, int r, int outputs, const T *__restrict__ coefficients, int wide, const T *u,
                        const T *v, const T *d, const T *h, const T *p, const T *reading, const int *count,
                        T *out) {
    SHARED_POOL(pool);
    const Reading<T> as(reading, count);
    T *const own = reinterpret_cast<T *>(pool) + threadIdx.x;
    for (Index t = first_item(); t < n; t += all_items()) {
        take_column(own, t, n, r, u, v, d, h, p, as);
        for (int q = 0; q < outputs; q += TOGETHER) {
            const Pack<T, TOGETHER> found = combined(own, 2 * r + 2, coefficients + q, wide);
#pragma unroll
            for (int i = 0; i < TOGETHER; ++i)
                if (q + i < outputs) out[(q + i) * n + t] = found.at[i];
        }
    }
}

// Of the first two combinations, times x and y: the bits of the largest entries of both and of their
// difference; zero before.
template <class T>
__global__ void extremes(Index n, int r, const T *__restrict__ coefficients, int wide, const T *__restrict__ u,
                         const T *__restrict__ v, const T *__restrict__ d, const T *__restrict__ h,
                         const T *__restrict__ p, const T *__restrict__ reading, const int *count,
                         typename BitsOf<T>::Type *out) {
    typedef typename BitsOf<T>::Type Bits;
    SHARED_POOL(pool);
    const Reading<T> as(reading, count);
    __shared__ Bits all[3];
    if (threadIdx.x < 3) all[threadIdx.x] = 0;
    __syncthreads();
    T *const own = reinterpret_cast<T *>(pool) + threadIdx.x;
    Bits most[3] = {0, 0, 0};
    for (Index t = first_item(); t < n; t += all_items()) {
        const Pair<T> pair = take_column(own, t, n, r, u, v, d, h, p, as);
        const Pack<T, TOGETHER> found = combined(own, 2 * r + 2, coefficients, wide);
        const T plus = pair.x * found.at[0], minus = pair.y * found.at[1];
        const Bits bits[3] = {bits_of(plus), bits_of(minus), bits_of(plus - minus)};
#pragma unroll
        for (int i = 0; i < 3; ++i) most[i] = bits[i] > most[i] ? bits[i] : most[i];
    }
#pragma unroll
    for (int i = 0; i < 3; ++i) atomicMax(&all[i], most[i]);
    __syncthreads();
    if (threadIdx.x < 3) atomicMax(out + threadIdx.x, all[threadIdx.x]);
}

// New U, V and d: changes of them that are combinations, r rows for U (filled up to a multiple of four), as many
// for V, and the two of `extremes`: d <- scale d (1 - mu (plus - minus)). `which` has bit 0 where U is to be
// written, bit 1 for V. The new may lie where the old are: a thread reads its column before it writes it.
template <class T>
__global__ void rewrite(Index n, int r, const T *__restrict__ coefficients, int wide, const T *u, const T *v,
                        const T *d, const T *h, const T *p, const T *reading, const int *count, const T *mu,
                        const T *scale, const bool *usable, const int *which, T *new_u, T *new_v, T *new_d) {
    SHARED_POOL(pool);
    const Reading<T> as(reading, count);
    T *const own = reinterpret_cast<T *>(pool) + threadIdx.x;
    const int half = (r + TOGETHER - 1) / TOGETHER * TOGETHER, mask = *usable ? *which : 0;
    const bool go = *usable;
    if (!go && d == new_d) return;
    for (Index t = first_item(); t < n; t += all_items()) {
        const Pair<T> pair = take_column(own, t, n, r, u, v, d, h, p, as);
#pragma unroll
        for (int factor = 0; factor < 2; ++factor) {
            const T *const from = factor ? v : u;
            T *const to = factor ? new_v : new_u;
            if (!(mask >> factor & 1)) {
                if (from != to)
                    for (int i = 0; i < r; ++i) to[i * n + t] = own[(factor * r + i) * blockDim.x];
                continue;
            }
            for (int q = 0; q < r; q += TOGETHER) {
                const Pack<T, TOGETHER> found =
                    combined(own, 2 * r + 2, coefficients + factor * half + q, wide);
#pragma unroll
                for (int i = 0; i < TOGETHER; ++i)
                    if (q + i < r) to[(q + i) * n + t] = own[(factor * r + q + i) * blockDim.x] + found.at[i];
            }
        }
        const Pack<T, TOGETHER> found = combined(own, 2 * r + 2, coefficients + 2 * half, wide);
        const T moved = pair.x * found.at[0] - pair.y * found.at[1];
        new_d[t] = go ? *scale * pair.d * (T(1) - *mu * moved) : pair.d;
    }
}
