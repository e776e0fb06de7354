// One update of a Theorem 3.1 group: the arithmetic of cpu_orbits.py, a thread to an orbit (or W neighbours).
//
// inspect    is the pair finite, and is v not zero?                            reads v, h
// measure    |Q h| and |Q^{-T} v|, where the automatic scale is pending        else returns at once
// settle     whether it is due and what it is, the damping and the step, for the others to read
// move       one step of each orbit, and |a| and |b| of all                    reads q, v, h, held; writes q, held
// finish     the state's counters
//
// Nothing is decided on the host. Sums over blocks are taken in the order of the blocks; what is atomic is
// integer, which has no order.

enum { DIRECT, SHIFTED, MIRRORED, GATHERED };  // as cpu_orbits.py has them
enum { NOT_FINITE = 1, SOME_V = 2, SOME_H = 4 };
enum { LARGEST_BLOCK = 256 };
enum { FAR = 10, SHRINK = 8, GROW = 64 };  // as psgd_core/_scale.py has them

// At the start of the work space; zero before the first kernel.
struct Control {
    unsigned int flags;
    int due;                            // whether this update sets the scale
    double scale, damping, step, root;  // root: step^{1/4}
    Count left;                         // orbits that did not move
    int go;                             // whether any is to move
};

// A norm as unit sqrt(sum): no square overflows, in float64 either.
struct Norm {
    double unit, sum;
};

template <class T> struct Limits;  // what a unit is at least; how large the damping must be in it to be heard
template <> struct Limits<float> {
    static __device__ inline float tiny() { return 1.17549435e-38f; }
    static __device__ inline float heard() { return 4.31583721e-05f; }
};
template <> struct Limits<double> {
    static __device__ inline double tiny() { return 2.2250738585072014e-308; }
    static __device__ inline double heard() { return 1.862645149230957e-09; }
};

__device__ inline bool usable(const Control *control) {
    return (control->flags & (NOT_FINITE | SOME_V)) == SOME_V;
}

// -- is it a pair? ----------------------------------------------------------------------------------------

template <class T, int W> __global__ void inspect(Index n, const T *__restrict__ v, const T *__restrict__ h,
                                                  Control *control) {
    __shared__ unsigned int flags;
    T odd = T(0);  // NaN from the first entry on that is not finite
    bool some_v = false, some_h = false;
    const Index packs = n / W;
    for (Index t = first_item(); t < packs; t += all_items()) {
        const Pack<T, W> x = fetch<W>(v + t * W), y = fetch<W>(h + t * W);
#pragma unroll
        for (int w = 0; w < W; ++w) {
            odd += (x.at[w] - x.at[w]) + (y.at[w] - y.at[w]);
            some_v |= x.at[w] != T(0);
            some_h |= y.at[w] != T(0);
        }
    }
    for (Index t = packs * W + first_item(); t < n; t += all_items()) {
        odd += (v[t] - v[t]) + (h[t] - h[t]);
        some_v |= v[t] != T(0);
        some_h |= h[t] != T(0);
    }
    if (threadIdx.x == 0) flags = 0;
    __syncthreads();
    const unsigned int found =
        (odd == T(0) ? 0 : NOT_FINITE) | (some_v ? SOME_V : 0) | (some_h ? SOME_H : 0);
    if (found) atomicOr(&flags, found);
    __syncthreads();
    if (threadIdx.x == 0) atomicOr(&control->flags, flags);
}

// -- norms ------------------------------------------------------------------------------------------------

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
    if (y.unit > x.unit) return joined(y, x);
    if (!(x.unit > 0.0)) return Norm{0.0, x.sum + y.sum};
    if (x.unit == y.unit) return Norm{x.unit, x.sum + y.sum};
    const double ratio = y.unit / x.unit;
    return Norm{x.unit, x.sum + y.sum * ratio * ratio};
}

__device__ inline double value_of(const Norm &x) { return x.unit * sqrt(x.sum); }

