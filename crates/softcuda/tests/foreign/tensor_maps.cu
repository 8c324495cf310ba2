#include <cuda/barrier>
#include <cuda/ptx>
#include <cuda.h>
namespace ptx = cuda::ptx;
using barrier = cuda::barrier<cuda::thread_scope_block>;
// A tile of 2D and of 3D in, changed, and out again; a reduction; a 1D bulk store.
extern "C" __global__ void tile2d(const __grid_constant__ CUtensorMap in, const __grid_constant__ CUtensorMap out, int x, int y) { __shared__ alignas(1024) float s[16][32];
#pragma nv_diag_suppress static_var_with_dynamic_init
  __shared__ barrier bar; if (!threadIdx.x) { init(&bar, blockDim.x); ptx::fence_proxy_async(ptx::space_shared); } __syncthreads(); barrier::arrival_token t;
  if (!threadIdx.x) { int32_t at[2] = { x, y }; ptx::cp_async_bulk_tensor(ptx::space_cluster, ptx::space_global, &s, &in, at, cuda::device::barrier_native_handle(bar)); t = cuda::device::barrier_arrive_tx(bar, 1, sizeof(s)); } else t = bar.arrive(); bar.wait(std::move(t));
  for (int i = threadIdx.x; i < 512; i += blockDim.x) s[i / 32][i % 32] = s[i / 32][i % 32] * 2 + 1; ptx::fence_proxy_async(ptx::space_shared); __syncthreads();
  if (!threadIdx.x) { int32_t at[2] = { x, y }; ptx::cp_async_bulk_tensor(ptx::space_global, ptx::space_shared, &out, at, &s); ptx::cp_async_bulk_commit_group(); ptx::cp_async_bulk_wait_group_read(ptx::n32_t<0>()); } }
extern "C" __global__ void tile3d(const __grid_constant__ CUtensorMap in, int *out, int x, int y, int z) { __shared__ alignas(1024) int s[2 * 4 * 8];
  __shared__ barrier bar; if (!threadIdx.x) { init(&bar, 1); ptx::fence_mbarrier_init(ptx::sem_release, ptx::scope_cluster); } __syncthreads();
  if (!threadIdx.x) { auto h = cuda::device::barrier_native_handle(bar); int32_t at[3] = { x, y, z }; ptx::cp_async_bulk_tensor(ptx::space_cluster, ptx::space_global, s, &in, at, h); ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared, h, sizeof(s)); }
  while (!ptx::mbarrier_try_wait_parity(cuda::device::barrier_native_handle(bar), 0)) ; out[threadIdx.x] = s[threadIdx.x]; }
extern "C" __global__ void bulk1d(const int *x, int *y, int *sum) { __shared__ alignas(128) int s[256]; for (int i = threadIdx.x; i < 256; i += blockDim.x) s[i] = x[i] * 3; ptx::fence_proxy_async(ptx::space_shared); __syncthreads();
  if (!threadIdx.x) { ptx::cp_async_bulk(ptx::space_global, ptx::space_shared, y, s, sizeof(s)); ptx::cp_reduce_async_bulk(ptx::space_global, ptx::space_shared, ptx::op_add, sum, s, sizeof(s)); ptx::cp_async_bulk_commit_group(); ptx::cp_async_bulk_wait_group(ptx::n32_t<0>()); } }
extern "C" __global__ void __cluster_dims__(4, 1, 1) multicast(const int *x, int *y) { __shared__ alignas(128) int s[64]; __shared__ uint64_t bar; unsigned r; asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); if (!threadIdx.x) { ptx::mbarrier_init(&bar, 1); ptx::fence_mbarrier_init(ptx::sem_release, ptx::scope_cluster); ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared, &bar, sizeof(s)); }
  ptx::barrier_cluster_arrive(); ptx::barrier_cluster_wait(); if (!threadIdx.x && r == 1) ptx::cp_async_bulk(ptx::space_cluster, ptx::space_global, s, x, sizeof(s), &bar, (uint16_t)0xd); if (!threadIdx.x && r == 0) ptx::cp_async_bulk(ptx::space_cluster, ptx::space_global, s, x + 64, sizeof(s), &bar, (uint16_t)0x2);
  while (!ptx::mbarrier_try_wait_parity(&bar, 0)) ; y[blockIdx.x * 64 + threadIdx.x] = s[threadIdx.x]; ptx::barrier_cluster_arrive(); ptx::barrier_cluster_wait(); }
