// The mean binary cross-entropy of sigmoid(z) and its gradient, from the logits z: exact where sigmoid(z) rounds to 0
// or 1. All arrays are float32.

typedef long long Index;

// -(y log p + (1 - y) log(1 - p)) for p = sigmoid(z), written so that no exponential overflows.
__device__ float cross_entropy(float z, float y)
{
    const float positive = z > 0.0f ? z : 0.0f, magnitude = z > 0.0f ? -z : z;
    return positive - z * y + log1pf(expf(magnitude));
}

// One thread adds the losses one after another.
extern "C" __global__ void sigmoid_binary_cross_entropy_naive(const float *z, const float *y, float *loss, Index size)
{
    float sum = 0.0f;
    for (Index k = 0; k < size; k++) sum += cross_entropy(z[k], y[k]);
    *loss = sum / size;
}

constexpr int THREADS = 256;

// What changed: one block; each thread adds every 256th loss, and then half of the threads add the other half's sums,
// until one is left. Why it is faster: 8 rounds in place of 256 additions, in the same order in every run.
extern "C" __global__ void __launch_bounds__(THREADS) sigmoid_binary_cross_entropy(
    const float *z, const float *y, float *loss, Index size)
{
    __shared__ float sums[THREADS];
    float sum = 0.0f;
    for (Index k = threadIdx.x; k < size; k += THREADS) sum += cross_entropy(z[k], y[k]);
    sums[threadIdx.x] = sum;
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) *loss = sums[0] / size;
}

// gz = gy * (sigmoid(z) - y) / size, for the gradient gy of the mean.
extern "C" __global__ void sigmoid_binary_cross_entropy_backward(
    const float *gy, const float *z, const float *y, float *gz, Index size)
{
    const Index k = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= size) return;
    const float small = expf(z[k] > 0.0f ? -z[k] : z[k]);  // at most 1
    const float p = (z[k] > 0.0f ? 1.0f : small) / (1.0f + small);
    gz[k] = *gy * (p - y[k]) / size;
}
