// One update of a Theorem 3.1 group: the arithmetic of cpu/orbit_passes.py, a thread to an orbit (or W neighbours).
//
// inspect    is the pair finite, and is v not zero?                            reads v, h
// measure    |Q h| and |Q^{-T} v|, where the automatic scale is pending        else returns at once
// settle     whether it is due and what it is, the damping and the step, for the others to read
// move       one step of each orbit, and |a| and |b| of all                    reads q, v, h, held; writes q, held
// finish     the state's counters
//
// Nothing is decided on the host. Sums over blocks are taken in the order of the blocks; what is atomic is
// integer, which has no order.
#include "common.cuh"
#include "norms.cuh"
#include "orbit_step.cuh"

enum { NOT_FINITE = 1, SOME_V = 2, SOME_H = 4 };

// At the start of the work space; zero before the first kernel.
struct Control {
    unsigned int flags;
    int due;                            // whether this update sets the scale
    double scale, damping, step, root;  // root: step^{1/4}
    Count left;                         // orbits that did not move
    int go;                             // whether any is to move
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
            if (due && go) bound.at[w] = T(0);  // what was held is of another scale
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
template <class T> __device__ inline int run_after(int run, T a, T b, T far, bool seen) {
    const bool large = a > far * b, small = b > far * a;
    if (!large && !small) return 0;
    if (!seen) return run;  // a product of nothing does not count
    return large ? (run > 0 ? run : 0) + 1 : (run < 0 ? run : 0) - 1;
}

// The counters of the state; one block. Where some orbits did not move, |a| and |b| are not known.
template <class T>
__global__ void finish(int blocks, const Norm *__restrict__ parts, const Control *control, double far, int shrink,
                       int grow, const T *damping, const bool *pending, const int *off_scale, const int *count,
                       const int *skipped, T *new_damping, bool *new_pending, int *new_off_scale, int *new_count,
                       int *new_skipped) {
    const bool complete = control->go && !control->left, due = control->due;
    Norm x = {0.0, 0.0}, y = {0.0, 0.0};
    if (complete && !due) join_parts(blocks, parts, x, y);
    if (threadIdx.x != 0) return;
    const bool seen = control->flags & SOME_H;
    const int before = *off_scale;
    const int run = complete ? run_after(before, T(value_of(x)), T(value_of(y)), T(far), seen) : before;
    const bool jumped = run >= shrink || run <= -grow;
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
