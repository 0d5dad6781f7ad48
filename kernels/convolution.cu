// Convolution with what follows it (bias, ReLU, max-pooling) in one kernel, and the gradient of its input, which is a
// convolution too: of the gradient, laid out as the convolution's own output was, with the weights turned round.
//
// Read convolve_naive first: it says what is computed. convolve computes the same, fast. cuda.py compiles this file for
// each layer: the window, the pool and the sizes of the tiles are macros, so that every inner loop has a fixed length.
// Images are (N, H, W, CHANNELS), weights (KERNEL_H, KERNEL_W, CHANNELS, FILTERS), all float32.

typedef long long Index;  // whole tensors may hold more than 2^31 numbers

// Where the numbers that the windows slide over come from: an image, or a gradient that is laid out while it is read.
struct Source {
    const float *data;
    const signed char *winner;  // for a pooled gradient: the tap that each one goes to, or -1
    int h, w;                   // size of the image that the windows slide over
    int gh, gw;                 // size of the pooled gradient
};

#ifdef UNPOOL_H

// The gradient of the convolution's output at (row, column): from each pool window over it that it won.
// A convolution with strides left gaps between its windows: there the gradient is 0.
__device__ float input_at(const Source &s, int n, int row, int column, int channel)
{
    if (row < 0 || row >= s.h || column < 0 || column >= s.w || channel >= CHANNELS) return 0.0f;
    if (row % SPREAD_H || column % SPREAD_W) return 0.0f;
    const int y = row / SPREAD_H, x = column / SPREAD_W;
    const int last_i = min(y / UNPOOL_STRIDE_H, s.gh - 1), last_j = min(x / UNPOOL_STRIDE_W, s.gw - 1);
    float sum = 0.0f;
    for (int i = max(0, (y - UNPOOL_H + UNPOOL_STRIDE_H) / UNPOOL_STRIDE_H); i <= last_i; i++)
        for (int j = max(0, (x - UNPOOL_W + UNPOOL_STRIDE_W) / UNPOOL_STRIDE_W); j <= last_j; j++) {
            const int tap = (y - i * UNPOOL_STRIDE_H) * UNPOOL_W + x - j * UNPOOL_STRIDE_W;
            const Index k = (((Index)n * s.gh + i) * s.gw + j) * CHANNELS + channel;
            if (s.winner == nullptr || s.winner[k] == tap) sum += s.data[k];
        }
    return sum;
}

// The weights turned round: filters and channels have changed places, the window is read from its end.
__device__ float weight_at(const float *w, int a, int b, int channel, int filter)
{
    const Index tap = (KERNEL_H - 1 - a) * KERNEL_W + KERNEL_W - 1 - b;
    return channel < CHANNELS && filter < FILTERS ? w[(tap * FILTERS + filter) * CHANNELS + channel] : 0.0f;
}

#else

// A number of the image; its padding, and channels beyond the last, read as 0.
__device__ float input_at(const Source &s, int n, int row, int column, int channel)
{
    if (row < 0 || row >= s.h || column < 0 || column >= s.w || channel >= CHANNELS) return 0.0f;
    return s.data[(((Index)n * s.h + row) * s.w + column) * CHANNELS + channel];
}

__device__ float weight_at(const float *w, int a, int b, int channel, int filter)
{
    const Index tap = a * KERNEL_W + b;
    return channel < CHANNELS && filter < FILTERS ? w[(tap * CHANNELS + channel) * FILTERS + filter] : 0.0f;
}

#endif

// The first of the largest wins, and NaN beats any number, so that it stays visible.
__device__ bool beats(float value, float best)
{
    return value > best || (value != value && best == best);
}

