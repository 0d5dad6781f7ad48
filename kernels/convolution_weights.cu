// The gradients of a convolution's weights and bias, from a gradient that a max-pool sends to one position in each of
// its windows: only there does a weight meet it, so most of a dense convolution's work is never done.
//
// Read weight_gradient_naive first: it says what is computed. weight_gradients computes the same in pieces, which
// sums.cu adds in order: no two threads ever add to one number, so every run gives the same bits.
// Images are (N, H, W, CHANNELS), gradients (N, OH, OW, FILTERS), all float32; the sizes of the tiles are macros.

typedef long long Index;  // whole tensors may hold more than 2^31 numbers

// A number of the image; its padding, and channels beyond the last, read as 0.
__device__ float image_at(const float *x, int h, int width, int n, int row, int column, int channel)
{
    if (row < 0 || row >= h || column < 0 || column >= width || channel >= CHANNELS) return 0.0f;
    return x[(((Index)n * h + row) * width + column) * CHANNELS + channel];
}

// One thread for each weight, then one for each bias: a walk over all windows of all images.
// `winner` is the tap of the pool's window that a gradient goes to, -1 for none; without a pool there is no such array.
extern "C" __global__ void weight_gradient_naive(
    const float *x, const float *gy, const signed char *winner, float *gw, float *gb,
    int n, int h, int width, int top, int left, int oh, int ow)
{
    const Index weights = (Index)KERNEL_H * KERNEL_W * CHANNELS * FILTERS;
    const Index k = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= weights + FILTERS) return;
    const int f = k % FILTERS, c = k / FILTERS % CHANNELS, tap = k / FILTERS / CHANNELS;
    float sum = 0.0f;
    for (int image = 0; image < n; image++)
        for (int i = 0; i < oh; i++)
            for (int j = 0; j < ow; j++) {
                const Index at = (((Index)image * oh + i) * ow + j) * FILTERS + f;
                const int won = winner == nullptr ? 0 : winner[at];
                if (won < 0) continue;
                const int row = (i * POOL_STRIDE_H + won / POOL_W) * STRIDE_H - top + tap / KERNEL_W;
                const int column = (j * POOL_STRIDE_W + won % POOL_W) * STRIDE_W - left + tap % KERNEL_W;
                const float value = k < weights ? image_at(x, h, width, image, row, column, c) : 1.0f;
                sum = fmaf(value, gy[at], sum);
            }
    (k < weights ? gw[k] : gb[f]) = sum;
}

// The sizes of the tiles of weight_gradients. A block of 32 * GROUPS * SLICES threads takes TILE_H x TILE_W pool
// windows at a time, for 32 filters, TAPS_H x TAPS_W taps and GROUPS * CHANNELS_EACH channels.
constexpr int LANES = 32;  // a warp has one filter for each thread
constexpr int THREADS = LANES * GROUPS * SLICES;
constexpr int BLOCK_CHANNELS = GROUPS * CHANNELS_EACH;
constexpr int PIXEL = CHANNELS_EACH % 4 ? BLOCK_CHANNELS : BLOCK_CHANNELS + 4;  // not a multiple of 32, the banks
constexpr int PATCH_H = ((TILE_H - 1) * POOL_STRIDE_H + POOL_H - 1) * STRIDE_H + TAPS_H;
constexpr int PATCH_W = ((TILE_W - 1) * POOL_STRIDE_W + POOL_W - 1) * STRIDE_W + TAPS_W;
constexpr int BLOCK_SUMS = TAPS_H * TAPS_W * BLOCK_CHANNELS * LANES;
constexpr int ROOM = PATCH_H * PATCH_W * PIXEL > BLOCK_SUMS ? PATCH_H * PATCH_W * PIXEL : BLOCK_SUMS;

// Copies the part of the image that a tile of windows meets; neighbouring threads read neighbouring channels.
__device__ void stage_patch(
    float *patch, const float *x, int h, int width, int n, int row, int column, int channel)
{
#pragma unroll 4
    for (int k = threadIdx.x; k < PATCH_H * PATCH_W * BLOCK_CHANNELS; k += THREADS) {
        const int c = k % BLOCK_CHANNELS, q = k / BLOCK_CHANNELS % PATCH_W, r = k / BLOCK_CHANNELS / PATCH_W;
        patch[(r * PATCH_W + q) * PIXEL + c] = image_at(x, h, width, n, row + r, column + q, channel + c);
    }
}

// Copies the gradients of a tile, each with the place in the patch where the window that won begins; -1 for none.
__device__ void stage_gradients(
    float (*gradient)[LANES], int (*corner)[LANES], const float *gy, const signed char *winner, int n, int i, int j,
    int oh, int ow, int filter)
{
#pragma unroll 4
    for (int k = threadIdx.x; k < TILE_H * TILE_W * LANES; k += THREADS) {
        const int lane = k % LANES, down = k / LANES / TILE_W, across = k / LANES % TILE_W;
        const int f = filter + lane;
        const bool inside = i + down < oh && j + across < ow && f < FILTERS;
        const Index at = (((Index)n * oh + i + down) * ow + j + across) * FILTERS + f;
        const int won = !inside ? -1 : winner == nullptr ? 0 : winner[at];
        const int row = (down * POOL_STRIDE_H + won / POOL_W) * STRIDE_H;
        const int column = (across * POOL_STRIDE_W + won % POOL_W) * STRIDE_W;
        gradient[k / LANES][lane] = won < 0 ? 0.0f : gy[at];
        corner[k / LANES][lane] = won < 0 ? -1 : (row * PATCH_W + column) * PIXEL;
    }
}