// The norm of squares in units of `unit`. Those of floats need no unit in float64; then joining them divides nothing.
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

// -- orbits in registers ----------------------------------------------------------------------------------

// Members of W neighbouring orbits from t on. Member i of orbit j is at start + i c + j (direct, shifted), at
// j or n - 1 - j (mirrored), or at order[start + i c + j] (gathered).
template <class T, int S, int HOW, int W>
__device__ inline void members(const T *__restrict__ x, Index n, const Index *__restrict__ order, Index start,
                               Index count, Index t, T (&out)[W][S]) {
#pragma unroll
    for (int i = 0; i < S; ++i) {
        if (HOW == GATHERED) {
#pragma unroll
            for (int w = 0; w < W; ++w) out[w][i] = x[order[start + i * count + t + w]];
        } else if (HOW == MIRRORED && i == 1) {
            const Pack<T, W> pack = fetch<W>(x + (n - t - W));
#pragma unroll
            for (int w = 0; w < W; ++w) out[w][i] = pack.at[W - 1 - w];
        } else {
            const Pack<T, W> pack = fetch<W>(x + start + i * count + t);
#pragma unroll
            for (int w = 0; w < W; ++w) out[w][i] = pack.at[w];
        }
    }
}

template <class T, int S, int W>
__device__ inline void fetch_blocks(const T *q, Index count, Index t, T (&out)[W][S][S]) {
#pragma unroll
    for (int i = 0; i < S; ++i)
#pragma unroll
        for (int j = 0; j < S; ++j) {
            const Pack<T, W> pack = fetch<W>(q + (i * S + j) * count + t);
#pragma unroll
            for (int w = 0; w < W; ++w) out[w][i][j] = pack.at[w];
        }
}

// a = Q h, and b = Q^{-T} v by elimination with row pivoting by comparison.
template <class T, int S>
__device__ inline void images(const T (&q)[S][S], const T (&h)[S], const T (&v)[S], T (&a)[S], T (&b)[S]) {
    T w[S][S];
#pragma unroll
    for (int i = 0; i < S; ++i) {
        b[i] = v[i];
        a[i] = q[i][0] * h[0];
#pragma unroll
        for (int j = 1; j < S; ++j) a[i] += q[i][j] * h[j];
#pragma unroll
        for (int j = 0; j < S; ++j) w[j][i] = q[i][j];
    }
#pragma unroll
    for (int j = 0; j < S; ++j) {
#pragma unroll
        for (int i = j + 1; i < S; ++i) {
            const bool swap = magnitude(w[i][j]) > magnitude(w[j][j]);
            const T x = b[i], y = b[j];
            b[i] = swap ? y : x;
            b[j] = swap ? x : y;
#pragma unroll
            for (int m = j; m < S; ++m) {
                const T lower = w[i][m], upper = w[j][m];
                w[i][m] = swap ? upper : lower;
                w[j][m] = swap ? lower : upper;
            }
        }
#pragma unroll
        for (int i = j + 1; i < S; ++i) {
            const T factor = w[i][j] / w[j][j];
            b[i] -= factor * b[j];
#pragma unroll
            for (int m = j + 1; m < S; ++m) w[i][m] -= factor * w[j][m];
        }
    }
#pragma unroll
    for (int i = S - 1; i >= 0; --i) {
#pragma unroll
        for (int j = i + 1; j < S; ++j) b[i] -= w[i][j] * b[j];
        b[i] /= w[i][i];
    }
}

template <class T> struct Rule {
    T damping, decay, step, root, scale;  // decay: of Running, -1 for Sample; scale: 1 unless it is due
    bool due;                             // then damping is 0
};

