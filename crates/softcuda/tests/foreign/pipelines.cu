#include <cuda/barrier>
#include <cuda/pipeline>
#include <cooperative_groups.h>
namespace cg = cooperative_groups;
// A pipeline of two stages, a pipeline of a thread's own, and a barrier with a producer and consumers.
extern "C" __global__ void staged(const int *x, int *y, int tiles) { auto b = cg::this_thread_block(); extern __shared__ int s[]; __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, 2> state; auto p = cuda::make_pipeline(b, &state); int n = blockDim.x;
  for (int c = 0, f = 0; c < tiles; c++) { for (; f < tiles && f < c + 2; f++) { p.producer_acquire(); cuda::memcpy_async(b, s + (f % 2) * n, x + f * n, cuda::aligned_size_t<4>(sizeof(int) * n), p); p.producer_commit(); } p.consumer_wait(); y[c * n + threadIdx.x] = s[(c % 2) * n + (n - 1 - threadIdx.x)] * 2; p.consumer_release(); } }
extern "C" __global__ void own(const int4 *x, int4 *y) { __shared__ int4 s[64]; auto p = cuda::make_pipeline(); p.producer_acquire(); cuda::memcpy_async(&s[threadIdx.x], &x[threadIdx.x], cuda::aligned_size_t<16>(16), p); p.producer_commit(); p.consumer_wait(); int4 v = s[threadIdx.x]; p.consumer_release(); y[threadIdx.x] = make_int4(v.w, v.z, v.y, v.x); }
extern "C" __global__ void split(int *x, int *y, int rounds) { __shared__ int v[32];
#pragma nv_diag_suppress static_var_with_dynamic_init
  __shared__ cuda::barrier<cuda::thread_scope_block> full, empty; if (!threadIdx.x) { init(&full, blockDim.x); init(&empty, blockDim.x); } __syncthreads();
  for (int r = 0; r < rounds; r++) { if (threadIdx.x < 32) { v[threadIdx.x] = x[threadIdx.x] + r; } full.arrive_and_wait(); y[r * blockDim.x + threadIdx.x] = v[threadIdx.x % 32] + threadIdx.x; empty.arrive_and_wait(); } }
