// The passes of an update of Q = (I + U V^T) diag(d), U and V in rows (r, n). With x = d h / unit and
// y = p / d / unit all of it is combinations of the rows [U; V; x; y], m = 2 r + 2 of them.
//
// survey     is it a pair, and what is the largest entry of x and y?           reads d, h, p
// gram       the Gram matrix of the rows in float64: parts by blocks           reads U, V, d, h, p
// gram_sum   their sum, in the order of the blocks
// extremes   the largest entries of P h ⊙ h and v ⊙ P^{-1} v                   reads U, V, d, h, p
// combine    any combinations of the rows                                      the same, writes them
// rewrite    the new factors and the new d, in place or elsewhere              the same, writes them
//
// x and y are made where they are needed, and never stored. Maxima are taken by atomics on the bits of what
// is not negative, which have its order (NaN is above all): so they do not depend on the order of threads.

enum { SIDE = 8, LANES = 32, TOGETHER = 4 };
enum { NOT_FINITE = 1, SOME_P = 2, SOME_H = 4 };

#ifndef EMULATED
#define SHARED_POOL(name) extern __shared__ __align__(16) double name[]

template <class T> __device__ inline void copy_async(T *to, const T *from) {
#if __CUDA_ARCH__ >= 800
    const unsigned int place = static_cast<unsigned int>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(place), "l"(from), "n"(sizeof(T)) : "memory");
#else
    *to = *from;
#endif
}

__device__ inline void commit_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Wait for all groups of this thread's copies but the last `running`.
#define wait_for_copies(running) wait_for_copies_but<running>()
template <int running> __device__ inline void wait_for_copies_but() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(running) : "memory");
#endif
}
#endif

__device__ inline unsigned int bits_of(float x) { return __float_as_uint(magnitude(x)); }
__device__ inline Count bits_of(double x) { return static_cast<Count>(__double_as_longlong(magnitude(x))); }
__device__ inline float from_bits(unsigned int x) { return __uint_as_float(x); }
__device__ inline double from_bits(Count x) { return __longlong_as_double(static_cast<Index>(x)); }

template <class T> struct BitsOf;
template <> struct BitsOf<float> { typedef unsigned int Type; };
template <> struct BitsOf<double> { typedef Count Type; };

// The sign of the damping's noise at a place: the hash of `preconditioners._signs`.
template <class T> __device__ inline T sign_at(Index place, unsigned int count) {
    unsigned int word = static_cast<unsigned int>(place);
    word = (word ^ (count * 0x1F35B1D9u)) * 0x2C1B3C6Du;
    word = (word ^ ((word >> 16) & 0xFFFFu)) * 0x297A2D39u;
    word ^= (word >> 15) & 0x1FFFFu;
    return (word >> 7) & 1u ? T(-1) : T(1);
}

// What x and y are made of, at one place.
template <class T> struct Pair {
    T d, h, p;
    __device__ inline void add_noise(T damping, Index place, unsigned int count) {
        if (damping != T(0)) h += damping * sign_at<T>(place, count);
    }
    __device__ inline T x(T unit) const { return d * h / unit; }
    __device__ inline T y(T unit) const { return p / d / unit; }
};

// -- is it a pair? ----------------------------------------------------------------------------------------

// `found`: flags, and the bits of the largest entry; zero before.
template <class T>
__global__ void survey(Index n, const T *__restrict__ d, const T *__restrict__ h, const T *__restrict__ p,
                       const int *count, T damping, unsigned int *flags,
                       typename BitsOf<T>::Type *largest) {
    typedef typename BitsOf<T>::Type Bits;
    __shared__ unsigned int all_flags;
    __shared__ Bits all_largest;
    if (threadIdx.x == 0) {
        all_flags = 0;
        all_largest = 0;
    }
    __syncthreads();
    unsigned int own = 0;
    Bits most = 0;
    for (Index t = first_item(); t < n; t += all_items()) {
        Pair<T> pair = {d[t], h[t], p[t]};
        own |= is_number(pair.h) && is_number(pair.p) ? 0 : NOT_FINITE;
        own |= (pair.p != T(0) ? SOME_P : 0) | (pair.h != T(0) ? SOME_H : 0);
        pair.add_noise(damping, t, static_cast<unsigned int>(*count));
        const Bits x = bits_of(pair.x(T(1))), y = bits_of(pair.y(T(1))), more = x > y ? x : y;
        most = more > most ? more : most;
    }
    if (own) atomicOr(&all_flags, own);
    atomicMax(&all_largest, most);
    __syncthreads();
    if (threadIdx.x == 0) {
        atomicOr(flags, all_flags);
        atomicMax(largest, all_largest);
    }
}

