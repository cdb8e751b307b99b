// Circles of threads that wait for one another; see deadlock.cpp.
#pragma once
#include <string>
#include <vector>

#include "client.h"

namespace shoal {

struct Stuck {  // a thread in a published wait
  u64 thread, since;
  Handle what;
  u32 mode, flags;
  Offset task;
  bool operator==(const Stuck& o) const { return thread == o.thread && since == o.since && what == o.what && mode == o.mode; }
};

// The circle through that wait of that thread, beginning with it; empty: there is none, as far as one look can tell.
std::vector<Stuck> find_circle(Client& c, u64 thread, u64 since);
// One of `objects`, all of which that thread needs, that it is in a circle through; 0: there is none.
Handle find_circle_through(Client& c, u64 thread, u64 since, const std::vector<Handle>& objects);
bool is_victim(const std::vector<Stuck>& circle);  // is it for the first of them to end it?
std::vector<std::string> describe(Client& c, const std::vector<Stuck>& circle);  // a text for each

}  // namespace shoal
