// One participant's private view of the arena: where it is mapped, which slot is ours, how often each object is
// referenced from this process. A Client is used by one thread at a time (in Python: under the GIL); only the
// members marked (any thread) may be called without that.
#pragma once
#include <cstring>
#ifdef SHOAL_CRASH_POINTS
#include <source_location>
#endif
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <vector>

#include "abi.h"

namespace shoal {

// What a caller gets for its own mistake or for a limit; the bindings turn each into a Python exception.
struct Error : std::runtime_error {
  enum Code { INVALID, FULL, LIMIT, ENDED, FORKED, GONE, ACTOR_DEAD, PENDING_LIMIT, NAME_TAKEN, LOST,
              RAISED } code;  // RAISED: the caller's own exception is set already
  Error(Code c, const std::string& what) : std::runtime_error(what), code(c) {}
};

[[noreturn]] void broken(const char* what, const char* file, int line);
// A broken invariant is our bug: stop at once, with its text, before it spreads.
#define SHOAL_CHECK(x) ((x) ? (void)0 : ::shoal::broken(#x, __FILE__, __LINE__))

// The place of a step in the source, which a test build can kill a process at (crash.cpp); nothing in a build for users.
#ifdef SHOAL_CRASH_POINTS
using Place = std::source_location;
void crash_point(const char* name, Place where);
void arm_crash_point(const char* spec);  // as SHOAL_CRASH does, for this process from now on
extern void (*at_crash_point)(const char* name);  // a test program's own: called at each of them
struct Slot;
extern const Slot* crash_slot;           // this process's
#define CRASH_POINT(name) ::shoal::crash_point(name, ::shoal::Place::current())
#define CRASH_POINT_AT(name, where) ::shoal::crash_point(name, where)
#else
struct Place {
  static constexpr Place current() { return {}; }
};
#define CRASH_POINT(name) (void)0
#define CRASH_POINT_AT(name, where) (void)0
#endif

u64 now_ns();
void copy_large(void* to, const void* from, u64 size);  // copy.cpp
inline void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield" ::: "memory");
#endif
}

inline u32 index_of(Handle h) { return u32(h); }
inline u32 gen_of(Handle h) { return u32(h >> 32); }

// Reads a field without the lock that guards it: a hint, to be looked at again under the lock before it counts.
template <class T>
T peek(const T& field) {
  return __atomic_load_n(&field, __ATOMIC_RELAXED);
}

// Makes memory of the arena present; throws FULL if the system has none left.
void commit_pages(int memfd, Offset start, u64 size);

extern thread_local bool patient;  // false: memory that cannot be had is an error at once

struct Client;

// `local` and `views`, in one piece of private memory that is only filled where it is used.
constexpr u64 COUNTS_BYTES = 2 * sizeof(u32) * u64(MAX_OBJECTS);

// A change of the arena that happens whole or, if the process dies, not at all.
//
// Protocol: lock what guards the fields; set() them; commit(). set() first writes the old value to the journal,
// then counts the record, then changes the field. A killed process stops between two instructions and its
// earlier stores all become visible, so the supervisor sees either a record without its change (undoing is a
// no-op) or both. commit() sets the journal's count to zero, one store: the change is final. Locks are noted
// before they are taken and forgotten after they are released, so a lock whose word carries our slot is always
// in the list. Undo happens before the supervisor releases the locks: nobody sees the half-made state.
// Compiler fences suffice on the writing side: the reader is ordered by the kernel's report of our death.
class Tx {
 public:
  explicit Tx(Client& c);
  ~Tx();
  Tx(const Tx&) = delete;
  void lock(SpinLock& l, Place where = Place::current());
  template <class T>
  void set(T& field, std::type_identity_t<T> value, Place where = Place::current()) {
    record(&field, sizeof(T), where);
    __atomic_store_n(&field, value, __ATOMIC_RELAXED);  // whole, for those who peek()
  }
  template <class T>
  void set(std::atomic<T>& field, std::type_identity_t<T> value, Place where = Place::current()) {
    record(&field, sizeof(T), where);
    field.store(value, std::memory_order_release);
  }
  void commit(Place where = Place::current());   // the change is final and the locks are released
  void settle(Place where = Place::current());   // the change is final, the locks stay
  void unlock(Place where = Place::current());   // releases all locks; everything must be settled
  Client& client;

