// Norms that do not overflow, of all the threads of a grid, in an order that does not change.

enum { LARGEST_BLOCK = 256 };

// A norm as unit sqrt(sum): no square overflows, in float64 either.
struct Norm {
    double unit, sum;
};

__device__ inline void include(Norm &norm, double x) {
    x = magnitude(x);
    if (x == 0.0) return;
    if (!is_number(x)) {
        norm.sum = x - x;  // NaN, and stays
    } else if (x > norm.unit) {
        const double ratio = norm.unit / x;
        norm.sum = 1.0 + norm.sum * ratio * ratio;
        norm.unit = x;
    } else {
        const double ratio = x / norm.unit;
        norm.sum += ratio * ratio;
    }
}

__device__ inline Norm joined(const Norm &x, const Norm &y) {
    if (x.unit == y.unit) return Norm{x.unit, x.sum + y.sum};
    const Norm &large = y.unit > x.unit ? y : x, &small = y.unit > x.unit ? x : y;
    const double ratio = small.unit / large.unit;
    return Norm{large.unit, large.sum + small.sum * ratio * ratio};
}

__device__ inline double value_of(const Norm &x) { return x.unit * sqrt(x.sum); }

// The norm of squares in units of `unit`. Those of floats need none in float64, and joining them divides nothing.
__device__ inline Norm norm_of(float unit, float square) { return Norm{1.0, double(unit) * unit * square}; }
__device__ inline Norm norm_of(double unit, double square) { return Norm{unit, square}; }

// Join the norms of a block's threads in the order of a binary tree; thread 0 gets the result.
__device__ inline void join_threads(Norm &x, Norm &y) {
    __shared__ Norm all_x[LARGEST_BLOCK], all_y[LARGEST_BLOCK];
    all_x[threadIdx.x] = x;
    all_y[threadIdx.x] = y;
    for (unsigned int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            all_x[threadIdx.x] = joined(all_x[threadIdx.x], all_x[threadIdx.x + half]);
            all_y[threadIdx.x] = joined(all_y[threadIdx.x], all_y[threadIdx.x + half]);
        }
    }
    __syncthreads();
    x = all_x[0];
    y = all_y[0];
}

// Join what the blocks of one kernel have left behind them, in their order; all threads of one block.
__device__ inline void join_parts(int blocks, const Norm *parts, Norm &x, Norm &y) {
    for (int k = threadIdx.x; k < blocks; k += blockDim.x) {
        x = joined(x, parts[2 * k]);
        y = joined(y, parts[2 * k + 1]);
    }
    join_threads(x, y);
}