// One thread for each output: the convolution at every position of its pool window, of which the largest stays.
// A convolution without a pool is one with a pool of 1x1, and nobody asks for its winners.
extern "C" __global__ void convolve_naive(
    const float *x, const signed char *routes, const float *w, const float *bias, float *y, signed char *winner,
    int n, int h, int width, int gh, int gw, int top, int left, int oh, int ow, int relu)
{
    const Source source = {x, routes, h, width, gh, gw};
    const Index k = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (Index)n * oh * ow * FILTERS) return;
    const int f = k % FILTERS, j = k / FILTERS % ow, i = k / FILTERS / ow % oh, image = k / FILTERS / ow / oh;
    float best = -1.0f / 0.0f;
    int first = 0;
    for (int tap = 0; tap < POOL_H * POOL_W; tap++) {
        const int row = (i * POOL_STRIDE_H + tap / POOL_W) * STRIDE_H - top;
        const int column = (j * POOL_STRIDE_W + tap % POOL_W) * STRIDE_W - left;
        float value = 0.0f;
        for (int a = 0; a < KERNEL_H; a++)
            for (int b = 0; b < KERNEL_W; b++)
                for (int c = 0; c < CHANNELS; c++)
                    value = fmaf(input_at(source, image, row + a, column + b, c), weight_at(w, a, b, c, f), value);
        if (bias != nullptr) value += bias[f];
        if (beats(value, best)) {
            best = value;
            first = tap;
        }
    }
    const bool stopped = relu && best <= 0.0f;
    y[k] = stopped ? 0.0f : best;
    if (winner != nullptr) winner[k] = stopped ? -1 : first;
}

// The sizes of convolve's tiles. A block computes THREADS_H x (THREADS_W * WINDOWS) pool windows of one image, for
// BLOCK_FILTERS filters; a thread WINDOWS windows beside each other, for FILTERS_EACH filters.
constexpr int BLOCK_FILTERS = FILTER_GROUPS * FILTERS_EACH;
constexpr int THREADS = THREADS_H * THREADS_W * FILTER_GROUPS;
// What one thread needs of a row of the image: its windows lie side by side and share most of it.
constexpr int STRIP = ((WINDOWS - 1) * POOL_STRIDE_W + GROUP_W - 1) * STRIDE_W + TAPS_W;
// What the block needs of the image at once, and its pitch in shared memory: odd, so that neither threads that write
// neighbouring channels nor threads that read rows below each other meet in one bank.
constexpr int PATCH_H = ((THREADS_H - 1) * POOL_STRIDE_H + GROUP_H - 1) * STRIDE_H + TAPS_H;
constexpr int PATCH_W = ((THREADS_W * WINDOWS - 1) * POOL_STRIDE_W + GROUP_W - 1) * STRIDE_W + TAPS_W;
constexpr int ROW = PATCH_W | 1;
constexpr int PLANE = PATCH_H * ROW | 1;
constexpr int WEIGHT_ROW = BLOCK_FILTERS + 4;  // a multiple of 4, for 16-byte reads, and not one of 32, the banks
static_assert(FILTERS_EACH % 4 == 0 && KERNEL_H % TAPS_H == 0 && KERNEL_W % TAPS_W == 0, "tiles must fit");

// Copies the patch of CHUNK channels that starts at (row, column): neighbouring threads read neighbouring channels.
__device__ void stage_patch(float *patch, const Source &source, int n, int row, int column, int channel)
{
#pragma unroll 4
    for (int k = threadIdx.x; k < CHUNK * PATCH_H * PATCH_W; k += THREADS) {
        const int c = k % CHUNK, q = k / CHUNK % PATCH_W, r = k / CHUNK / PATCH_W;
        patch[c * PLANE + r * ROW + q] = input_at(source, n, row + r, column + q, channel + c);
    }
}

