// Images seen through affine maps, for augmentation on the device: one kernel turns, shears, zooms, flips and rescales.
//
// Each output pixel is computed by one thread and read from four others' places, which the cache holds: there is little
// to gain by staging. PIXEL is the type of the images' numbers: unsigned char, float or double.

typedef long long Index;

// A coordinate outside 0 .. size - 1 brought to where the fill mode finds its value; NaN becomes 0.
// Modes: 0 nearest, 1 constant, 2 reflect, 3 wrap.
__device__ double fold(double x, int size, int mode)
{
    const double last = size - 1.0;
    if (mode == 2) {
        x -= 2.0 * size * floor(x / (2.0 * size));
        if (x > size - 0.5) x = 2.0 * size - 1.0 - x;
    } else if (mode == 3 && last > 0.0) {
        if (x < 0.0) x += last * (floor(-x / last) + 1.0);
        if (x > last) x -= last * floor(x / last);
    }
    x = x > 0.0 ? x : 0.0;
    return x < last ? x : last;
}

// Rounding must not blacken the border of a turned image.
__device__ bool inside(double x, int size)
{
    return -1e-9 <= x && x <= size - 1 + 1e-9;
}

// Output pixel (i, j) of image n shows the input at matrices[n] (2, 3) @ (i, j, 1), mixed from the four pixels around.
extern "C" __global__ void warp(
    const PIXEL *images, const double *matrices, float *y, int h, int w, int c, int mode, float cval, float scale,
    Index pixels)
{
    const Index k = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= pixels) return;
    const int i = k / w % h, j = k % w;
    const double *m = matrices + k / w / h * 6;
    double row = m[0] * i + m[1] * j + m[2], column = m[3] * i + m[4] * j + m[5];
    if (mode == 1 && !(inside(row, h) && inside(column, w))) {
        for (int channel = 0; channel < c; channel++) y[k * c + channel] = cval * scale;
        return;
    }
    row = fold(row, h, mode);
    column = fold(column, w, mode);
    const int above = row, before = column;
    const float down = row - above, right = column - before;
    const PIXEL *corner = images + ((k / w / h * h + above) * w + before) * c;
    const Index beside = before < w - 1 ? c : 0, below = above < h - 1 ? (Index)w * c : 0;
    for (int channel = 0; channel < c; channel++) {
        const PIXEL *x = corner + channel;
        const float p = x[0], q = x[beside], r = x[below], s = x[below + beside];
        const float upper = p + (q - p) * right, lower = r + (s - r) * right;
        y[k * c + channel] = (upper + (lower - upper) * down) * scale;
    }
}