 private:
  void record(void* field, u64 size, Place where);
  Journal& j_;
};

struct Client {
  u8* rw = nullptr;        // the arena, writable
  const u8* ro = nullptr;  // the same memory, read-only: what views of immutable objects point to
  Header* h = nullptr;
  Slot* slots = nullptr;
  Slot* me = nullptr;
  u32 slot = 0;
  Entry* entries = nullptr;
  PageInfo* pages = nullptr;
  u32* local = nullptr;    // references to each entry from this process
  u32* views = nullptr;    // views of each entry in this process: writable ones of a mutable object, any of a large value
  int memfd = -1, eventfd = -1, spillfd = -1;
  bool in_tx = false;
  bool forked = false;     // we are a copy made by fork(): nothing may be touched
  bool cut = false;        // a guest that has lost its supervisor, and nobody else's session is over for that (any thread)
  u64 spin_ns = 0;         // present spinning budget, adapts
  // Set by the bindings: a long system call or copy may let other threads run meanwhile.
  void* (*let_others_run)() = nullptr;
  void (*come_back)(void*) = nullptr;
  // Sleeps until this process is rung or it is late. Throws RAISED if a signal handler did.
  void (*pause)(u32 seen, u64 deadline_ns) = nullptr;

  template <class T>
  T* at(Offset o) const {
    return reinterpret_cast<T*>(rw + o);
  }
  Offset offset(const void* p) const { return Offset(static_cast<const u8*>(p) - rw); }

  // arena.cpp -- creating and mapping
  static u64 arena_bytes(u64 heap_bytes);
  static u64 address_space(u64 heap_bytes);  // that a participant reserves
  static void format(int memfd, u64 heap_bytes, u32 cpus);
  void attach(int memfd, int eventfd);
  void detach();
  void become(u32 slot, Role role, i32 pid);
  void check_usable() const;
  void ring_supervisor();
  void poke_supervisor();                      // wakes it, no more  // (any thread)

  // allocator.cpp
  Offset alloc_block(Tx& tx, u64 size);       // tx holds nothing of the heap; ensure_block(size) came before
  void ensure_block(u64 size);                // may refill the cache, and spill for it; throws FULL
  void fill_cache(u64 size);                  // the same without spilling: for within with_room()
  void commit_block(Offset block, u64 size, bool let_go = true);  // makes a fresh large block safe to touch; throws FULL
  void populate(Offset start, u64 len, bool cold, bool let_go);
  void fill(Offset from, Offset to, bool cold, bool let_go);
  std::vector<bool> populated;                // a bit per POPULATE_FROM bytes of `rw`: there, and in our page table
  u64 trims_seen = 0;                         // what heap.trims was when it was true
  void free_block(Tx& tx, Offset block);
  u64 block_size(Offset block) const;
  void trim_caches();                         // gives surplus cached blocks and entries back
  u32 surplus = 0;                            // classes whose cache is over its limit
  bool entry_surplus = false;
  void lock_heap(Tx& tx);
  u32 alloc_run(Tx& tx, u64 npages);          // these four: Heap::lock is held in tx
  void free_run(Tx& tx, u32 first, u8 warmth);
  void unlink_run(Tx& tx, u32 first);
  void link_run(Tx& tx, u32 first, u32 len, u8 warmth, u32 freed_at);
  void mark_run(Tx& tx, u32 first, u32 len, u8 state, u8 warmth);
  u32 page_of(Offset block) const { return u32((block - h->heap_base) / PAGE); }
  Offset page_offset(u32 page) const { return h->heap_base + u64(page) * PAGE; }
  void refill_class(u32 cls);
  void flush_class(BlockCache& cache, u32 cls, u32 keep);
  void flush_entries(Slot& s, u32 keep);
  void ensure_entry();
  u32 pop_entry(Tx& tx);
  void push_entry(Tx& tx, u32 index);
  void return_caches(Slot& dead);             // supervisor: all of a dead process's
  u64 trim(u32 older_than_s);                 // supervisor: idle memory back to the system; bytes