// Move Q, and return whether it moved; if not, q and `held` are as they were. |a| and |b| are joined to x and y.
template <class T, int S>
__device__ inline bool step_of(T (&q)[S][S], const T (&h)[S], T (&v)[S], T &held, const Rule<T> &rule, Norm &x,
                               Norm &y) {
    T a[S], b[S], size = T(0), unit = Limits<T>::tiny();
    images<T, S>(q, h, v, a, b);
#pragma unroll
    for (int i = 0; i < S; ++i) {
        if (rule.due) {  // what c Q would have given
            a[i] *= rule.scale;
            b[i] /= rule.scale;
        }
        unit = larger(larger(unit, magnitude(a[i])), magnitude(b[i]));
#pragma unroll
        for (int j = 0; j < S; ++j) size = larger(size, magnitude(q[i][j]));
    }
    const bool heard = rule.damping * size > Limits<T>::heard() * unit;
    if (heard) unit = larger(unit, rule.damping * size);
    const T inverse = T(1) / unit, noise = rule.damping * inverse;

    T square_a = T(0), square_b = T(0), ph[S];
#pragma unroll
    for (int i = 0; i < S; ++i) {
        a[i] *= inverse;
        b[i] *= inverse;
        v[i] *= inverse;
        square_a += a[i] * a[i];
        square_b += b[i] * b[i];
        if (heard)
#pragma unroll
            for (int j = 0; j < S; ++j) square_a += (q[i][j] * noise) * (q[i][j] * noise);
    }
    const T bound = unit * root_of(square_a + square_b);
    if (!is_number(bound)) return false;
    x = joined(x, norm_of(unit, square_a));
    y = joined(y, norm_of(unit, square_b));
    if (rule.due)
#pragma unroll
        for (int i = 0; i < S; ++i)
#pragma unroll
            for (int j = 0; j < S; ++j) q[i][j] *= rule.scale;

    // Running: N is what was held, but at least step^{1/4} times this bound; Sample: this bound.
    const T before = held > T(0) ? held : bound, least = rule.root * bound;
    const T size_n = rule.decay < T(0) ? bound : (before > least ? before : least);
    const T ratio = size_n > T(0) ? unit / size_n : T(0), mu = rule.step * ratio * ratio;
    const T capped = bound < T(10) * before ? bound : T(10) * before;
    held = rule.decay < T(0) ? bound : rule.decay * before + (T(1) - rule.decay) * capped;

#pragma unroll
    for (int j = 0; j < S; ++j) {
        ph[j] = q[0][j] * a[0];
#pragma unroll
        for (int i = 1; i < S; ++i) ph[j] += q[i][j] * a[i];
    }
    T moved[S][S];
#pragma unroll
    for (int i = 0; i < S; ++i)
#pragma unroll
        for (int j = 0; j < S; ++j) {
            moved[i][j] = a[i] * ph[j];
            moved[i][j] -= b[i] * v[j];
        }
    if (heard) {
        T w[S][S];  // Q^T (damping Q)
#pragma unroll
        for (int j = 0; j < S; ++j)
#pragma unroll
            for (int c = 0; c < S; ++c) {
                w[j][c] = q[0][j] * (q[0][c] * noise);
#pragma unroll
                for (int i = 1; i < S; ++i) w[j][c] += q[i][j] * (q[i][c] * noise);
            }
#pragma unroll
        for (int i = 0; i < S; ++i)
#pragma unroll
            for (int j = 0; j < S; ++j)
#pragma unroll
                for (int c = 0; c < S; ++c) moved[i][j] += (q[i][c] * noise) * w[j][c];
    }
#pragma unroll
    for (int i = 0; i < S; ++i)
#pragma unroll
        for (int j = 0; j < S; ++j) q[i][j] -= mu * moved[i][j];
    return true;
}

// -- the automatic scale ----------------------------------------------------------------------------------