// One thread.
template <class T>
__global__ void judge(const unsigned int *flags, const typename BitsOf<T>::Type *largest, T *unit, bool *usable,
                      bool *seen) {
    const T most = from_bits(*largest);
    *unit = most > T(0) ? most : T(1);
    *usable = (*flags & (NOT_FINITE | SOME_P)) == SOME_P;
    *seen = (*flags & SOME_H) != 0;
}

// -- the Gram matrix --------------------------------------------------------------------------------------

// Square s of those on and below the diagonal of the Gram matrix, by rows.
__device__ inline void find_square(int s, int &row, int &column) {
    row = 0;
    while (s > row) s -= ++row;
    column = s;
}

__device__ inline int square_at(int row, int column) { return row * (row + 1) / 2 + column; }

template <class T>
__device__ inline void request(T *to, Index from, int tile, Index n, int r, const T *u, const T *v, const T *d,
                               const T *h, const T *p) {
    for (int k = threadIdx.x; k < (2 * r + 3) * tile; k += blockDim.x) {
        const int row = k / tile;
        const Index column = from + k % tile;
        if (column >= n) {
            to[k] = T(0);
            continue;
        }
        const T *source = row < r       ? u + row * n
                          : row < 2 * r ? v + (row - r) * n
                          : row == 2 * r ? d
                          : row == 2 * r + 1 ? h
                                             : p;
        copy_async(to + k, source + column);
    }
}

// Tiles of columns pass through shared memory, two at a time: while one is worked on, the next arrives. A
// warp accumulates a square of the matrix, a lane every 32nd column of it; blockIdx.y tells which squares.
// What the squares hold beyond row and column m is made of anything, and never read.
template <class T>
__global__ void __launch_bounds__(192, 2) gram(Index n, int r, int tile, const T *__restrict__ u,
                                            const T *__restrict__ v, const T *__restrict__ d,
                                            const T *__restrict__ h, const T *__restrict__ p,
                                            const T *__restrict__ unit_at, const int *count, T damping,
                                            double *parts) {
    SHARED_POOL(pool);
    const int m = 2 * r + 2, sides = (m + SIDE - 1) / SIDE, squares = sides * (sides + 1) / 2;
    const int rows = sides * SIDE > m ? sides * SIDE : m + 1;
    const int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const int square = blockIdx.y * (blockDim.x / LANES) + warp;
    const T unit = *unit_at;
    int row = 0, column = 0;
    find_square(square < squares ? square : 0, row, column);
    T *const stages = reinterpret_cast<T *>(pool);
    double sum[SIDE][SIDE];
#pragma unroll
    for (int i = 0; i < SIDE; ++i)
#pragma unroll
        for (int j = 0; j < SIDE; ++j) sum[i][j] = 0.0;

    const Index step = Index(gridDim.x) * tile;
    int now = 0;
    Index from = Index(blockIdx.x) * tile;
    request(stages, from, tile, n, r, u, v, d, h, p);
    commit_copies();
    for (; from < n; from += step, now ^= 1) {
        T *const here = stages + now * rows * tile;
        if (from + step < n) request(stages + (now ^ 1) * rows * tile, from + step, tile, n, r, u, v, d, h, p);
        commit_copies();
        wait_for_copies(1);
        __syncthreads();
        for (int c = threadIdx.x; c < tile; c += blockDim.x) {
            Pair<T> pair = {here[2 * r * tile + c], here[(2 * r + 1) * tile + c], here[(2 * r + 2) * tile + c]};
            pair.add_noise(damping, from + c, static_cast<unsigned int>(*count));
            here[2 * r * tile + c] = pair.x(unit);
            here[(2 * r + 1) * tile + c] = from + c < n ? pair.y(unit) : T(0);  // 0 / 0 beyond the end
        }
        __syncthreads();
        const T *const left = here + row * SIDE * tile, *const right = here + column * SIDE * tile;
        for (int c = lane; c < tile; c += LANES) {
            double x[SIDE], y[SIDE];
#pragma unroll
            for (int i = 0; i < SIDE; ++i) {
                x[i] = left[i * tile + c];
                y[i] = right[i * tile + c];
            }
#pragma unroll
            for (int i = 0; i < SIDE; ++i)
#pragma unroll
                for (int j = 0; j < SIDE; ++j) sum[i][j] += x[i] * y[j];
        }
        __syncthreads();  // before this tile's place is written to again
    }
    wait_for_copies(0);

    // the lanes' sums, row by row of the square, in the order of the lanes
    double *const lanes = pool + warp * SIDE * LANES;
    double *const out = parts + (Index(blockIdx.x) * squares + square) * SIDE * SIDE;
#pragma unroll
    for (int i = 0; i < SIDE; ++i) {
        __syncthreads();
#pragma unroll
        for (int j = 0; j < SIDE; ++j) lanes[j * LANES + lane] = sum[i][j];
        __syncthreads();
        if (lane < SIDE && square < squares) {
            double total = 0.0;
            for (int k = 0; k < LANES; ++k) total += lanes[lane * LANES + k];
            out[i * SIDE + lane] = total;
        }
    }
}

