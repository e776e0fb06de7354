// What the passes of a low-rank update read at one place, and how they find largest entries.

#ifndef EMULATED
#define SHARED_POOL(name) extern __shared__ __align__(16) double name[]
#endif

__device__ inline unsigned int bits_of(float x) { return __float_as_uint(magnitude(x)); }
__device__ inline Count bits_of(double x) { return static_cast<Count>(__double_as_longlong(magnitude(x))); }
__device__ inline float from_bits(unsigned int x) { return __uint_as_float(x); }
__device__ inline double from_bits(Count x) { return __longlong_as_double(static_cast<Index>(x)); }

template <class T> struct BitsOf;
template <> struct BitsOf<float> { typedef unsigned int Type; };
template <> struct BitsOf<double> { typedef Count Type; };

// The sign of the damping's noise at a place: the hash of `arrays.signs`.
template <class T> __device__ inline T sign_at(Index place, unsigned int count) {
    unsigned int word = static_cast<unsigned int>(place);
    word = (word ^ (count * 0x1F35B1D9u)) * 0x2C1B3C6Du;
    word = (word ^ ((word >> 16) & 0xFFFFu)) * 0x297A2D39u;
    word ^= (word >> 15) & 0x1FFFFu;
    return (word >> 7) & 1u ? T(-1) : T(1);
}

// How h and p are to be read: the units of x and of y, and the damping's noise on h.
template <class T> struct Reading {
    T x, y, noise;
    unsigned int count;  // which the noise's signs are drawn by
    __device__ inline Reading(const T *numbers, const int *drawn)
        : x(numbers[0]), y(numbers[1]), noise(numbers[2]), count(static_cast<unsigned int>(*drawn)) {}
};

// x and y at one place.
template <class T> struct Pair {
    T d, x, y;
    __device__ inline Pair(T own_d, T h, T p, Index place, const Reading<T> &as) : d(own_d) {
        if (as.noise != T(0)) h += as.noise * sign_at<T>(place, as.count);
        x = d * h / as.x;
        y = p / d / as.y;
    }
};