template <class T, int S, int HOW>
__global__ void measure(Index n, Index start, Index count, const T *__restrict__ v, const T *__restrict__ h,
                        const Index *__restrict__ order, const T *__restrict__ q,
                        const bool *__restrict__ pending, const Control *control, Norm *parts) {
    if (!*pending || !usable(control)) return;
    Norm x = {0.0, 0.0}, y = {0.0, 0.0};
    for (Index t = first_item(); t < count; t += all_items()) {
        T now[1][S][S], hs[1][S], vs[1][S], a[S], b[S];
        fetch_blocks<T, S, 1>(q, count, t, now);
        members<T, S, HOW, 1>(h, n, order, start, count, t, hs);
        members<T, S, HOW, 1>(v, n, order, start, count, t, vs);
        images<T, S>(now[0], hs[0], vs[0], a, b);
        for (int i = 0; i < S; ++i) {
            include(x, a[i]);
            include(y, b[i]);
        }
    }
    join_threads(x, y);
    if (threadIdx.x == 0) {
        parts[2 * blockIdx.x] = x;
        parts[2 * blockIdx.x + 1] = y;
    }
}

// One block. `step_at` is null, or where the step is.
template <class T>
__global__ void settle(int blocks, const Norm *__restrict__ parts, const T *__restrict__ damping,
                       const bool *__restrict__ pending, double step, double root, const T *__restrict__ step_at,
                       Control *control) {
    if (step_at) {
        step = *step_at;
        root = sqrt(sqrt(step));
    }
    const bool taken = usable(control) && step > 0.0 && step < 1.0;
    const bool due = *pending && taken && (control->flags & SOME_H);  // of all threads, or of none
    Norm x = {0.0, 0.0}, y = {0.0, 0.0};
    if (due) join_parts(blocks, parts, x, y);
    if (threadIdx.x == 0) {
        // the minimiser over c of the criterion at c Q: c^4 = |y|^2 / |x|^2, and then |c x| = |y / c|
        const double root_x = sqrt(value_of(x)), root_y = sqrt(value_of(y));
        control->scale = due ? root_y / root_x : 1.0;
        control->due = due;
        // Where the scale is due all orbits move or none does: no bound is above 2 |c x|, so that says which.
        control->go = taken && (!due || is_number(T(2.0 * root_x * root_y) + T(control->scale)));
        control->damping = due ? T(0) : magnitude(*damping);
        control->step = step;
        control->root = root;
    }
}

// -- the update -------------------------------------------------------------------------------------------

template <class T, int S, int HOW, int W>
__global__ void move(Index n, Index start, Index count, const T *__restrict__ v, const T *__restrict__ h,
                     const Index *__restrict__ order, const T *q, const T *held, T *new_q, T *new_held, T decay,
                     Control *control, Norm *parts) {
    __shared__ unsigned int stays;
    const bool go = control->go, due = control->due;
    if (!go && !due && q == new_q) return;
    const Rule<T> rule = {T(control->damping), decay, T(control->step), T(control->root), T(control->scale), due};
    if (threadIdx.x == 0) stays = 0;
    __syncthreads();
    unsigned int own = 0;
    Norm x = {0.0, 0.0}, y = {0.0, 0.0};
    for (Index t = first_item() * W; t < count; t += all_items() * W) {
        T now[W][S][S], hs[W][S], vs[W][S];
        Pack<T, W> bound = fetch<W>(held + t);
        fetch_blocks<T, S, W>(q, count, t, now);
        members<T, S, HOW, W>(h, n, order, start, count, t, hs);
        members<T, S, HOW, W>(v, n, order, start, count, t, vs);
#pragma unroll
        for (int w = 0; w < W; ++w) {
            if (due) bound.at[w] = T(0);  // what was held is of another scale
            const bool moved = go && step_of<T, S>(now[w], hs[w], vs[w], bound.at[w], rule, x, y);
            own += moved ? 0 : 1;
        }
        store<W>(new_held + t, bound);
#pragma unroll
        for (int i = 0; i < S; ++i)
#pragma unroll
            for (int j = 0; j < S; ++j) {
                Pack<T, W> pack;
#pragma unroll
                for (int w = 0; w < W; ++w) pack.at[w] = now[w][i][j];
                store<W>(new_q + (i * S + j) * count + t, pack);
            }
    }
    if (own) atomicAdd(&stays, own);
    join_threads(x, y);
    if (threadIdx.x == 0) {
        if (stays) atomicAdd(&control->left, Count(stays));
        parts[2 * blockIdx.x] = x;
        parts[2 * blockIdx.x + 1] = y;
    }
}