  // objects.cpp
  Entry& entry(Handle h) const { return entries[index_of(h)]; }
  Handle handle_of(u32 index) const {
    return u64(entries[index].gen.load(std::memory_order_relaxed)) << 32 | index;
  }
  bool valid(Handle h) const;
  bool same_life(Handle h) const;
  Handle create(Kind kind);                    // CREATING, held by us; local count 1
  u8* attach_block(Handle h, u64 size);        // payload memory for an object we are making
  u8* begin_payload(Handle h, u32 format, u32 nrefs, u32 nbuffers, u64 meta_size, const u64* sizes);
  void contain(Handle container, Handle target);  // counts one reference of the payload being made
  void set_inline(Handle h, u64 tag, u64 value);
  void publish(Handle h, bool failed);         // CREATING or PENDING -> READY / FAILED; wakes; readies dependents
  void acquire(Handle h);                      // one more reference from this process
  void release(Handle h);
  bool drop_contained_tx(Tx& tx, Handle h);    // a task or object no longer refers to h; true: caller calls dispose(h)
  void dispose(Handle h);
  void add_contained(Handle h);
  void pin(Handle h) { add_contained(h); }
  void seal(Handle h, EntryState how);         // the PENDING half of publish()
  void finish_seal(Handle h);
  void drain_dependents(Handle h);
  static u64 refs_at(u8 kind, u8 flags, u64 size);  // where a payload's references start
  Payload* payload(Handle h) const { return at<Payload>(entry(h).payload); }
  Handle* refs(Handle h) const { return reinterpret_cast<Handle*>(rw + entry(h).payload + refs_at(entry(h).kind, entry(h).flags, entry(h).size)); }
  BufferSpan* spans(Handle h) const { return reinterpret_cast<BufferSpan*>(refs(h) + payload(h)->nrefs_max); }
  Mutex* mutex(Handle h) const { return at<Mutex>(entry(h).payload + 64); }
  Writers* writers(Handle h) const { return at<Writers>(entry(h).payload + 64 + sizeof(Mutex)); }
  bool begin_view(Handle h);                   // one more writable view in this process; false: it is not mutable
  void end_view(Handle h);
  void end_views_of(Handle h, u32 slot);
  std::vector<u32> freeze(Handle h);           // slots that have writable views; none: it is frozen now
  bool unreferenced(Tx& tx, Handle h);         // [lock Entry::lock] true: it is ours to dispose of now
  bool sealed(Handle h) const;                 // [lock Entry::lock]
  bool owes(const Task* t, Handle r);          // does t still have to make r?
  bool actor_alone(Handle h) const;            // [lock Entry::lock]
  void after_tx();
  void reset_payload(Handle h);                // a dead maker's block away from a PENDING entry

  // spill.cpp
  bool large(Handle h) const { return entry(h).size >= SPILL_FROM && entry(h).kind.load(std::memory_order_relaxed) == KIND_VALUE; }
  Large* head(Handle h) const { return at<Large>(entry(h).payload); }
  void begin_pin(Handle h);                    // a large value that we hold stays in memory from now on; restores it; throws
  void end_pin(Handle h);
  void end_pins_of(Handle h, u32 slot);        // supervisor
  u64 spill(u64 want, bool let_go);            // returns the bytes of memory that it freed
  bool spillable(Handle h) const;              // [lock Entry::lock]
  u64 spill_one(Handle h, bool let_go);
  void restore(Handle h);
  u64 take_extent(Tx& tx, u64 size);           // 0: there is no place in the file
  void drop_extent(Tx& tx, u64 extent, u64 size);
  void punch(u64 extent, u64 size);
  SpillJob* free_job();                        // nullptr: all are in use
  void drop_job(SpillJob& job);
  void repair_spills(Slot& dead);              // supervisor
  std::string spill_note;                      // why nothing was spilled the last time; for people

  // pressure.cpp
  struct Pressure {
    u64 need;
    bool let_go;                               // may other threads of the process run meanwhile?
    bool tried = false, registered = false, warned = false;
    u32 seen = 0;                              // our ring, before the last attempt
    u64 since = 0, still = 0, activity = 0;
    std::string note{};                        // what the error is to say besides
    Client* client = nullptr;
    ~Pressure() {
      if (registered) client->set_starved(false);
    }
  };
  u32 starved_waits = 0;                       // threads of this process that wait for memory
  void ring_waiter(u32 waiter);                // as in Entry::waiter
  void ring_starved();
  void set_starved(bool on);
  void make_room(Pressure& p, const Error& full);  // throws `full` if there is no way
  bool (*wait_for_room)(Pressure& p) = nullptr;    // set by the bindings; false: it is of no use
  template <class F>
  auto with_room(u64 need, bool let_go, F allocate) -> decltype(allocate()) {
    Pressure p{need, let_go};
    p.client = this;
    for (;;) {
      std::string text;
      try {
        return allocate();
      } catch (const Error& e) {
        if (e.code != Error::FULL) throw;
        text = e.what();
      }
      make_room(p, Error(Error::FULL, text));
    }
  }

