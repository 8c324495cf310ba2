#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda/atomic>
extern "C" __global__ void atomics(half *h, half2 *h2, __nv_bfloat16 *b, __nv_bfloat162 *b2, float2 *f2, float4 *f4, double *d, unsigned long long *u, short *s16, int *i, ulonglong2 *wide) {
  atomicAdd(h, __float2half(0.5f)); atomicAdd(h2, __floats2half2_rn(1.f, 2.f)); atomicAdd(b, __float2bfloat16(1.f)); atomicAdd(b2, __floats2bfloat162_rn(1.f, 0.5f)); atomicAdd(f2, make_float2(1.f, 2.f)); atomicAdd(f4, make_float4(1, 2, 3, 4));
  atomicAdd(d, 1.5); atomicMin(u, (unsigned long long)threadIdx.x); atomicMax((long long *)u + 1, (long long)threadIdx.x - 5); atomicAnd(u + 2, ~(1ull << threadIdx.x)); atomicOr(u + 3, 1ull << threadIdx.x); atomicCAS((unsigned short *)s16, (unsigned short)0, (unsigned short)9);
  cuda::atomic_ref<int, cuda::thread_scope_device> r(*i); r.fetch_add(2, cuda::memory_order_acq_rel); r.fetch_max(7); cuda::atomic_ref<float, cuda::thread_scope_device> rf(*(float *)(i + 1)); rf.fetch_max((float)threadIdx.x); int old = 5; cuda::atomic_ref<int>(i[2]).compare_exchange_strong(old, 6); cuda::atomic_ref<unsigned char> rb(*(unsigned char *)(i + 3)); rb.fetch_add(1);
  ulonglong2 zero = make_ulonglong2(0, 0), mine = make_ulonglong2(threadIdx.x + 1, 77); asm volatile("{ .reg .b128 o, c, v; mov.b128 c, {%0, %1}; mov.b128 v, {%2, %3}; atom.cas.b128 o, [%4], c, v; }" :: "l"(zero.x), "l"(zero.y), "l"(mine.x), "l"(mine.y), "l"(wide) : "memory"); asm volatile("{ .reg .b128 o, v; mov.b128 v, {%0, %1}; atom.exch.b128 o, [%2], v; }" :: "l"(mine.x), "l"(mine.y), "l"(wide + 1) : "memory");
  asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" :: "l"(f2 + 1), "f"(1.f), "f"(3.f) : "memory"); asm volatile("red.global.add.noftz.v4.f16x2 [%0], {%1, %1, %1, %1};" :: "l"(h2 + 4), "r"(0x3c003c00) : "memory"); asm volatile("red.global.max.noftz.v2.f16x2 [%0], {%1, %2};" :: "l"(h2 + 8), "r"(0x3c004000), "r"(0xbc003c00) : "memory");
}