// How many pairs in a row say that Q is off its scale: positive where it is too large, negative where too small.
template <class T> __device__ inline int run_after(int run, T a, T b, bool seen) {
    const bool large = a > T(FAR) * b, small = b > T(FAR) * a;
    if (!large && !small) return 0;
    if (!seen) return run;  // a product of nothing does not count
    return large ? (run > 0 ? run : 0) + 1 : (run < 0 ? run : 0) - 1;
}

// The counters of the state; one block. Where some orbits did not move, |a| and |b| are not known.
template <class T>
__global__ void finish(int blocks, const Norm *__restrict__ parts, const Control *control, const T *damping,
                       const bool *pending, const int *off_scale, const int *count, const int *skipped,
                       T *new_damping, bool *new_pending, int *new_off_scale, int *new_count, int *new_skipped) {
    const bool complete = control->go && !control->left, due = control->due;
    Norm x = {0.0, 0.0}, y = {0.0, 0.0};
    if (complete && !due) join_parts(blocks, parts, x, y);
    if (threadIdx.x != 0) return;
    const int run = run_after(*off_scale, T(value_of(x)), T(value_of(y)), (control->flags & SOME_H) != 0);
    const bool jumped = run >= SHRINK || run <= -GROW;
    const T growth = T(control->scale) * T(control->scale), lambda = *damping;
    *new_damping = due && complete && lambda < T(0) ? larger(-lambda / growth, Limits<T>::tiny()) : lambda;
    *new_pending = (*pending && !(due && complete)) || jumped;
    *new_off_scale = jumped ? 0 : run;
    *new_count = *count + (complete ? 1 : 0);
    *new_skipped = *skipped + (complete ? 0 : 1);
}

// -- P g --------------------------------------------------------------------------------------------------

template <class T, int S, int HOW, int W>
__global__ void precondition(Index n, Index start, Index count, const T *__restrict__ g,
                             const Index *__restrict__ order, const T *__restrict__ q, T *__restrict__ out) {
    for (Index t = first_item() * W; t < count; t += all_items() * W) {
        T now[W][S][S], x[W][S], y[S], z[W][S];
        fetch_blocks<T, S, W>(q, count, t, now);
        members<T, S, HOW, W>(g, n, order, start, count, t, x);
#pragma unroll
        for (int w = 0; w < W; ++w) {
#pragma unroll
            for (int i = 0; i < S; ++i) {
                y[i] = now[w][i][0] * x[w][0];
#pragma unroll
                for (int j = 1; j < S; ++j) y[i] += now[w][i][j] * x[w][j];
            }
#pragma unroll
            for (int j = 0; j < S; ++j) {
                z[w][j] = now[w][0][j] * y[0];
#pragma unroll
                for (int i = 1; i < S; ++i) z[w][j] += now[w][i][j] * y[i];
            }
        }
#pragma unroll
        for (int i = 0; i < S; ++i) {
            if (HOW == GATHERED) {
#pragma unroll
                for (int w = 0; w < W; ++w) out[order[start + i * count + t + w]] = z[w][i];
            } else {
                const bool turned = HOW == MIRRORED && i == 1;
                Pack<T, W> pack;
#pragma unroll
                for (int w = 0; w < W; ++w) pack.at[turned ? W - 1 - w : w] = z[w][i];
                store<W>(out + (turned ? n - t - W : start + i * count + t), pack);
            }
        }
    }
}
