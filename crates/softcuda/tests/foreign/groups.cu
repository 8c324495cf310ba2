#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
namespace cg = cooperative_groups;
extern "C" __global__ void groups(const int *x, int *y, const float *f, float *g) {
  auto b = cg::this_thread_block(); int i = b.thread_rank(); auto t = cg::tiled_partition<8>(b); auto w = cg::tiled_partition<32>(b);
  y[i] = cg::reduce(t, x[i], cg::greater<int>()); y[128 + i] = cg::inclusive_scan(w, x[i]); y[256 + i] = cg::exclusive_scan(t, x[i], cg::plus<int>());
  g[i] = cg::reduce(w, f[i], cg::plus<float>()); y[384 + i] = t.shfl_xor(x[i], 3) + t.meta_group_rank() * 1000 + w.any(x[i] > 90) * 10000; y[512 + i] = w.match_any(x[i] & 3);
  if (x[i] & 1) { auto c = cg::coalesced_threads(); int s = cg::reduce(c, x[i], cg::plus<int>()); y[640 + i] = s * 64 + c.thread_rank(); auto l = cg::labeled_partition(c, x[i] & 6); y[768 + i] = l.size() * 100 + l.thread_rank(); } else { y[640 + i] = -1; y[768 + i] = -1; }
  auto s16 = cg::tiled_partition<16>(b); g[128 + i] = cg::reduce(s16, f[i], cg::less<float>()); b.sync(); __shared__ int sum; if (!i) sum = 0; b.sync(); cg::reduce_update_async(w, *(cuda::atomic<int, cuda::thread_scope_block> *)&sum, x[i], cg::plus<int>()); b.sync(); y[896 + i] = sum;
}
extern "C" __global__ void gridded(int *acc, int *out, int rounds) { auto g = cg::this_grid(); for (int r = 0; r < rounds; r++) { if (g.thread_rank() % 7 == r % 7) atomicAdd(acc + r, (int)g.block_rank() + 1); g.sync(); if (g.thread_rank() == r) out[r] = acc[r] * 2 + (int)g.num_blocks(); g.sync(); } }
