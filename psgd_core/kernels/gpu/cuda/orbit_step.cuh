// What a thread does with an orbit, or with W neighbouring ones, in registers.

enum { DIRECT, SHIFTED, MIRRORED, GATHERED };  // as cpu/members.py has them

template <class T> struct Limits;  // what a unit is at least; how large the damping must be in it to be heard
template <> struct Limits<float> {
    static __device__ inline float tiny() { return 1.17549435e-38f; }
    static __device__ inline float heard() { return 4.31583721e-05f; }
};
template <> struct Limits<double> {
    static __device__ inline double tiny() { return 2.2250738585072014e-308; }
    static __device__ inline double heard() { return 1.862645149230957e-09; }
};

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
