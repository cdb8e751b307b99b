// A scene: one kind of change, done by one process, the victim, which is killed at each marked step of it.
#pragma once
#include <functional>
#include <initializer_list>

#include "harness.h"

namespace shoal::stress {

// What a scene plays on: an arena of its own. The victim has copies of all but the arena, as it is forked from the supervisor.
struct Stage {
  World& w;
  Client& c;               // of whoever acts: the supervisor's, the victim's in warm() and act()
  std::vector<Handle> h;   // what the supervisor holds: by the end all of these must be finished
  std::vector<Handle> sure;  // the same, of which none may have failed
  std::vector<Handle> mine;  // the victim's, from warm() to act()
  WaitNode* node = nullptr;
  bool met = false;          // the supervisor's: meanwhile() was played
  void meet();               // act(): waits until meanwhile() is over
};

using Play = std::function<void(Stage&)>;
struct Scene {
  const char* name;
  Play prepare;              // the supervisor, first
  Play warm;                 // the victim: done before its steps count
  Play act;                  // the victim: killed at each of its steps
  Play meanwhile = nullptr;  // the supervisor, while the victim waits in meet()
  Play after = nullptr;      // the supervisor, once the victim is buried and the arena has been checked
};

void object_scenes(std::vector<Scene>& all);
void container_scenes(std::vector<Scene>& all);
void task_scenes(std::vector<Scene>& all);
void version_scenes(std::vector<Scene>& all);
void ownership_scenes(std::vector<Scene>& all);
void spill_scenes(std::vector<Scene>& all);

inline void nothing(Stage&) {}
Scene last_reference(const char* name, Play prepare, Play after = nullptr);  // of s.h[0]
Handle make(Client& c, u64 bytes, std::initializer_list<Handle> refs = {});  // a value

}  // namespace shoal::stress
