// The matrix products of a dense layer for batches of few samples, where a library's kernels leave most of the device
// idle: forward with bias and ReLU, and all three gradients in one launch.
//
// Read dense_naive first: it says what is computed. All arrays are float32, stored by rows.

typedef long long Index;  // whole tensors may hold more than 2^31 numbers

// y = x @ w + bias, then ReLU if wanted: one thread for each output walks along a row of x and a column of w.
extern "C" __global__ void dense_naive(
    const float *x, const float *w, const float *bias, float *y, int n, int inputs, int units, int relu)
{
    const Index k = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (Index)n * units) return;
    const Index sample = k / units, unit = k % units;
    float value = 0.0f;
    for (int i = 0; i < inputs; i++) value = fmaf(x[sample * inputs + i], w[(Index)i * units + unit], value);
    value += bias[unit];
    y[k] = relu && value <= 0.0f ? 0.0f : value;
}

// A matrix, which reads as 0 beyond its end, and wherever `keep` (ReLU's output, of the same shape) is not above 0.
struct Matrix {
    const float *data;
    int rows, columns;
    const float *keep;

    __device__ float at(int row, int column) const
    {
        if (row >= rows || column >= columns) return 0.0f;
        const Index k = (Index)row * columns + column;
        return keep == nullptr || keep[k] > 0.0f ? data[k] : 0.0f;
    }

    // Four numbers side by side, in one read where they lie on a 16-byte boundary.
    __device__ float4 four_at(int row, int column) const
    {
        const Index k = (Index)row * columns + column;
        const bool aligned = ((size_t)(data + k) | (keep == nullptr ? 0 : (size_t)(keep + k))) % 16 == 0;
        if (row >= rows || column + 3 >= columns || !aligned)
            return {at(row, column), at(row, column + 1), at(row, column + 2), at(row, column + 3)};
        float4 x = *reinterpret_cast<const float4 *>(data + k);
        if (keep == nullptr) return x;
        const float4 y = *reinterpret_cast<const float4 *>(keep + k);
        return {y.x > 0.0f ? x.x : 0.0f, y.y > 0.0f ? x.y : 0.0f, y.z > 0.0f ? x.z : 0.0f, y.w > 0.0f ? x.w : 0.0f};
    }
};

constexpr int TILE = 32;             // rows and columns of a tile of the product, and how deep it is staged at once
constexpr int EACH = 4;              // rows and columns of a thread's part of it
constexpr int SIDE = TILE / EACH;    // threads along each side
constexpr int THREADS = SIDE * SIDE;
constexpr int PITCH = TILE + 4;      // a multiple of 4, for 16-byte reads, and not one of 32, the banks

// Copies the tile whose number (depth, across) is m(across, depth), or m(depth, across) if `turned`: neighbouring
// threads read neighbouring numbers of m in both cases, four each.
template <bool turned>
__device__ void stage(float (*tile)[PITCH], const Matrix &m, int depth, int across)
{
#pragma unroll
    for (int k = threadIdx.x; k < TILE * TILE / 4; k += THREADS) {
        const int slow = k / (TILE / 4), fast = k % (TILE / 4) * 4;
        if (turned) {
            *reinterpret_cast<float4 *>(&tile[slow][fast]) = m.four_at(depth + slow, across + fast);
        } else {
            const float4 four = m.four_at(across + slow, depth + fast);
            tile[fast][slow] = four.x, tile[fast + 1][slow] = four.y;
            tile[fast + 2][slow] = four.z, tile[fast + 3][slow] = four.w;
        }
    }
}

// What changed: a block stages tiles of both matrices in shared memory, and a thread keeps 4 x 4 sums in registers.
// Why it is faster: each number fetched from the device's memory is used 32 times, and each one read from shared
// memory 4 times. Adds a (ROWS, DEPTH) @ b (DEPTH, COLUMNS) to the sums, for depths from first to end: whole tiles,
// but at the end of the matrices. Either may lie in memory turned round: a as (DEPTH, ROWS), b as (COLUMNS, DEPTH).
template <bool a_turned, bool b_turned>
__device__ void multiply(
    const Matrix &a, const Matrix &b, int row, int column, int first, int end, float (*tile_a)[PITCH],
    float (*tile_b)[PITCH], float (&sums)[EACH][EACH])
{
    const int across = threadIdx.x % SIDE * EACH, down = threadIdx.x / SIDE * EACH;
    for (int depth = first; depth < end; depth += TILE) {
        stage<a_turned>(tile_a, a, depth, row);
        stage<!b_turned>(tile_b, b, depth, column);
        __syncthreads();
#pragma unroll 8
        for (int d = 0; d < TILE; d++) {
            const float4 p = *reinterpret_cast<const float4 *>(&tile_a[d][down]);
            const float4 q = *reinterpret_cast<const float4 *>(&tile_b[d][across]);
            const float left[EACH] = {p.x, p.y, p.z, p.w}, right[EACH] = {q.x, q.y, q.z, q.w};
#pragma unroll
            for (int r = 0; r < EACH; r++)
#pragma unroll
                for (int s = 0; s < EACH; s++) sums[r][s] = fmaf(left[r], right[s], sums[r][s]);
        }
        __syncthreads();
    }
}

