// Partial sums added in a fixed order, so that every run gives the same bits: what many blocks computed each for
// themselves becomes one array. Pieces lie one after another, COUNT of them, of `size` numbers each.

typedef long long Index;  // whole tensors may hold more than 2^31 numbers

constexpr int LANES = 32;  // numbers that a block computes: neighbours, which a warp reads at once
constexpr int PARTS = 16;  // threads that share the pieces of one number

// One thread for each number adds its pieces, first to last.
extern "C" __global__ void add_pieces_naive(const float *pieces, int count, Index size, float *sum)
{
    const Index k = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= size) return;
    float total = 0.0f;
    for (int piece = 0; piece < count; piece++) total += pieces[piece * size + k];
    sum[k] = total;
}

// What changed: 16 threads share the pieces of a number, each a range of them, and one adds their sums in order.
// Why it is faster: there are few numbers and hundreds of pieces, so one thread would mostly wait for memory.
// All threads of the block must call it; the number is right in the first LANES threads.
__device__ float sum_of_pieces(const float *pieces, int count, Index size, float (*sums)[LANES])
{
    const int lane = threadIdx.x % LANES, part = threadIdx.x / LANES;
    const Index k = (Index)blockIdx.x * LANES + lane;
    const int end = (Index)count * (part + 1) / PARTS;
    float total = 0.0f;
    if (k < size) {
#pragma unroll 8
        for (int piece = (Index)count * part / PARTS; piece < end; piece++) total += pieces[piece * size + k];
    }
    sums[part][lane] = total;
    __syncthreads();
    if (part == 0)
        for (int other = 1; other < PARTS; other++) total += sums[other][lane];
    return total;
}

// The sums of the first `split` numbers go to `first`, the rest to `second`: a layer's weights and its bias.
extern "C" __global__ void __launch_bounds__(LANES *PARTS) add_pieces(
    const float *pieces, int count, Index size, float *first, Index split, float *second)
{
    __shared__ float sums[PARTS][LANES];
    const float total = sum_of_pieces(pieces, count, size, sums);
    const Index k = (Index)blockIdx.x * LANES + threadIdx.x;
    if (threadIdx.x < LANES && k < size) (k < split ? first[k] : second[k - split]) = total;
}

// The sums are a dense layer's products: its bias is added, and ReLU follows if wanted.
extern "C" __global__ void __launch_bounds__(LANES *PARTS) add_pieces_and_bias(
    const float *pieces, int count, Index size, const float *bias, int units, int relu, float *y)
{
    __shared__ float sums[PARTS][LANES];
    const float total = sum_of_pieces(pieces, count, size, sums);
    const Index k = (Index)blockIdx.x * LANES + threadIdx.x;
    if (threadIdx.x >= LANES || k >= size) return;
    const float value = total + bias[k % units];
    y[k] = relu && value <= 0.0f ? 0.0f : value;
}

// y = x where `keep` is above 0, else 0: the gradient of ReLU, whose output is `keep`.
extern "C" __global__ void relu_gradient(const float *x, const float *keep, float *y, Index size)
{
    const Index k = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (k < size) y[k] = keep[k] > 0.0f ? x[k] : 0.0f;
}
