// The Gram matrix of the rows [U; V; x; y] in float64: see low_rank.cu.

enum { SIDE = 8, LANES = 32 };

#ifndef EMULATED
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
                                            const T *__restrict__ reading, const int *count, double *parts) {
    SHARED_POOL(pool);
    const int m = 2 * r + 2, sides = (m + SIDE - 1) / SIDE, squares = sides * (sides + 1) / 2;
    const int rows = sides * SIDE > m ? sides * SIDE : m + 1;
    const int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const int square = blockIdx.y * (blockDim.x / LANES) + warp;
    const Reading<T> as(reading, count);
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
            T *const at = here + 2 * r * tile + c;
            const Pair<T> pair(at[0], at[tile], at[2 * tile], from + c, as);
            at[0] = pair.x;
            at[tile] = from + c < n ? pair.y : T(0);  // 0 / 0 beyond the end
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
