// callgrind writes what it has counted since the last mark whenever this is called; elsewhere it does nothing.
#include <valgrind/callgrind.h>

void shoal_benchmark_mark(void) { CALLGRIND_DUMP_STATS; }
