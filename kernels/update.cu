// How weights follow their gradients: one step of Adam or of stochastic gradient descent, in place, over flat arrays.
//
// Nothing is used twice, so there is nothing to stage: each thread takes one number of every array, neighbours take
// neighbours, and the speed is that of the device's memory. REAL is float or double.

typedef long long Index;

// The rate lies in the device's memory, so that a recorded graph can be run again with another one.
extern "C" __global__ void adam_update(
    REAL *w, const REAL *g, REAL *m, REAL *v, const REAL *rate, REAL share_1, REAL share_2, REAL epsilon, Index size)
{
    const Index k = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= size) return;
    const REAL gradient = g[k];
    const REAL mean = m[k] + (gradient - m[k]) * share_1, square = v[k] + (gradient * gradient - v[k]) * share_2;
    m[k] = mean;
    v[k] = square;
    w[k] -= mean * *rate / (sqrt(square) + epsilon);
}

extern "C" __global__ void sgd_update(
    REAL *w, const REAL *g, REAL *velocity, const REAL *rate, REAL momentum, int nesterov, Index size)
{
    const Index k = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= size) return;
    const REAL step = g[k] * -*rate, speed = velocity[k] * momentum + step;
    velocity[k] = speed;
    w[k] += nesterov ? momentum * speed + step : speed;
}
