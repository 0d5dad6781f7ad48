// The gradient of the input of a convolution under a max-pool, for images of many channels. A pool's window sends each
// filter's gradient to one of its positions, or ReLU stops it: of the products of a dense convolution, one in four or
// fewer is made here.
//
// What changed against convolution.cu, whose convolve_naive says what is computed: the 32 threads of a warp take 32
// channels of the same place of an image. Why it is faster: which way a gradient went is then asked once for the whole
// warp, which never parts ways, and all that its threads need lies in registers by then. (The weights' gradients, done
// in this manner, took half as long again as in convolution_weights.cu: each warp must load the image anew.)
//
// For pools that do not overlap, over convolutions without strides. Images are (N, H, W, CHANNELS), weights
// (KERNEL_H, KERNEL_W, CHANNELS, FILTERS), gradients (N, OH, OW, FILTERS), all float32; sizes of tiles are macros.

typedef long long Index;  // whole tensors may hold more than 2^31 numbers

constexpr int LANES = 32;  // a warp has one channel for each thread
constexpr int TAPS = KERNEL_H * KERNEL_W;
constexpr int THREADS = LANES * WARPS;

// What a filter's gradient does in one pool window: where it goes, -1 for nowhere, and how large it is.
struct __align__(8) Route {
    float gradient;
    int tap;
};

// That of window (i, j) of an image; windows that do not exist send nothing.
__device__ Route route_at(const float *gy, const signed char *winner, int n, int i, int j, int filter, int oh, int ow)
{
    if (i < 0 || i >= oh || j < 0 || j >= ow || filter >= FILTERS) return {0.0f, -1};
    const Index at = (((Index)n * oh + i) * ow + j) * FILTERS + filter;
    return {gy[at], winner[at]};
}

// The windows above and to the left that reach into a tile as well.
constexpr int ABOVE = (KERNEL_H + POOL_H - 2) / POOL_H, BEFORE = (KERNEL_W + POOL_W - 2) / POOL_W;
constexpr int PITCH = LANES + 1;  // odd: threads that write one number of every filter's weights meet in no bank

// A warp has POOL_H rows of the padded image, as wide as WINDOWS pool windows, and gathers what the windows in and
// before them send there; the warps of a block have rows below each other.
extern "C" __global__ void __launch_bounds__(THREADS) input_gradient_routed(
    const float *gy, const signed char *winner, const float *w, float *gx,
    int n, int h, int width, int top, int left, int oh, int ow, int rows, int columns)
{
    __shared__ float weights[CHUNK * TAPS * PITCH];
    __shared__ Route routes[CHUNK][WARPS + ABOVE][WINDOWS + BEFORE];

    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const int tiles_w = (columns + WINDOWS - 1) / WINDOWS, tiles_h = (rows + WARPS - 1) / WARPS;
    const int image = blockIdx.x / tiles_w / tiles_h;
    const int i = top / POOL_H + blockIdx.x / tiles_w % tiles_h * WARPS;  // the window at the tile's corner
    const int j = left / POOL_W + blockIdx.x % tiles_w * WINDOWS;
    const int channel = blockIdx.y * LANES;

    float sums[POOL_H][WINDOWS * POOL_W] = {};
    for (int filter = 0; filter < FILTERS; filter += CHUNK) {
        for (int k = threadIdx.x; k < CHUNK * TAPS * LANES; k += THREADS) {
            const int f = k % CHUNK, c = k / CHUNK % LANES, tap = k / CHUNK / LANES;
            const bool inside = channel + c < CHANNELS && filter + f < FILTERS;
            const Index at = ((Index)tap * CHANNELS + channel + c) * FILTERS + filter + f;
            weights[(f * TAPS + tap) * PITCH + c] = inside ? w[at] : 0.0f;
        }
        for (int k = threadIdx.x; k < CHUNK * (WARPS + ABOVE) * (WINDOWS + BEFORE); k += THREADS) {
            const int f = k % CHUNK, across = k / CHUNK % (WINDOWS + BEFORE), down = k / CHUNK / (WINDOWS + BEFORE);
            routes[f][down][across] =
                route_at(gy, winner, image, i + down - ABOVE, j + across - BEFORE, filter + f, oh, ow);
        }
        __syncthreads();
#pragma unroll 1
        for (int f = 0; f < CHUNK; f++) {
            float weight[TAPS];
#pragma unroll
            for (int tap = 0; tap < TAPS; tap++) weight[tap] = weights[(f * TAPS + tap) * PITCH + lane];
#pragma unroll
            for (int up = 0; up <= ABOVE; up++)
#pragma unroll
                for (int v = -BEFORE; v < WINDOWS; v++) {
                    const Route route = routes[f][warp + ABOVE - up][v + BEFORE];
#pragma unroll
                    for (int tap = 0; tap < POOL_H * POOL_W; tap++)
                        if (route.tap == tap) {
#pragma unroll
                            for (int a = 0; a < KERNEL_H; a++)
#pragma unroll
                                for (int b = 0; b < KERNEL_W; b++) {
                                    const int row = tap / POOL_W + a - up * POOL_H;
                                    const int column = v * POOL_W + tap % POOL_W + b;
                                    if (row < 0 || row >= POOL_H || column < 0 || column >= WINDOWS * POOL_W) continue;
                                    sums[row][column] =
                                        fmaf(route.gradient, weight[a * KERNEL_W + b], sums[row][column]);
                                }
                        }
                }
        }
        __syncthreads();
    }

#pragma unroll
    for (int row = 0; row < POOL_H; row++)
#pragma unroll
        for (int column = 0; column < WINDOWS * POOL_W; column++) {
            const int r = (i + warp) * POOL_H + row - top, q = j * POOL_W + column - left;
            if (r < 0 || r >= h || q < 0 || q >= width || channel + lane >= CHANNELS) continue;
            gx[(((Index)image * h + r) * width + q) * CHANNELS + channel + lane] = sums[row][column];
        }
}
