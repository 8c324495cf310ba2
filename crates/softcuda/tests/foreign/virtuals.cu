// Virtual functions, a table of member functions, mutual and nested recursion, structs by value, a device lambda.
struct Shape { __device__ virtual float area(int n) const = 0; __device__ virtual ~Shape() {} };
struct Square : Shape { float s; __device__ Square(float s) : s(s) {} __device__ float area(int n) const override { return s * s + n; } };
struct Circle : Shape { float r; __device__ Circle(float r) : r(r) {} __device__ float area(int n) const override { return 3.f * r * r - n; } };
struct Triple { int a; double b; short c; };
__device__ __noinline__ int odd(int n); __device__ __noinline__ int even(int n) { return n == 0 ? 1 : odd(n - 1); }
__device__ __noinline__ int odd(int n) { return n == 0 ? 0 : even(n - 1); }
__device__ __noinline__ int ackermann(int m, int n) { return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1)); }
__device__ __noinline__ Triple twist(Triple t, int depth) { if (depth == 0) return t; int keep[4]; for (int i = 0; i < 4; i++) keep[i] = t.a * i + depth; Triple u = { t.a + 1, t.b * 2, (short)(t.c - 1) }; u = twist(u, depth - 1); u.a += keep[depth & 3]; return u; }
__device__ __noinline__ void sort(int *x, int lo, int hi) { if (lo >= hi) return; int p = x[hi], i = lo; for (int j = lo; j < hi; j++) if (x[j] < p) { int t = x[i]; x[i++] = x[j]; x[j] = t; } x[hi] = x[i]; x[i] = p; sort(x, lo, i - 1); sort(x, i + 1, hi); }
typedef Triple (*F)(Triple, int); __device__ Triple plain(Triple t, int k) { t.a -= k; return t; } __device__ F both[2] = { twist, plain };
extern "C" __global__ void virtuals(float *area, int *out, double *wide, int *sorted) {
  int i = threadIdx.x; Shape *s = (i % 3) ? (Shape *)new Square(i) : (Shape *)new Circle(i); area[i] = s->area(i); delete s;
  out[i * 3] = even(i); out[i * 3 + 1] = ackermann(2, i & 3); Triple t = { i, i * 0.5, (short)i }; t = both[i & 1](t, i % 5); out[i * 3 + 2] = t.a + t.c; wide[i] = t.b;
  int local[12]; for (int k = 0; k < 12; k++) local[k] = (k * 7 + i * 5) % 13; sort(local, 0, 11); for (int k = 0; k < 12; k++) sorted[i * 12 + k] = local[k];
}
