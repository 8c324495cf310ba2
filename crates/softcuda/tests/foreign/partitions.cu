// Groups of threads: scans, partitions by a bit and by a label, copies of a block.
#include <cooperative_groups.h>
#include <cuda/barrier>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
#include <cooperative_groups/memcpy_async.h>
namespace cg = cooperative_groups;
extern "C" __global__ void scans(const int *x, int *y) { auto b = cg::this_thread_block(); auto t = cg::tiled_partition<16>(b); int v = x[b.thread_rank()];
  y[b.thread_rank() * 6] = cg::inclusive_scan(t, v); y[b.thread_rank() * 6 + 1] = cg::exclusive_scan(t, v, cg::plus<int>()); y[b.thread_rank() * 6 + 2] = cg::reduce(t, v, cg::greater<int>());
  auto p = cg::binary_partition(t, v & 1); y[b.thread_rank() * 6 + 3] = cg::reduce(p, v, cg::plus<int>()); auto l = cg::labeled_partition(cg::coalesced_threads(), v % 3); y[b.thread_rank() * 6 + 4] = l.thread_rank() * 100 + l.size();
  y[b.thread_rank() * 6 + 5] = cg::reduce(t, v, cg::bit_xor<int>()); }
extern "C" __global__ void async_groups(const float *x, float *y, int n) { extern __shared__ float s[]; auto b = cg::this_thread_block(); cg::memcpy_async(b, s, x, cuda::aligned_size_t<16>(sizeof(float) * n)); cg::wait(b); float v = 0; for (int i = b.thread_rank(); i < n; i += b.size()) v += s[n - 1 - i]; y[b.thread_rank()] = v; }