// Copies the weights of CHUNK channels, in the order in which the device's memory holds them.
__device__ void stage_weights(float *weights, const float *w, int a0, int b0, int channel, int filter)
{
#pragma unroll 4
    for (int k = threadIdx.x; k < TAPS_H * TAPS_W * CHUNK * BLOCK_FILTERS; k += THREADS) {
#ifdef UNPOOL_H
        const int c = k % CHUNK, f = k / CHUNK % BLOCK_FILTERS, tap = k / CHUNK / BLOCK_FILTERS;
#else
        const int f = k % BLOCK_FILTERS, c = k / BLOCK_FILTERS % CHUNK, tap = k / BLOCK_FILTERS / CHUNK;
#endif
        const int a = a0 + tap / TAPS_W, b = b0 + tap % TAPS_W;
        weights[(c * TAPS_H * TAPS_W + tap) * WEIGHT_ROW + f] = weight_at(w, a, b, channel + c, filter + f);
    }
}

// Adds what the staged channels give to the sums of one thread: each number it reads serves many multiplications.
__device__ void multiply(
    const float *patch, const float *weights, float (&sums)[GROUP_H][WINDOWS][GROUP_W][FILTERS_EACH])
{
#pragma unroll 1
    for (int c = 0; c < CHUNK; c++)
#pragma unroll
        for (int a = 0; a < TAPS_H; a++) {
            float strip[GROUP_H][STRIP];
#pragma unroll
            for (int g = 0; g < GROUP_H; g++)
#pragma unroll
                for (int q = 0; q < STRIP; q++) strip[g][q] = patch[c * PLANE + (g * STRIDE_H + a) * ROW + q];
#pragma unroll
            for (int b = 0; b < TAPS_W; b++) {
                float weight[FILTERS_EACH];
#pragma unroll
                for (int r = 0; r < FILTERS_EACH; r += 4) {
                    const int at = ((c * TAPS_H + a) * TAPS_W + b) * WEIGHT_ROW + r;
                    const float4 four = *reinterpret_cast<const float4 *>(weights + at);
                    weight[r] = four.x, weight[r + 1] = four.y, weight[r + 2] = four.z, weight[r + 3] = four.w;
                }
#pragma unroll
                for (int g = 0; g < GROUP_H; g++)
#pragma unroll
                    for (int v = 0; v < WINDOWS; v++)
#pragma unroll
                        for (int p = 0; p < GROUP_W; p++)
#pragma unroll
                            for (int r = 0; r < FILTERS_EACH; r++)
                                sums[g][v][p][r] = fmaf(
                                    strip[g][(v * POOL_STRIDE_W + p) * STRIDE_W + b], weight[r], sums[g][v][p][r]);
            }
        }
}

// Bias, ReLU and the write. Filters lie side by side, so four of them are one write where no row of them is ragged.
__device__ void finish(
    const float (&best)[FILTERS_EACH], const int (&first)[FILTERS_EACH], float *y, signed char *winner, Index at,
    int filter, int relu)
{
#pragma unroll
    for (int r = 0; r < FILTERS_EACH; r += 4) {
        float value[4];
        signed char tap[4];
#pragma unroll
        for (int q = 0; q < 4; q++) {
            const bool stopped = relu && best[r + q] <= 0.0f;
            value[q] = stopped ? 0.0f : best[r + q];
            tap[q] = stopped ? -1 : first[r + q];
        }
        if (FILTERS % 4 == 0 && filter + r < FILTERS) {
            *reinterpret_cast<float4 *>(y + at + r) = float4{value[0], value[1], value[2], value[3]};
            if (winner != nullptr)
                *reinterpret_cast<char4 *>(winner + at + r) = char4{tap[0], tap[1], tap[2], tap[3]};
            continue;
        }
#pragma unroll
        for (int q = 0; q < 4; q++)
            if (filter + r + q < FILTERS) {
                y[at + r + q] = value[q];
                if (winner != nullptr) winner[at + r + q] = tap[q];
            }
    }
}

