// Stands in for a processor with AMX, whose products read rows by whole cache lines: preloaded, it
// takes the library's calls of torch's products and fails those whose rows end within a line. At
// exit it says how many it saw.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>

namespace {

using Handle = void*;

template <typename F>
F* torch_function(const char* name) {
  void* library = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  return reinterpret_cast<F*>(library ? dlsym(library, name) : nullptr);
}

struct Count {
  long products = 0, within_a_line = 0;
  ~Count() { std::printf("%ld products, %ld end within a line\n", products, within_a_line); }
} count;

// Whether the rows of x [n, K] are whole lines.
bool whole(Handle x) {
  static const auto sizes = torch_function<int32_t(Handle, int64_t**)>("aoti_torch_get_sizes");
  static const auto dtype = torch_function<int32_t(Handle, int32_t*)>("aoti_torch_get_dtype");
  static const auto float32 = torch_function<int32_t()>("aoti_torch_dtype_float32");
  int64_t* shape = nullptr;
  int32_t type = 0;
  if (sizes(x, &shape) || dtype(x, &type)) return false;
  const bool good = shape[1] * (type == float32() ? 4 : 2) % 64 == 0;
  ++count.products;
  count.within_a_line += !good;
  return good;
}

}  // namespace

extern "C" {

int32_t aoti_torch_cpu_mm_out(Handle out, Handle x, Handle w) {
  static const auto real = torch_function<int32_t(Handle, Handle, Handle)>(__func__);
  return whole(x) ? real(out, x, w) : 1;
}

int32_t aoti_torch_cpu_addmm_out(Handle out, Handle bias, Handle x, Handle w, double beta,
                                 double alpha) {
  static const auto real =
      torch_function<int32_t(Handle, Handle, Handle, Handle, double, double)>(__func__);
  return whole(x) ? real(out, bias, x, w, beta, alpha) : 1;
}

int32_t aoti_torch_cpu__linear_pointwise(Handle x, Handle w, Handle* bias, const char* attr,
                                         const double** scalars, int64_t num_scalars,
                                         const char** algorithm, Handle* result) {
  static const auto real =
      torch_function<int32_t(Handle, Handle, Handle*, const char*, const double**, int64_t,
                             const char**, Handle*)>(__func__);
  return whole(x) ? real(x, w, bias, attr, scalars, num_scalars, algorithm, result) : 1;
}
}
