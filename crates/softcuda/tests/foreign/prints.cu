#include <cstdio>
#include <cassert>
extern "C" __global__ void prints(const char *name, long long big, double d) {
  if (threadIdx.x == 0) { int r = printf("[%s] %5d|%-5d|%05d %x %X %o %c %%\n", name, -42, 42, 42, 255u, 255u, 8u, 'z'); printf("%d args, %lld %llu %hd %hhu\n", r, big, (unsigned long long)big, (short)-5, (unsigned char)200); printf("%f %.3e %g %10.4f %a\n", d, d, d, d, 1.0); printf("plain\n"); printf("%*d %.*f %p %s\n", 6, 7, 2, d, (void *)0x1234, "tail"); }
  if (blockIdx.x == 1 && threadIdx.x == 33) printf("block %d thread %d\n", blockIdx.x, threadIdx.x);
}
extern "C" __global__ void checks(const int *x) { int v = x[threadIdx.x]; if (v == 3) printf("seen\n"); assert(v != 5 && "five"); if (v == 9) __trap(); }