  // wait.cpp
  bool may_spin() const;
  void ring(u32 slot);                         // (any thread)
  void ring_all();                             // everybody alive
  bool sleep_ring(u32 seen, u64 deadline_ns);  // (any thread) false: interrupted by a signal
  void set_awake(bool on);
  bool spin(bool (*done)(void*), void* arg);   // (any thread)
  void slept(u64 ns);
  void watch(Handle h);                        // ring us when h is done
  void wake_worker();
  u32 could_run() const;
  void tell_crowd();
  void look_for_forgotten();
  bool surplus_worker();                       // should this worker leave the tasks that wait to others?
  u64 cpu_before = 0;                          // ... what was used when it was asked last
  i64 slept_before = -1;
  bool slow_look = false;                      // supervisor: of spread()
  struct Looking {
    u32 idle, coming;
  };
  Looking looking();                           // supervisor: workers that look for a task, or will in a moment
  struct OnTheWay {
    u64 since;
    u32 served;
  };
  std::vector<OnTheWay> on_the_way;            // ... by slot
  bool crowded(u32 limit) const;                        // as many workers are awake as there are cores
  u32 wake_idle(u32 most);                     // workers asleep; returns how many
  i64 spread(i64 last, double ms);             // supervisor: a look at the crowd, see wait.cpp

  // tasks.cpp
  u32 shape_of(const std::vector<std::pair<std::string, i64>>& demand, bool* feasible);
  u32 resource_id(const std::string& name);
  Task* new_task(u32 nreturns, u32 ndeps, u64 args_size, TaskKind kind);
  Dep* deps(Task* t) const { return reinterpret_cast<Dep*>(t + 1); }
  Handle* returns(Task* t) const { return reinterpret_cast<Handle*>(deps(t) + t->ndeps_max); }
  u8* args(Task* t) const { return reinterpret_cast<u8*>(returns(t) + t->nreturns_max); }
  Handle add_return(Task* t);                  // a PENDING object held by us
  void add_dep(Task* t, Handle object, bool wait);
  void submit(Task* t);                        // to its shape's queue, or its actor's mailbox
  void ready(Tx& tx, Task* t);                 // its last dependency is done: into its queue
  std::vector<u32> to_ring;                    // slots to ring once the tx is over
  bool work_added = false;                     // a ready queue grew in the tx
  Task* pop(Tx& tx, Shape& s);
  void unlink_queued(Tx& tx, Task* t);
  void link_running(Tx& tx, Task* t);
  void unlink_dep(Tx& tx, Dep* d);
  bool fits(const Shape& s) const;
  bool grant(Tx& tx, u32 shape);
  static constexpr u32 LEASE_TASKS = 32;       // a worker takes before it lets other shapes have their turn
  u32 rotor = 0;
  Task* take_task();                           // nullptr: nothing to run now
  bool steal(Handle h, Task** out);            // the queued task that makes h, for ourselves
  void finish(Task* t);                        // all returns are published (or given up)
  void requeue(Task* t);                       // run it again
  void release_lease();
  void release_lease_of(Slot& s);
  void take_resources(Tx& tx, const Shape& x, i64 sign, bool cpu_only);
  void block_begin();
  void block_end();
  bool work_visible() const;                   // something this worker could run
  bool runnable() const;                       // something that any idle worker could run
  void unlink_running(Tx& tx, Task* t);
  void drop_deps(Task* t);
  void free_task(Task* t);
  u64 task_bytes(const Task* t) const;
  Handle stream_next(Task* t);                 // the return after this one, not yet part of the record
  void stream_advance(Task* t);                // ... becomes the record's return
  void discard_building(Slot& s);