// Adds one gradient times its window's numbers to the sums of one thread.
__device__ void multiply(const float *window, float g, float (&sums)[TAPS_H][TAPS_W][CHANNELS_EACH])
{
#pragma unroll
    for (int a = 0; a < TAPS_H; a++)
#pragma unroll
        for (int b = 0; b < TAPS_W; b++) {
            const float *x = window + (a * PATCH_W + b) * PIXEL;
#if CHANNELS_EACH == 4
            const float4 four = *reinterpret_cast<const float4 *>(x);
            sums[a][b][0] = fmaf(four.x, g, sums[a][b][0]);
            sums[a][b][1] = fmaf(four.y, g, sums[a][b][1]);
            sums[a][b][2] = fmaf(four.z, g, sums[a][b][2]);
            sums[a][b][3] = fmaf(four.w, g, sums[a][b][3]);
#else
#pragma unroll
            for (int c = 0; c < CHANNELS_EACH; c++) sums[a][b][c] = fmaf(x[c], g, sums[a][b][c]);
#endif
        }
}

// What changed: a thread has one filter and keeps the sums of many taps and channels in registers; 32 filters share the
// windows of a tile in shared memory. Why it is faster: a gradient read once meets all those weights, the threads of a
// warp mostly read the same few windows (a pool of 2x2 has four), and windows that ReLU stopped cost next to nothing.
//
// Piece p of `pieces` has (KERNEL_H * KERNEL_W * CHANNELS + 1, FILTERS) numbers: the weights, then the bias.
extern "C" __global__ void __launch_bounds__(THREADS, 2) weight_gradients(
    const float *x, const float *gy, const signed char *winner, float *pieces,
    int n, int h, int width, int top, int left, int oh, int ow)
{
    __shared__ __align__(16) float patch[ROOM];
    __shared__ float gradient[TILE_H * TILE_W][LANES];
    __shared__ int corner[TILE_H * TILE_W][LANES];

    const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES % GROUPS, slice = threadIdx.x / LANES / GROUPS;
    const int filter = blockIdx.y * LANES;
    const int parts = (CHANNELS + BLOCK_CHANNELS - 1) / BLOCK_CHANNELS;
    const int channel = blockIdx.z % parts * BLOCK_CHANNELS;
    const int a = blockIdx.z / parts / (KERNEL_W / TAPS_W) * TAPS_H;
    const int b = blockIdx.z / parts % (KERNEL_W / TAPS_W) * TAPS_W;

    // This block's share of the tiles of all images: a fixed range, whatever the order in which blocks run.
    const int tiles_h = (oh + TILE_H - 1) / TILE_H, tiles_w = (ow + TILE_W - 1) / TILE_W;
    const Index tiles = (Index)n * tiles_h * tiles_w;
    const Index end = tiles * (blockIdx.x + 1) / gridDim.x;
    float sums[TAPS_H][TAPS_W][CHANNELS_EACH] = {};
    float bias = 0.0f;
    for (Index tile = tiles * blockIdx.x / gridDim.x; tile < end; tile++) {
        const int image = tile / tiles_w / tiles_h;
        const int i = tile / tiles_w % tiles_h * TILE_H, j = tile % tiles_w * TILE_W;
        const int row = i * POOL_STRIDE_H * STRIDE_H - top + a, column = j * POOL_STRIDE_W * STRIDE_W - left + b;
        stage_patch(patch, x, h, width, image, row, column, channel);
        stage_gradients(gradient, corner, gy, winner, image, i, j, oh, ow, filter);
        __syncthreads();
        for (int k = slice; k < TILE_H * TILE_W; k += SLICES) {
            const int at = corner[k][lane];
            if (at < 0) continue;
            bias += gradient[k][lane];
            multiply(patch + at + group * CHANNELS_EACH, gradient[k][lane], sums);
        }
        __syncthreads();
    }

    // The slices add their sums one after another, in shared memory, which the patch no longer needs.
    for (int turn = 0; turn < SLICES; turn++) {
        if (turn == slice) {
#pragma unroll
            for (int k = 0; k < TAPS_H * TAPS_W * CHANNELS_EACH; k++) {
                const int tap = k / CHANNELS_EACH, c = group * CHANNELS_EACH + k % CHANNELS_EACH;
                float *total = patch + (tap * BLOCK_CHANNELS + c) * LANES + lane;
                *total = (turn ? *total : 0.0f) + sums[tap / TAPS_W][tap % TAPS_W][k % CHANNELS_EACH];
            }
            if (group == 0) gradient[0][lane] = (turn ? gradient[0][lane] : 0.0f) + bias;
        }
        __syncthreads();
    }
    float *piece = pieces + (Index)blockIdx.x * (KERNEL_H * KERNEL_W * CHANNELS + 1) * FILTERS;
    for (int k = threadIdx.x; k < BLOCK_SUMS; k += THREADS) {
        const int f = filter + k % LANES, c = channel + k / LANES % BLOCK_CHANNELS, tap = k / LANES / BLOCK_CHANNELS;
        const int place = (a + tap / TAPS_W) * KERNEL_W + b + tap % TAPS_W;
        if (f < FILTERS && c < CHANNELS) piece[((Index)place * CHANNELS + c) * FILTERS + f] = patch[k];
    }
    if (blockIdx.z == 0 && threadIdx.x < LANES && filter + lane < FILTERS)
        piece[(Index)KERNEL_H * KERNEL_W * CHANNELS * FILTERS + filter + lane] = gradient[0][lane];
}
