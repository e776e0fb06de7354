// What all kernels share. No headers are included: NVRTC has built in what is needed here, and the tests
// compile the same text for the host.

typedef long long Index;
typedef unsigned long long Count;

__device__ inline float magnitude(float x) { return fabsf(x); }
__device__ inline double magnitude(double x) { return fabs(x); }
__device__ inline float root_of(float x) { return sqrtf(x); }
__device__ inline double root_of(double x) { return sqrt(x); }
// The larger one; NaN is passed over.
__device__ inline float larger(float x, float y) { return fmaxf(x, y); }
__device__ inline double larger(double x, double y) { return fmax(x, y); }

template <class T> __device__ inline bool is_number(T x) { return x - x == T(0); }

__device__ inline Index first_item() { return Index(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline Index all_items() { return Index(gridDim.x) * blockDim.x; }

// W neighbours in memory, read and written at once.
template <class T, int W> struct alignas(sizeof(T) * W) Pack {
    T at[W];
};

template <int W, class T> __device__ inline Pack<T, W> fetch(const T *x) {
    return *reinterpret_cast<const Pack<T, W> *>(x);
}

template <int W, class T> __device__ inline void store(T *x, const Pack<T, W> &pack) {
    *reinterpret_cast<Pack<T, W> *>(x) = pack;
}