// Writes a thread's part of the tile at (row, column) into y (rows, columns), with bias and ReLU if there are any.
__device__ void write(
    const float (&sums)[EACH][EACH], float *y, int row, int column, int rows, int columns, const float *bias, int relu)
{
    const int across = column + threadIdx.x % SIDE * EACH, down = row + threadIdx.x / SIDE * EACH;
#pragma unroll
    for (int r = 0; r < EACH; r++)
#pragma unroll
        for (int s = 0; s < EACH; s++)
            if (down + r < rows && across + s < columns) {
                const float value = bias == nullptr ? sums[r][s] : sums[r][s] + bias[across + s];
                y[(Index)(down + r) * columns + across + s] = relu && value <= 0.0f ? 0.0f : value;
            }
}

// What changed: besides tiles, the inputs are cut into gridDim.z ranges, each a block's: 32 samples and 128 units are
// only 4 tiles, for 132 processors. The products of range z go to y[z] (N, UNITS), and sums.cu adds them in order.
// A single range has nothing to add: then bias and ReLU are done here.
extern "C" __global__ void __launch_bounds__(THREADS, 8) dense(
    const float *x, const float *w, const float *bias, float *y, int n, int inputs, int units, int range, int relu)
{
    __shared__ __align__(16) float tile_x[TILE][PITCH];
    __shared__ __align__(16) float tile_w[TILE][PITCH];
    const Matrix a = {x, n, inputs, nullptr}, b = {w, inputs, units, nullptr};
    const int column = blockIdx.x * TILE, row = blockIdx.y * TILE, first = blockIdx.z * range;
    float sums[EACH][EACH] = {};
    multiply<false, false>(a, b, row, column, first, min(first + range, inputs), tile_x, tile_w, sums);
    const bool whole = gridDim.z == 1;
    write(sums, y + (Index)blockIdx.z * n * units, row, column, n, units, whole ? bias : nullptr, whole && relu);
}

// The gradients: gw = x.T @ g, gb = the sum of g's rows, gx = g @ w.T, where g is gy, stopped where ReLU stopped y.
// What changed: they need nothing of each other, so the blocks of one launch share them, first those of gw, then those
// of gb, then those of gx. Why it is faster: at batch 32 starting a kernel costs as much as running it.
extern "C" __global__ void __launch_bounds__(THREADS, 8) dense_gradients(
    const float *gy, const float *y, const float *x, const float *w, float *gw, float *gb, float *gx,
    int n, int inputs, int units, int relu)
{
    __shared__ __align__(16) float tile_a[TILE][PITCH];
    __shared__ __align__(16) float tile_b[TILE][PITCH];
    const Matrix g = {gy, n, units, relu ? y : nullptr};
    const int across = (units + TILE - 1) / TILE, down = (inputs + TILE - 1) / TILE;
    const int for_bias = (units + SIDE - 1) / SIDE;
    int block = blockIdx.x;
    float sums[EACH][EACH] = {};
    if (block < across * down) {
        const int row = block / across * TILE, column = block % across * TILE;
        multiply<true, false>({x, n, inputs, nullptr}, g, row, column, 0, n, tile_a, tile_b, sums);
        write(sums, gw, row, column, inputs, units, nullptr, 0);
        return;
    }
    block -= across * down;
    if (block < for_bias) {
        const int unit = block * SIDE + threadIdx.x % SIDE, part = threadIdx.x / SIDE;
        float sum = 0.0f;  // of every 8th sample; then one thread adds those of a unit
#pragma unroll 4
        for (int sample = part; sample < n; sample += SIDE) sum += g.at(sample, unit);
        tile_a[part][threadIdx.x % SIDE] = sum;
        __syncthreads();
        if (part > 0 || unit >= units) return;
        for (int other = 1; other < SIDE; other++) sum += tile_a[other][threadIdx.x];
        gb[unit] = sum;
        return;
    }
    block -= for_bias;
    const int row = block / down * TILE, column = block % down * TILE;
    multiply<false, true>(g, {w, inputs, units, nullptr}, row, column, 0, units, tile_a, tile_b, sums);
    write(sums, gx, row, column, n, inputs, nullptr, 0);
}

// Bias and ReLU after a product that a library made, in place on y (N, UNITS).
extern "C" __global__ void add_bias(float *y, const float *bias, int units, int relu, Index size)
{
    const Index k = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= size) return;
    const float value = y[k] + bias[k % units];
    y[k] = relu && value <= 0.0f ? 0.0f : value;
}
