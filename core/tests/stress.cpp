// The stress program: hammers the core without Python, under the sanitizers.   stress [--seed N] [--seconds S] [--part NAME] [--scene NAME]
//
//   threads  threads as participants; for the thread sanitizer, and for everything that goes wrong between two changes
//   deaths   processes as participants that are killed at any moment, all the time
//   steps    one process killed at each marked step of each kind of change, and at instructions between them
//
// Each part runs for about S seconds (default 20); the steps take as long as there are steps.
#include <cstdlib>
#include <cstring>

#include "harness.h"

using namespace shoal;
using namespace shoal::stress;

int main(int argc, char** argv) {
  Options o;
  o.seed = now_ns();
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string name = argv[i];
    if (name == "--seed") o.seed = std::strtoull(argv[i + 1], nullptr, 0);
    else if (name == "--seconds") o.seconds = std::atof(argv[i + 1]);
    else if (name == "--part") o.part = argv[i + 1];
    else if (name == "--scene") o.scene = argv[i + 1];
    else argc = 0;
  }
  if (argc % 2 == 0) {
    std::fprintf(stderr, "usage: stress [--seed N] [--seconds S] [--part threads|deaths|steps] [--scene NAME]\n");
    return 2;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::printf("stress: seed %llu\n", (unsigned long long)o.seed);
  start_watchdog();
  // The parts that fork come first: a sanitizer's memory of what threads did would be copied each time.
#ifdef SHOAL_TSAN
  std::printf("deaths, steps: not under the thread sanitizer, which does not follow forks\n");
#else
  if (o.part.empty() || o.part == "steps") steps(o);
  if (o.part.empty() || o.part == "deaths") deaths(o);
#endif
  if (o.part.empty() || o.part == "threads") threads(o);
  std::printf("stress: passed\n");
  return 0;
}
