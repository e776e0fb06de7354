// CUDA C++ for the host: enough of the language to run the kernels, slowly and strictly.
//
// Blocks run one after another, the threads of a block as coroutines that give way at barriers. The order
// of both can be turned round or shuffled: where results depend on it, the kernel has a race. A barrier that
// some threads do not reach is an error, and so is one after which shared memory is still being copied to.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static
#define SHARED_POOL(name) static double *const name = emulator::pool
#define EMULATED

struct Index3 {
    unsigned int x = 0, y = 0, z = 0;
};
static Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

enum { MOST = 1024, STACK = 64 * 1024, POOL = 48 * 1024 };
alignas(64) static double pool[POOL / sizeof(double)];

struct Copy {
    void *to;
    const void *from;
    size_t bytes;
};

struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    bool done = true;
    std::vector<std::vector<Copy>> copies;  // asynchronous ones: a list for each group
};

static std::vector<Fiber> fibers(MOST);
static ucontext_t scheduler;
static Fiber *current;
static std::function<void()> body;
static int error;
enum { DIVERGED = 1, UNFINISHED_COPY = 2, TOO_LARGE = 3 };

inline void give_way() { swapcontext(&current->context, &scheduler); }

inline void start() {
    body();
    for (auto &group : current->copies)
        if (!group.empty()) error = UNFINISHED_COPY;
    current->done = true;
}

inline std::vector<unsigned int> order(unsigned int count, int schedule) {
    std::vector<unsigned int> found(count);
    for (unsigned int i = 0; i < count; ++i) found[i] = schedule == 1 ? count - 1 - i : i;
    if (schedule == 2) {
        unsigned int state = 12345;
        for (unsigned int i = count; i > 1; --i) {
            state = state * 1664525u + 1013904223u;
            std::swap(found[i - 1], found[(state >> 8) % i]);
        }
    }
    return found;
}

inline void run_block(unsigned int threads, int schedule) {
    // what is in shared memory at the start is nobody's: NaN
    memset(pool, 0xff, sizeof pool);
    for (unsigned int t = 0; t < threads; ++t) {
        Fiber &fiber = fibers[t];
        fiber.stack.resize(STACK);
        fiber.done = false;
        fiber.copies.assign(1, {});
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, start, 0);
    }
    for (unsigned int left = threads; left;) {
        unsigned int ended = 0;
        for (unsigned int t : order(threads, schedule)) {
            if (fibers[t].done) continue;
            current = &fibers[t];
            threadIdx.x = t;
            swapcontext(&scheduler, &current->context);
            ended += current->done ? 1 : 0;
        }
        if (ended && ended < left) error = DIVERGED;
        left -= ended;
    }
}

template <class... P, size_t... I>
void call(void (*kernel)(P...), void **args, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<P> *>(args[I])...);
}

// shape: blocks in x and y, threads, bytes of shared memory. The arguments are pointers to their values.
template <class... P> int launch(void (*kernel)(P...), const unsigned int *shape, void **args, int schedule) {
    error = shape[2] > MOST || shape[3] > POOL ? TOO_LARGE : 0;
    if (error) return error;
    gridDim.x = shape[0];
    gridDim.y = shape[1];
    gridDim.z = blockDim.y = blockDim.z = 1;
    blockDim.x = shape[2];
    body = [&] { call(kernel, args, std::index_sequence_for<P...>()); };
    for (unsigned int block : order(shape[0] * shape[1], schedule)) {
        blockIdx.x = block % shape[0];
        blockIdx.y = block / shape[0];
        run_block(shape[2], schedule);
    }
    return error;
}

template <class... P> int sizes(void (*)(P...), int *out) {
    int i = 0;
    ((out[i++] = sizeof(P)), ...);
    return i;
}

}  // namespace emulator

inline void __syncthreads() { emulator::give_way(); }

template <class T> T atomicAdd(T *x, T y) {
    T old = *x;
    *x += y;
    return old;
}

template <class T> T atomicOr(T *x, T y) {
    T old = *x;
    *x |= y;
    return old;
}

template <class T> T atomicMax(T *x, T y) {
    T old = *x;
    *x = std::max(*x, y);
    return old;
}

template <class To, class From> To same_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "");
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}

inline unsigned int __float_as_uint(float x) { return same_bits<unsigned int>(x); }
inline float __uint_as_float(unsigned int x) { return same_bits<float>(x); }
inline long long __double_as_longlong(double x) { return same_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return same_bits<double>(x); }

// A copy arrives when it is waited for, and not before.
template <class T> void copy_async(T *to, const T *from) {
    emulator::current->copies.back().push_back({to, from, sizeof(T)});
}

inline void commit_copies() { emulator::current->copies.emplace_back(); }

inline void wait_for_copies(size_t running) {
    auto &groups = emulator::current->copies;
    const size_t finished = groups.size() - 1 > running ? groups.size() - 1 - running : 0;
    for (size_t i = 0; i < finished; ++i)
        for (const auto &copy : groups[i]) memcpy(copy.to, copy.from, copy.bytes);
    groups.erase(groups.begin(), groups.begin() + finished);
}

#define KERNEL(id, ...)                                                                       \
    extern "C" int launch_##id(const unsigned int *shape, void **args, int schedule) {        \
        return emulator::launch(__VA_ARGS__, shape, args, schedule);                          \
    }                                                                                         \
    extern "C" int sizes_##id(int *out) { return emulator::sizes(__VA_ARGS__, out); }
