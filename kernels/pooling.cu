// Windows on their own: copied into rows (im2col) and added back (col2im), their maximum, and the way back of its
// gradient. These move numbers and compute next to nothing, so their speed is that of the device's memory.
//
// A block works on one row of its output; neighbouring threads take neighbouring channels, which is also the order in
// memory. Every output number belongs to one thread, which gathers what it needs: no two threads ever add to one place,
// and sums have one order, that of the taps. REAL is float or double. Window (i, j) reads rows i * sh - top + a * dh.

typedef long long Index;  // whole tensors may hold more than 2^31 numbers

// (N, H, W, C) -> (N, OH, OW, KH*KW*C); padding reads as 0. A block for each row of windows.
extern "C" __global__ void im2col(
    const REAL *x, REAL *cols, int h, int w, int c, int oh, int ow, int kh, int kw, int sh, int sw, int dh, int dw,
    int top, int left)
{
    const Index length = (Index)kh * kw * c * ow, n = blockIdx.x / oh;
    const int i = blockIdx.x % oh;
    for (Index k = threadIdx.x; k < length; k += blockDim.x) {
        const int channel = k % c, tap = k / c % (kh * kw), j = k / c / (kh * kw);
        const int row = i * sh - top + tap / kw * dh, column = j * sw - left + tap % kw * dw;
        const bool inside = row >= 0 && row < h && column >= 0 && column < w;
        cols[blockIdx.x * length + k] = inside ? x[((n * h + row) * w + column) * c + channel] : 0;
    }
}

// The windows of one row (or column) that reach a pixel with their tap at `tap`: at most one, or -1.
__device__ int window_of(int pixel, int tap, int stride, int windows)
{
    const int start = pixel - tap;
    return start >= 0 && start % stride == 0 && start / stride < windows ? start / stride : -1;
}

// (N, OH, OW, KH*KW*C) -> (N, H, W, C): each pixel gathers from the windows it was copied to. A block for each row.
extern "C" __global__ void col2im(
    const REAL *cols, REAL *x, int h, int w, int c, int oh, int ow, int kh, int kw, int sh, int sw, int dh, int dw,
    int top, int left)
{
    const Index n = blockIdx.x / h;
    const int row = blockIdx.x % h + top;
    for (int k = threadIdx.x; k < w * c; k += blockDim.x) {
        const int channel = k % c, column = k / c + left;
        REAL sum = 0;
        for (int a = 0; a < kh; a++) {
            const int i = window_of(row, a * dh, sh, oh);
            for (int b = 0; i >= 0 && b < kw; b++) {
                const int j = window_of(column, b * dw, sw, ow);
                if (j >= 0) sum += cols[((((n * oh + i) * ow + j) * kh + a) * kw + b) * c + channel];
            }
        }
        x[(Index)blockIdx.x * w * c + k] = sum;
    }
}

// The largest value of each window, and which tap held it: the first of several; NaN beats any number.
extern "C" __global__ void max_pool2d(
    const REAL *x, REAL *y, int *winner, int h, int w, int c, int oh, int ow, int kh, int kw, int sh, int sw, int dh,
    int dw, int top, int left)
{
    const Index n = blockIdx.x / oh;
    const int i = blockIdx.x % oh;
    for (int k = threadIdx.x; k < ow * c; k += blockDim.x) {
        const int channel = k % c, j = k / c;
        REAL best = (REAL)-1 / (REAL)0;
        int first = 0;
        for (int tap = 0; tap < kh * kw; tap++) {
            const int row = i * sh - top + tap / kw * dh, column = j * sw - left + tap % kw * dw;
            if (row < 0 || row >= h || column < 0 || column >= w) continue;
            const REAL value = x[((n * h + row) * w + column) * c + channel];
            if (value > best || (value != value && best == best)) {
                best = value;
                first = tap;
            }
        }
        y[(Index)blockIdx.x * ow * c + k] = best;
        winner[(Index)blockIdx.x * ow * c + k] = first;
    }
}

// (N, OH, OW, C) -> (N, H, W, C): each pixel gathers from the windows that it won.
extern "C" __global__ void max_pool2d_backward(
    const REAL *gy, const int *winner, REAL *gx, int h, int w, int c, int oh, int ow, int kh, int kw, int sh, int sw,
    int dh, int dw, int top, int left)
{
    const Index n = blockIdx.x / h;
    const int row = blockIdx.x % h + top;
    for (int k = threadIdx.x; k < w * c; k += blockDim.x) {
        const int channel = k % c, column = k / c + left;
        REAL sum = 0;
        for (int a = 0; a < kh; a++) {
            const int i = window_of(row, a * dh, sh, oh);
            for (int b = 0; i >= 0 && b < kw; b++) {
                const int j = window_of(column, b * dw, sw, ow);
                if (j < 0) continue;
                const Index at = ((n * oh + i) * ow + j) * c + channel;
                if (winner[at] == a * kw + b) sum += gy[at];
            }
        }
        gx[(Index)blockIdx.x * w * c + k] = sum;
    }
}
