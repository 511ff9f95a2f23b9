// What this compiler's headers use and the libstdc++ of gcc 8 and glibc 2.28 lack: ours, in wheels
// (ZOPRUNE_MANYLINUX). Hidden by csrc/exports.map.
#include <new>
#include <sstream>

// glibc 2.32: false makes std::shared_ptr count atomically, as before.
extern "C" char __libc_single_threaded;
char __libc_single_threaded = 0;

namespace std {
void __throw_bad_array_new_length() { throw bad_array_new_length(); }
template basic_stringstream<char>::basic_stringstream();
template basic_ostringstream<char>::basic_ostringstream();
}  // namespace std