  // cancel.cpp
  bool cancel_queued(Handle h, Task** out);    // true: *out is ours to fail
  Task* cancel_creation(Handle actor);
  int mark_running(Handle h, u16 flags, bool again);
  bool take_interrupt(Task* t);
  bool runs(const Task* t) const;
  void clear_marks(Task* t);
  std::vector<Handle> descendants(u64 id, u64 last);
  void start_clock(Task* t);
  std::vector<Handle> late(u64* next);
  bool kill_due(u32 slot) const;

  // actors.cpp
  Actor* actor(Handle h) const { return at<Actor>(entry(h).payload + 64); }
  Handle create_actor(u32 shape, Handle class_object, const std::string& name, i32 restarts, i32 max_pending, i32 task_retries,
                      bool detached);
  bool mail(Task* t);                          // false: the actor is dead
  bool post(Tx& tx, Task* t);                  // ... the change itself, committed if true
  u64 mail_count(Handle h) const { return actor(h)->count.load(std::memory_order_relaxed); }
  Task* take_mail(Handle h);
  Task* take_mail_any(Handle h, bool also_unready);
  void wait_for_lock(Task* t);
  void unlink_mail(Tx& tx, Actor* a, Task* t);
  bool actor_restarting(Handle h);
  void actor_alive(Handle h);
  Task* take_all_mail(Handle h);               // supervisor: unlinks one call of a dead actor
  bool actor_dead(Handle h, Handle death);
  void actor_drop_life(Handle h);
  void actor_starts(Handle h);
  bool actor_leaves(Handle h);
  bool actor_over(Handle h) const;
  void actor_save(Handle h, Handle item, Task* t, bool failed);  // takes over our reference to item

  // names.cpp
  bool name_set(NameSpace space, std::string_view name, Handle object);
  Handle name_get(NameSpace space, std::string_view name, bool hold);
  bool name_remove(NameSpace space, std::string_view name, Handle object);
  std::vector<std::pair<std::string, Handle>> name_list(NameSpace space);
  std::string name_of(Handle object);          // of a lock or the like; empty: it has none

  // queues.cpp
  Queue* queue(Handle h) const { return at<Queue>(entry(h).payload + 64); }
  Handle create_queue(u32 limit, Handle lock = 0);
  bool queue_put(Queue* q, Handle item);       // takes over our reference to item; false: full
  Handle queue_get(Queue* q);                  // comes with a reference of ours; 0: empty
  bool queue_watch(Queue* q, bool get);        // rings us when there is an item (or room); false: there is now
  bool queue_drop_first(Queue* q, Handle* dead);  // for disposal
  void queue_grow(Queue* q);
  Handle queue_at(Queue* q, i64 index);        // comes with a reference of ours; 0: there is none
  bool queue_set(Queue* q, i64 index, Handle item);     // takes over our reference to item
  Handle queue_pop(Queue* q, i64 index, Handle only = 0);  // 0: there is none, or another than `only`
  bool queue_insert(Queue* q, i64 index, Handle item);
  void queue_clear(Queue* q);
  bool queue_reorder(Queue* q, const std::vector<Handle>& before, const std::vector<Handle>& after);
  void rebuild(Tx& tx, Queue* q, u64 at, Handle item);
  Handle* new_items(Tx& tx, Queue* q, Offset* block);
  void swap_items(Tx& tx, Queue* q, Offset block, u64 n);
  bool exchange(Tx& tx, Handle item, Handle old);
  void count_in(Tx& tx, Handle item);
  void take_over(Tx& tx, Handle item);         // our reference becomes the container's
  void hand_out(Tx& tx, Handle item, bool keep);  // the container's becomes (keep: there is also) one of ours

  // ring.cpp
  bool ring_claim(std::atomic<i64>& stamp, i64 number);  // the place of that stamp is ours to write; false: somebody writes it

  // table.cpp
  Table* table(Handle h) const { return at<Table>(entry(h).payload + 64); }
  Handle create_table(Handle lock = 0);
  // Takes over our reference to `value`, also if just that was there. False: something is (and the reference is still ours).
  bool table_set(Table* t, u64 hash, std::string_view key, Handle value, bool replace);
  Handle table_get(Table* t, u64 hash, std::string_view key);      // comes with a reference of ours; 0: not there
  Handle table_pop(Table* t, u64 hash, std::string_view key);
  bool table_pop_end(Table* t, bool last, std::string* key, Handle* value);
  std::vector<std::string> table_keys(Table* t);
  bool table_drop_one(Table* t, Handle* dead);
  void table_step(Table* t);