// What changed: a block copies a patch of the image and the weights to shared memory, and each thread keeps sums for
// several positions and filters in registers. Why it is faster: a number fetched once takes part in dozens of products,
// and only the largest of a pool window leaves the chip: what the pool reads is never written.
// (The bound of 2 blocks lets the compiler take the registers that it needs; left alone it would rather spill some.)
extern "C" __global__ void __launch_bounds__(THREADS, 2) convolve(
    const float *x, const signed char *routes, const float *w, const float *bias, float *y, signed char *winner,
    int n, int h, int width, int gh, int gw, int top, int left, int oh, int ow, int relu)
{
    __shared__ float patch[CHUNK * PLANE];
    __shared__ __align__(16) float weights[CHUNK * TAPS_H * TAPS_W * WEIGHT_ROW];
    const Source source = {x, routes, h, width, gh, gw};

    const int group = threadIdx.x % FILTER_GROUPS, place = threadIdx.x / FILTER_GROUPS;
    const int across = place % THREADS_W * WINDOWS, down = place / THREADS_W;  // this thread's windows in the tile
    const int tiles_w = (ow + THREADS_W * WINDOWS - 1) / (THREADS_W * WINDOWS);
    const int tiles_h = (oh + THREADS_H - 1) / THREADS_H;
    const int tile = blockIdx.x, image = tile / tiles_w / tiles_h;
    const int i = tile / tiles_w % tiles_h * THREADS_H, j = tile % tiles_w * THREADS_W * WINDOWS;  // the tile's corner
    const int filter = blockIdx.y * BLOCK_FILTERS;
    const float *my_patch = patch + down * POOL_STRIDE_H * STRIDE_H * ROW + across * POOL_STRIDE_W * STRIDE_W;
    const float *my_weights = weights + group * FILTERS_EACH;

    float best[WINDOWS][FILTERS_EACH];
    int first[WINDOWS][FILTERS_EACH];
#pragma unroll
    for (int v = 0; v < WINDOWS; v++)
#pragma unroll
        for (int r = 0; r < FILTERS_EACH; r++) best[v][r] = -1.0f / 0.0f, first[v][r] = 0;

    // A large pool window is worked through in groups of positions, whose sums fit in registers; most are one group.
    for (int gi = 0; gi < POOL_H; gi += GROUP_H)
        for (int gj = 0; gj < POOL_W; gj += GROUP_W) {
            float sums[GROUP_H][WINDOWS][GROUP_W][FILTERS_EACH] = {};
            const int row = (i * POOL_STRIDE_H + gi) * STRIDE_H - top;
            const int column = (j * POOL_STRIDE_W + gj) * STRIDE_W - left;
            for (int a = 0; a < KERNEL_H; a += TAPS_H)
                for (int b = 0; b < KERNEL_W; b += TAPS_W)
                    for (int c = 0; c < CHANNELS; c += CHUNK) {
                        stage_patch(patch, source, image, row + a, column + b, c);
                        stage_weights(weights, w, a, b, c, filter);
                        __syncthreads();
                        multiply(my_patch, my_weights, sums);
                        __syncthreads();
                    }
#pragma unroll
            for (int g = 0; g < GROUP_H; g++)
#pragma unroll
                for (int p = 0; p < GROUP_W; p++)
#pragma unroll
                    for (int r = 0; r < FILTERS_EACH; r++) {
                        const int f = filter + group * FILTERS_EACH + r;
                        const float offset = bias != nullptr && f < FILTERS ? bias[f] : 0.0f;
#pragma unroll
                        for (int v = 0; v < WINDOWS; v++) {
                            const float value = sums[g][v][p][r] + offset;
                            if (gi + g < POOL_H && gj + p < POOL_W && beats(value, best[v][r])) {
                                best[v][r] = value;
                                first[v][r] = (gi + g) * POOL_W + gj + p;
                            }
                        }
                    }
        }
#pragma unroll
    for (int v = 0; v < WINDOWS; v++)
        if (i + down < oh && j + across + v < ow) {
            const int f = filter + group * FILTERS_EACH;
            const Index at = (((Index)image * oh + i + down) * ow + j + across + v) * FILTERS + f;
            finish(best[v], first[v], y, winner, at, f, relu);
        }
}
