#include <cuda/barrier>
#include <cuda/ptx>
#include <cuda.h>
namespace ptx = cuda::ptx;
// A tile of 1, 4 and 5 dimensions through shared memory to the host's eyes, and added to another tensor; its map prefetched, by value and from global memory.
template <int N> __device__ void through(const CUtensorMap *in, const CUtensorMap *out, int *raw, int words, const int32_t (&at)[N]) { __shared__ alignas(1024) int s[2048]; __shared__ uint64_t bar;
  if (!threadIdx.x) { asm volatile("prefetch.tensormap [%0];" :: "l"(in) : "memory"); ptx::mbarrier_init(&bar, 1); ptx::fence_mbarrier_init(ptx::sem_release, ptx::scope_cluster); } __syncthreads();
  if (!threadIdx.x) { ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared, &bar, 4 * words); ptx::cp_async_bulk_tensor(ptx::space_cluster, ptx::space_global, s, in, at, &bar); }
  while (!ptx::mbarrier_try_wait_parity(&bar, 0)) ; for (int i = threadIdx.x; i < words; i += blockDim.x) raw[i] = s[i]; __syncthreads();
  if (!threadIdx.x) { ptx::cp_reduce_async_bulk_tensor(ptx::space_global, ptx::space_shared, ptx::op_add, out, at, s); ptx::cp_async_bulk_commit_group(); ptx::cp_async_bulk_wait_group(ptx::n32_t<0>()); } }
extern "C" __global__ void line(const __grid_constant__ CUtensorMap in, const __grid_constant__ CUtensorMap out, int *raw, int words, int a) { int32_t at[1] = { a }; through<1>(&in, &out, raw, words, at); }
extern "C" __global__ void four(const __grid_constant__ CUtensorMap in, const __grid_constant__ CUtensorMap out, int *raw, int words, int a, int b, int c, int d) { int32_t at[4] = { a, b, c, d }; through<4>(&in, &out, raw, words, at); }
extern "C" __global__ void five(const CUtensorMap *maps, int *raw, int words, int a, int b, int c, int d, int e) { int32_t at[5] = { a, b, c, d, e }; through<5>(maps, maps + 1, raw, words, at); }