  // versioned.cpp
  Cell* cell(Handle h) const { return at<Cell>(entry(h).payload + 64); }
  Handle create_cell(Handle first);
  Handle cell_acquire(Cell* c, u64* version);  // the newest version, with one more reference from this process
  u64 cell_version(Cell* c);
  u64 cell_watch(Cell* c, u64 newer_than);     // the version if it is newer; else 0, and we are rung when one comes
  // Takes over our reference to `item`. False: the version is not `expected` (and the reference is still ours).
  bool cell_publish(Cell* c, Handle item, const u64* expected, u64* version);

  // sync.cpp
  WaitNode* wait_node(WaitMode mode, u64 owner);
  void link_wait(Tx& tx, WaitQueue& q, WaitNode* n);
  void unlink_wait(Tx& tx, WaitQueue& q, WaitNode* n);
  void wake(WaitNode* n);                      // [guard] rings it in after_tx()
  bool mutex_try(Mutex* m, u64 owner);
  WaitNode* mutex_enqueue(Mutex* m, WaitMode mode, u64 owner);
  bool mutex_check(Handle h, Mutex* m, WaitNode* n);  // true: it is ours, n is out of the queue
  bool mutex_leave(Mutex* m, WaitNode* n);     // gives up; true: it became ours meanwhile (exclusive mode)
  void mutex_release(Mutex* m, u64 owner);
  bool shared_try(Handle h, Mutex* m, u32 thread);
  bool shared_release(Mutex* m, u32 thread);   // false: that thread does not hold it
  void mutex_pass(Mutex* m);
  void mutex_wake_heads(Mutex* m);
  bool shared_enter(Tx& tx, Handle h, Mutex* m, Hold* hold, u32 thread);
  void mutex_repair(Mutex* m, u32 dead_slot, i32 pid, const char* label);
  void repair_waits(Slot& dead);               // supervisor
  void repair_holds(Slot& dead);

  void mutex_note(Mutex* m, u8 died, i32 pid, const char* label);  // its holder is no more

  // before.cpp
  Offset buffers_of(Handle h, u64* size) const;
  Offset* draft_block(u64 bytes);              // a fresh block that a death gives back
  void before_make(Handle h, Mutex* m);
  void before_undo(Mutex* m);
  void before_drop(Mutex* m);
  void before_forget(Offset& draft);
  bool before_undo_all(Mutex* m);
  void copy_bytes(Offset to, Offset from, u64 size);

  // ownership.cpp
  bool has_ownership(Handle h) const { return entry(h).flags & FLAG_OWNED; }
  Ownership* ownership(Handle h) const {       // of an object that has one
    return at<Ownership>(entry(h).payload + 64 + sizeof(Mutex) + sizeof(Writers));
  }
  std::unordered_map<Handle, u64> epochs;      // in which this process was the owner when it looked last
  u64 commit_tickets = 0;                      // numbers this process's commits in the order in which they began
  enum class Owned { YES, NEVER, STALE };      // STALE: only in the epoch that we know, which is over
  enum class Claim { NO, HAD, GOT };           // HAD: it was ours before
  struct Notice {                              // of the end of an owner; died = 0: there is none
    u32 died;
    i32 pid;
    u64 ns, epoch;
    char label[48];
  };
  void owner_begin(Handle h, Handle actor);    // of an object being made; actor = 0: us
  bool owner_get(Handle h);                    // is it ours? From now on we know so
  Owned owner_known(Handle h);                 // is it ours, and do we know so?
  Owned owner_commit(Handle h);
  Owned owner_rollback(Handle h);
  Owned owner_transfer(Handle h, Handle actor);  // actor = 0: to who waits first, or nobody. Throws ACTOR_DEAD
  Claim owner_claim(Handle h, bool steal, Notice* notice);
  WaitNode* owner_enqueue(Handle h, bool request, u64 thread);
  bool owner_check(Handle h, WaitNode* n, Notice* notice);  // true: it is ours, n is out of the queue
  bool owner_leave(Ownership* o, WaitNode* n, bool keep);  // gives up; true: it had been given to us (and is, if `keep`)
  void owner_abandon(Handle h);                // our task is over: nobody's, and as it was committed last
  void owner_drop(Handle h);                   // no copy is needed any more
  void owner_repair(Handle h, u32 dead_slot);  // supervisor
  void owner_look(Handle h, Handle* actor, u64* host, u64* epoch, u64* since_ns);
  u64 host_word(u32 s) const { return u64(slots[s].epoch.load(std::memory_order_relaxed)) << 32 | (s + 1); }
  bool owns(const Ownership* o) const;         // [guard], else a hint
  bool actor_gone(Handle actor) const;
  u64 owner_epoch(Handle h);
  u64 owner_known_epoch(Handle h, Owned* verdict);
  void owner_check_mutable(Handle h) const;
  void owner_set(Tx& tx, Ownership* o, Handle actor, u64 host);
  void owner_pass(Tx& tx, Ownership* o);
  void owner_settle(Tx& tx, Ownership* o);
  void owner_note(Tx& tx, Ownership* o, OwnerEnd how, i32 pid, const char* label);
  void owner_tell(Tx& tx, Ownership* o, Notice* notice);
  bool owner_restore(Handle h, u64 epoch);