// A warp to an entry: lane k sums the parts k, k + 32, ...; then the lanes' sums in their order.
__global__ void gram_sum(int m, int blocks, const double *__restrict__ parts, double *__restrict__ out) {
    __shared__ double sums[8 * LANES];
    const int sides = (m + SIDE - 1) / SIDE, squares = sides * (sides + 1) / 2;
    const int lane = threadIdx.x % LANES;
    const int entry = (blockIdx.x * blockDim.x + threadIdx.x) / LANES;
    const int i = entry / m, j = entry % m, low = i < j ? i : j, high = i < j ? j : i;
    double total = 0.0;
    if (entry < m * m) {
        const int square = square_at(high / SIDE, low / SIDE), at = high % SIDE * SIDE + low % SIDE;
        for (int k = lane; k < blocks; k += LANES) total += parts[(Index(k) * squares + square) * SIDE * SIDE + at];
    }
    sums[threadIdx.x] = total;
    __syncthreads();
    if (lane == 0 && entry < m * m) {
        for (int k = 1; k < LANES; ++k) total += sums[threadIdx.x + k];
        out[entry] = total;
    }
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

// Put a column of the rows where its thread alone reads it again, and return what x and y are made of.
template <class T>
__device__ inline Pair<T> take_column(T *own, Index t, Index n, int r, const T *u, const T *v, const T *d,
                                      const T *h, const T *p, T unit, unsigned int count, T damping) {
    const int width = blockDim.x;
#pragma unroll 8
    for (int i = 0; i < r; ++i) own[i * width] = u[i * n + t];
#pragma unroll 8
    for (int i = 0; i < r; ++i) own[(r + i) * width] = v[i * n + t];
    Pair<T> pair = {d[t], h[t], p[t]};
    pair.add_noise(damping, t, count);
    own[2 * r * width] = pair.x(unit);
    own[(2 * r + 1) * width] = pair.y(unit);
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
                        const T *v, const T *d, const T *h, const T *p, const T *unit, const int *count,
                        T damping, T *out) {
    SHARED_POOL(pool);
    T *const own = reinterpret_cast<T *>(pool) + threadIdx.x;
    for (Index t = first_item(); t < n; t += all_items()) {
        take_column(own, t, n, r, u, v, d, h, p, *unit, static_cast<unsigned int>(*count), damping);
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
                         const T *__restrict__ p, const T *__restrict__ unit, const int *count, T damping,
                         typename BitsOf<T>::Type *out) {
    typedef typename BitsOf<T>::Type Bits;
    SHARED_POOL(pool);
    __shared__ Bits all[3];
    if (threadIdx.x < 3) all[threadIdx.x] = 0;
    __syncthreads();
    T *const own = reinterpret_cast<T *>(pool) + threadIdx.x;
    Bits most[3] = {0, 0, 0};
    for (Index t = first_item(); t < n; t += all_items()) {
        const Pair<T> pair =
            take_column(own, t, n, r, u, v, d, h, p, *unit, static_cast<unsigned int>(*count), damping);
        const Pack<T, TOGETHER> found = combined(own, 2 * r + 2, coefficients, wide);
        const T plus = pair.x(*unit) * found.at[0], minus = pair.y(*unit) * found.at[1];
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
// for V, and the two of `extremes`: d <- scale d (1 - mu (plus - minus)). `which` has bit 0 where U is to be written, bit 1 for V.
// The new may lie where the old are: a thread reads its column before it writes it.
template <class T>
__global__ void rewrite(Index n, int r, const T *__restrict__ coefficients, int wide, const T *u, const T *v,
                        const T *d, const T *h, const T *p, const T *unit, const int *count, T damping,
                        const T *mu, const T *scale, const bool *usable, const int *which, T *new_u, T *new_v,
                        T *new_d) {
    SHARED_POOL(pool);
    T *const own = reinterpret_cast<T *>(pool) + threadIdx.x;
    const int half = (r + TOGETHER - 1) / TOGETHER * TOGETHER, mask = *usable ? *which : 0;
    const bool go = *usable;
    if (!go && d == new_d) return;
    for (Index t = first_item(); t < n; t += all_items()) {
        const Pair<T> pair =
            take_column(own, t, n, r, u, v, d, h, p, *unit, static_cast<unsigned int>(*count), damping);
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
        const T moved = pair.x(*unit) * found.at[0] - pair.y(*unit) * found.at[1];
        new_d[t] = go ? *scale * pair.d * (T(1) - *mu * moved) : pair.d;
    }
}
