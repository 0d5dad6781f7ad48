// What a .cu file needs to be compiled as host C++, unchanged, and run: each thread of a block is a fiber that gives
// way at a barrier. Blocks, and the threads of a block, run in an order drawn from a seed, and shared memory holds NaN
// before each block: whoever relies on an order, or reads what nobody has written, computes something else.
#pragma once
#include <cstdlib>
#include <cstring>
#include <math.h>
#include <typeinfo>
#include <ucontext.h>
#include <utility>

#define __global__
#define __device__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
// All shared arrays lie in one section, so that it can be filled.
#define __shared__ static __attribute__((section("shared_memory")))
extern "C" char __start_shared_memory[] __attribute__((weak)), __stop_shared_memory[] __attribute__((weak));

struct Three {
    unsigned x, y, z;
};
static Three threadIdx, blockIdx, blockDim, gridDim;
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(4) char4 {
    signed char x, y, z, w;
};
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }

namespace shim {

// Steele, Lea and Flood's SplitMix64: small, and the same on every machine.
struct Dice {
    unsigned long long state;

    unsigned below(unsigned n)
    {
        unsigned long long z = state += 0x9e3779b97f4a7c15;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return (z ^ (z >> 31)) % n;
    }

    void shuffle(unsigned *order, unsigned n)
    {
        for (unsigned i = 0; i < n; i++) order[i] = i;
        for (unsigned i = n; i > 1; i--) std::swap(order[i - 1], order[below(i)]);
    }
};

constexpr size_t STACK = 64 * 1024;
enum State { READY, WAITING, DONE };

struct Fiber {
    ucontext_t context;
    State state;
};

static ucontext_t scheduler;
static Fiber *running;
static void (*body)(void *);
static void *what;

static void enter()
{
    body(what);
    running->state = DONE;
    swapcontext(&running->context, &scheduler);
}

// Not instrumented: it also fills what a sanitizer put between the arrays.
__attribute__((no_sanitize("address"))) static void forget_shared_memory()
{
    for (volatile char *at = __start_shared_memory; at < __stop_shared_memory; at++) *at = -1;  // NaN
}

static void prepare(Fiber *fiber, char *stack)
{
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = stack;
    fiber->context.uc_stack.ss_size = STACK;
    fiber->context.uc_link = nullptr;
    fiber->state = READY;
    makecontext(&fiber->context, enter, 0);
}

// Runs all threads of one block from barrier to barrier; false if some ended where others wait.
static bool run_block(Fiber *fibers, char *stacks, unsigned *order, unsigned threads, Dice &dice)
{
    for (unsigned t = 0; t < threads; t++) prepare(fibers + t, stacks + t * STACK);
    for (unsigned done = 0; done < threads;) {
        done = 0;
        dice.shuffle(order, threads);
        for (unsigned k = 0; k < threads; k++) {
            running = fibers + order[k];
            threadIdx = {order[k], 0, 0};
            swapcontext(&scheduler, &running->context);
            done += running->state == DONE;
        }
        if (done && done < threads) return false;
    }
    return true;
}

// Runs the grid; `barriers` says whether the kernel has any: without, threads are plain calls.
static int run(void (*kernel)(void *), void *arguments, const unsigned *grid, unsigned threads, unsigned long long seed,
    bool barriers)
{
    Dice dice = {seed};
    const unsigned blocks = grid[0] * grid[1] * grid[2];
    unsigned *block_order = (unsigned *)malloc(blocks * sizeof(unsigned));
    unsigned *order = (unsigned *)malloc(threads * sizeof(unsigned));
    Fiber *fibers = barriers ? (Fiber *)calloc(threads, sizeof(Fiber)) : nullptr;
    char *stacks = barriers ? (char *)malloc(threads * STACK) : nullptr;
    body = kernel;
    what = arguments;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    dice.shuffle(block_order, blocks);
    bool met = true;
    for (unsigned k = 0; k < blocks && met; k++) {
        const unsigned b = block_order[k];
        blockIdx = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
        forget_shared_memory();
        if (barriers) {
            met = run_block(fibers, stacks, order, threads, dice);
            continue;
        }
        dice.shuffle(order, threads);
        for (unsigned t = 0; t < threads; t++) {
            threadIdx = {order[t], 0, 0};
            kernel(arguments);
        }
    }
    free(stacks), free(fibers), free(order), free(block_order);
    return met ? 0 : 1;
}

// A kernel's parameters, unpacked from pointers to them as cuLaunchKernel takes them, and their types in words.
template <class... T> struct Call {
    void (*kernel)(T...);
    void **arguments;

    template <size_t... I> void with(std::index_sequence<I...>) const { kernel(*(T *)arguments[I]...); }
    static void start(void *self) { ((Call *)self)->with(std::index_sequence_for<T...>()); }
};

template <class... T>
int launch(void (*kernel)(T...), const unsigned *grid, unsigned threads, void **arguments, unsigned long long seed,
    bool barriers)
{
    Call<T...> call = {kernel, arguments};
    return run(&Call<T...>::start, &call, grid, threads, seed, barriers);
}

template <class... T> void types(void (*)(T...), char *out)
{
    *out = 0;
    ((strcat(out, typeid(T).name()), strcat(out, " ")), ...);
}

}  // namespace shim

static void __syncthreads()
{
    shim::running->state = shim::WAITING;
    swapcontext(&shim::running->context, &shim::scheduler);
}