  // semaphore.cpp
  Sync* sync(Handle h) const { return at<Sync>(entry(h).payload + 64 + sizeof(Mutex)); }
  Hold* find_hold(const void* what, u32 thread);  // nullptr: we hold nothing of it
  Hold* hold_for(const void* what, u32 thread);   // that, or a free record
  bool reclaim_hold(Hold* hold);
  void add_hold(Tx& tx, Hold* hold, Handle h, const void* what, u32 thread, Offset* list, u32 n);
  void drop_hold(Tx& tx, Hold* hold, Offset* list, u32 n);
  bool sem_try(Handle h, Sync* s);
  WaitNode* sync_enqueue(Sync* s, WaitMode mode, u64 owner);
  bool sem_check(Handle h, Sync* s, WaitNode* n);
  bool sem_take(Tx& tx, Handle h, Sync* s, Hold* hold, WaitNode* n);
  void sem_leave(Sync* s, WaitNode* n);
  bool sem_release(Sync* s, u64 n);            // false: more than there ever were (bounded)

  // signals.cpp -- events, conditions, barriers
  void event_set(Sync* s);
  void event_clear(Sync* s);
  bool ticket_done(Sync* s, WaitNode* n) const;
  bool ticket_check(Sync* s, WaitNode* n);
  bool ticket_leave(Sync* s, WaitNode* n);     // true: it had been let go
  void cond_notify(Sync* s, u64 n);
  enum class Arrival { BROKEN, FULL, WAIT, ACTION, LAST };
  Arrival barrier_arrive(Sync* s, u64 owner, bool action, WaitNode** n, u64* index);
  u32 barrier_check(Sync* s, WaitNode* n);     // 0: not yet; 1: through, 2: broken, n is out of the queue
  enum class Leave { BREAK, QUIT, PASS };      // time-out or failed action; interrupted; action done
  u32 barrier_leave(Sync* s, WaitNode* n, Leave how);
  void barrier_break(Sync* s, bool for_good);
  void barrier_end(Tx& tx, Sync* s, bool aborted, bool broken);

  // recovery.cpp -- supervisor
  u32 claim_slot();
  void rollback(u32 slot);
  void unlock_dead(u32 slot);                  // its half-made change is undone, its short locks are free
  void unlock_all_dead();
  bool ended(u32 slot) const;                  // is the process of this slot known to be dead?
  // By which descriptor the supervisor knows of a guest's death: a guest is no child of its, and may have its number in
  // another space of process numbers. `events` tells: POLLIN of a pidfd, or POLLRDHUP of the connection.
  struct Life {
    int fd = -1;
    short events = 0;
  };
  std::vector<Life> lives;
  void watch_life(u32 slot, int fd, short events);
  bool hold_ready(Handle h);                   // acquire(), if it is READY now
  void repair_object(Handle h, u32 slot);
  std::vector<Handle> stillborn;               // from sweep(): actors that the dead had made, but not submitted
  Task* recover(u32 slot, bool death = true);  // first: journal, caches, lease; returns the running list
  void sweep(u32 slot);                        // last: the dead process's bits, locks, unfinished objects
  void free_slot(u32 slot);
  std::string check();                         // empty: the arena is whole
};

}  // namespace shoal
