#include <cuda_fp8.h>
#include <cuda_fp6.h>
#include <cuda_fp4.h>
extern "C" __global__ void small_floats(const float *a, unsigned char *b, float *c) { int i = threadIdx.x; float v = a[i]; __nv_fp8_e5m2 e5(v); __nv_fp8_e4m3 e4(v); __nv_fp8x4_e4m3 q(make_float4(v, -v, v * 2, v / 3)); float4 back = float4(q); __nv_fp6_e2m3 f2(v); __nv_fp6_e3m2 f3(v); __nv_fp4_e2m1 f1(v); __nv_fp8x2_e5m2 p(__floats2half2_rn(v, 1.f)); __nv_fp8_e8m0 s; s.__x = __nv_cvt_float_to_e8m0(fabsf(v), __NV_SATFINITE, cudaRoundPosInf);
  b[i * 6] = e5.__x; b[i * 6 + 1] = e4.__x; b[i * 6 + 2] = f2.__x; b[i * 6 + 3] = f3.__x; b[i * 6 + 4] = f1.__x; b[i * 6 + 5] = s.__x; c[i * 8] = float(e5); c[i * 8 + 1] = float(e4); c[i * 8 + 2] = float(f2); c[i * 8 + 3] = float(f3); c[i * 8 + 4] = float(f1); c[i * 8 + 5] = back.x + back.y * 2 + back.z * 4 + back.w; float2 pp = float2(p); c[i * 8 + 6] = pp.x + pp.y; c[i * 8 + 7] = float(s); }
