// Every struct that lives in the shared arena.
//
// Rules that hold for the whole file:
//   * fixed-width fields; offsets from the arena base, never pointers; a zeroed struct is a free one;
//   * a field marked [lock X] is read and written only while X is held and is changed only through Tx::set
//     (journal.h), so that the supervisor can undo a half-made change of a process that died;
//   * a field marked [slot] belongs to one process, which changes it through Tx::set too;
//   * a field marked [word] is changed by one atomic instruction, which is itself the whole change;
//   * lock-free readers exist only for [word] fields and for what a published [word] guards.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace shoal {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i32 = std::int32_t;
using i64 = std::int64_t;
using Offset = u64;  // bytes from the arena base; 0 = none
using Handle = u64;  // generation << 32 | index of an Entry; 0 = none

constexpr u64 ABI_MAGIC = 0x53484f414c310001ull;
constexpr u32 ABI_VERSION = 1;

constexpr u64 PAGE = 4096;
constexpr u32 MAX_PROCESSES = 512;      // slots: driver, supervisor, workers, actors, guests
constexpr u32 MAX_OBJECTS = 1u << 24;   // entries alive at a time (16.7 million)
constexpr u32 MAX_SHAPES = 256;         // distinct resource demands of a session
constexpr u32 MAX_RESOURCES = 32;       // distinct resource names of a session
constexpr u32 MAX_DEMANDS = 8;          // resource names in one demand
constexpr u32 MAX_GPUS = 64;             // GPUs that are told apart
constexpr u32 MAX_NAME = 128;           // bytes of a name shown to people
constexpr u32 NUM_CLASSES = 32;         // small block sizes, see allocator.cpp
constexpr u64 SMALL_LIMIT = 32768;      // larger blocks are runs of pages
constexpr u32 NUM_BINS = 40;            // free runs by log2 of their pages
constexpr u32 NAME_BUCKETS = 1024;
constexpr u32 JOURNAL_RECORDS = 240;
constexpr u32 JOURNAL_LOCKS = 7;
constexpr u32 WAIT_NODES = 64;          // waits of one process for locks and the like at a time
constexpr u32 HOLDS = 64;               // shared locks and semaphores that one process holds at a time

constexpr u32 LAST_WORDS = 2008;        // bytes kept of what a process printed last
constexpr u32 DRAFTS = 8;               // copies for rollback or a commit that one process makes at a time

constexpr u64 SPILL_FROM = 64 << 10;    // bytes of a payload; smaller values stay in memory
constexpr u32 SPILL_JOBS = 8;           // objects that one process writes out or reads back at a time
constexpr u32 SPILL_SEGMENTS = 1024;    // of the spill file, SPILL_SEGMENT bytes each
#ifdef SHOAL_CRASH_POINTS
constexpr u64 SPILL_SEGMENT = 96ull << 20;  // small enough for a test to come to the next one
#else
constexpr u64 SPILL_SEGMENT = 8ull << 30;
#endif

constexpr u32 DRIVER_SLOT = 0;
constexpr u32 SUPERVISOR_SLOT = 1;

// A short lock. The word is 0 or the holder's slot + 1, so whoever repairs a dead process knows which locks
// it held. The intention is written to the journal before the word is taken (journal.h).
struct SpinLock {
  std::atomic<u32> owner;
};

// ------------------------------------------------------------------------------------------- processes

// One process's undo log. While `count` > 0 a change is half made: its records, newest first, put back what
// was there. `locks` names the spin locks that are held or about to be taken. Written by the owner alone;
// read by the supervisor after the owner's death. Setting `count` to 0 is the commit.
struct JournalRecord {
  u64 where;  // size of the field in bytes << 56 | offset
  u64 old;
};
struct alignas(64) Journal {
  u32 count;
  u32 nlocks;
  Offset locks[JOURNAL_LOCKS];
  JournalRecord rec[JOURNAL_RECORDS];
};

// Free small blocks kept by one process: a list through the first word of each block. [slot]
// The owner's death: the supervisor gives the blocks back to their spans.
struct BlockCache {
  Offset head;
  u32 count;
  u32 pad;
};

// Threads that wait for a Mutex or a Sync, first come first. The queue is the first field of both, so its offset
// names what is waited for. [lock guard]
struct WaitQueue {
  SpinLock guard;
  std::atomic<u32> waiters;  // [lock guard] written, read by releasers without it
  Offset head, tail;
};

// A waiting thread, a link of a WaitQueue. It is in its process's slot, and only that process takes it and gives it
// back; `next` and `prev` are the queue's. [lock WaitQueue::guard]
// The waiter's death: the supervisor unlinks it and hands on what it had been promised.
enum WaitMode : u32 { WAIT_EXCLUSIVE = 0, WAIT_SHARED = 1, WAIT_PERMIT = 2, WAIT_TICKET = 3, WAIT_BARRIER = 4, WAIT_VISITOR = 5,
                      WAIT_OBJECT = 6, WAIT_CLAIM = 7, WAIT_REQUEST = 8 };
struct WaitNode {
  Offset queue;  // 0 = the node is free
  Offset next, prev;
  u64 owner;     // (slot + 1) << 32 | thread; what Mutex::owner becomes when the lock is handed over
  u64 since_ns;
  std::atomic<u32> woken;    // [word] 1: rung and has not looked since; spares a second wake-up
  u32 mode;
  u64 ticket;    // WAIT_TICKET: its number; at a barrier: the generation
  u64 result;    // at a barrier: how the generation ended, for a waiter that is very late; a claim: the epoch it was given
};
static_assert(sizeof(WaitNode) == 64);

// What a process holds of something that several can hold: a lock in shared mode (one record a thread) or a semaphore's
// permits (one a process). It is in the holder's slot; the holder alone takes and frees the record (queue, thread,
// object). `count` and the links are changed together with the count in what is held. [lock WaitQueue::guard]
// While the record exists the process has one more reference to `object`, so what it points to exists.
// The holder's death: the supervisor takes `count` off what is held.
struct Hold {
  Offset queue;      // 0 = free
  Offset next, prev; // of the semaphore's holders, linked while count > 0
  u32 count;
  u32 thread;        // 0: permits of a semaphore
  Handle object;
};
// What a thread that waits without a limit of time waits for, published when it goes to sleep: what deadlock.cpp looks
// for circles in. A hint: each field is a [word] of that thread's, nothing else depends on it. A death: cleared with the slot.
enum WaitingFlags : u64 { WAITING_MAIN = 1, WAITING_UNWILLING = 2 };  // in the process's main thread; must not be interrupted
struct Waiting {
  std::atomic<u64> thread;  // (slot + 1) << 32 | thread; 0 = free
  std::atomic<u64> since;   // ns; no two waits of a thread have the same
  std::atomic<u64> what;    // Handle
  std::atomic<u64> mode;    // WaitMode, of an object its result: WAIT_OBJECT
  std::atomic<u64> task;    // that this thread runs, if it is not the main one
  std::atomic<u64> flags;
  u64 pad[2];
};

// What the process printed last, as a ring: written by it alone, when it prints; `of` is the task that printed it (0: an
// actor). Read by the supervisor after its death, for the error that tells of it; a torn text is harmless.
struct LastWords {
  u64 of;
  std::atomic<u64> count;  // bytes since `of` began to print; the newest is text[(count - 1) % LAST_WORDS]
  char text[LAST_WORDS];
};

// An object on its way to the spill file or back; spill.cpp has the protocol. [slot] What is named here belongs to the job:
//   to the file: `extent`, until the object is switched to it;   back: `block` likewise, and then `extent`, until it is freed.
// The process's death: the supervisor takes the process's mark off the object, and gives back what the job still has.
struct SpillJob {
  Handle object;  // 0 = free
  u64 extent;     // place in the file
  u64 size;       // bytes of the payload
  Offset block;
};

constexpr u32 ASYNC_THREAD = 1u << 31;  // in a thread number: taken by a coroutine, given back by anybody of the process

enum SlotState : u32 { SLOT_FREE = 0, SLOT_STARTING = 1, SLOT_ALIVE = 2, SLOT_DEAD = 3 };
enum Role : u32 { ROLE_NONE = 0, ROLE_DRIVER = 1, ROLE_SUPERVISOR = 2, ROLE_WORKER = 3, ROLE_ACTOR = 4, ROLE_GUEST = 5 };

struct alignas(64) Slot {
  std::atomic<u32> state;  // [word] SlotState
  std::atomic<u32> role;   // [word] a worker that takes an actor creation becomes ROLE_ACTOR for good
  std::atomic<u32> epoch;  // [word] counts the processes that used this slot
  i32 pid;
  u64 started_ns;
  Offset building;         // [slot] a task record not yet queued: thrown away if the process dies
  Offset running;          // [slot] list of the task records this process executes (Task::qnext)
  u32 lease;               // [lock Scheduler::lock] shape + 1 whose demand this process has been granted
  u32 blocked;             // [lock Scheduler::lock] 1: the CPU part of the lease was given back while waiting
  u64 gpus;                // [lock Scheduler::lock] bit per GPU that the lease gives this process ...
  i64 gpu_share;           // ... and how much of each, in 1/10000
  std::atomic<Handle> actor;  // [slot] the actor this process hosts; read by anybody as a hint
  std::atomic<u32> command;  // [word] requests to the process, CommandBits
  std::atomic<u32> threads;  // [word] of the program's own, counted when one of them had waited for long
  // [word] each: when the task that it runs must be over, 0 = never; a return of that task. cancel.cpp has the protocol.
  std::atomic<u64> deadline;
  std::atomic<Handle> timed;
  std::atomic<u32> served;   // [word] tasks it has taken from queues; read by the supervisor as a hint
  u32 pad;
  Offset drafts[DRAFTS];     // [slot] blocks of copies that are being made, for a rollback or a commit
  SpillJob spills[SPILL_JOBS];  // [slot]
  // What wakes the process: `ring` goes up by one for each event, sleepers wait on it as a futex.
  alignas(64) std::atomic<u32> ring;
  std::atomic<u32> sleepers;
  alignas(64) char label[MAX_NAME];  // what it does now, for people; torn reads are harmless
  Journal journal;
  alignas(64) BlockCache blocks[NUM_CLASSES];
  u32 entry_head, entry_count;  // [slot] free entries kept by this process, linked by Entry::next
  alignas(64) WaitNode waits[WAIT_NODES];
  Hold holds[HOLDS];
  Waiting waiting[WAIT_NODES];
  LastWords said;
};

enum CommandBits : u32 { CMD_EXIT = 1, CMD_CANCEL = 2, CMD_KILL = 4 };

// --------------------------------------------------------------------------------------------- objects

enum EntryState : u32 {
  ENTRY_FREE = 0,
  ENTRY_CREATING = 1,  // its creator is writing the payload; seen by nobody else
  ENTRY_PENDING = 2,   // will be made by Entry::task
  ENTRY_READY = 3,     // the payload is the value and never changes again (the bytes of a mutable one do)
  ENTRY_FAILED = 4,    // the payload is the exception
  ENTRY_DISPOSING = 5, // no reference is left; `creator` is taking it apart
};
enum Kind : u8 {
  KIND_VALUE = 0,
  KIND_MUTABLE = 1,
  KIND_LOCK = 2,
  KIND_ACTOR = 3,
  KIND_SYNC = 4,
  KIND_QUEUE = 5,
  KIND_TABLE = 6,
  KIND_FROZEN = 7,     // was KIND_MUTABLE and is laid out like it, but never changes again
  KIND_VERSIONED = 8,
};
constexpr bool has_mutex(u8 kind) { return kind == KIND_MUTABLE || kind == KIND_FROZEN || kind == KIND_LOCK || kind == KIND_SYNC; }
// OWNED: MUTABLE or FROZEN, with an Ownership. Of the others at most one.
enum EntryFlags : u8 { FLAG_INLINE = 1, FLAG_HAS_BLOCK = 2, FLAG_SPILLED = 4, FLAG_OWNED = 8 };

// An object. Who may touch what:
//   state: published by a single release store, under `lock`, by the maker; lock-free readers use acquire.
//   payload, size, kind, flags: written by the maker before it publishes; constant afterwards, except that `kind` goes
//     from MUTABLE to FROZEN once: by a single release store, under `lock`; lock-free readers use acquire.
//     size stays 0 until the payload's header is valid, so a dead maker's half-written block is just freed.
//     Of a large value (see Large) payload and flags change when it is spilled or restored: [lock Entry::lock], by Tx.
//   holders, contained, waiter, task, dependents, holder_bits: [lock Entry::lock].
// It is alive while a bit is set (a process holds a reference or a view) or contained > 0 (queued tasks and
// other objects that refer to it). A process's death clears its bits; `holders` is their number.
struct alignas(64) Entry {
  SpinLock lock;
  std::atomic<u32> gen;
  std::atomic<u32> state;
  u32 waiter;       // 0, slot + 1 of the process to ring when done, or WAITER_MANY: ring all
  u32 holders;
  u32 contained;
  u64 payload;      // FLAG_HAS_BLOCK: offset; FLAG_INLINE: the value's 8 bytes; FLAG_SPILLED: see Large
  u64 size;         // bytes of the payload; FLAG_INLINE: the value's tag
  std::atomic<u8> kind;
  u8 flags;
  u16 creator;      // slot that creates or disposes of it
  u32 next;         // free list
  Offset task;      // the record that will produce it
  Offset dependents;  // first Dep of a task that waits for it
  std::atomic<u64> holder_bits[MAX_PROCESSES / 64];
};
static_assert(sizeof(Entry) == 128 && MAX_PROCESSES == 512);
constexpr u32 WAITER_MANY = 0xffffffffu;

enum Format : u32 { FORMAT_PICKLE = 0, FORMAT_STR = 1, FORMAT_BYTES = 2, FORMAT_REF_LIST = 3, FORMAT_REF_TUPLE = 4 };
enum InlineTag : u64 { TAG_NONE = 1, TAG_FALSE = 2, TAG_TRUE = 3, TAG_INT = 4, TAG_FLOAT = 5 };

// A fair lock that outlives its holder, for one writer or many readers. `owner` is
//     0                            free
//     (slot + 1) << 32 | thread    held by that thread; taken by a compare-and-swap when nobody waits
//     LOCK_SHARED                  held by `readers` threads, each with a Hold in its slot; 0 readers: kept for those
//                                  at the head of the queue, or left behind by a dead one
// and never a boolean, so the death of a holder is seen by everyone. From 0 anybody may take it; from LOCK_SHARED it
// changes only in the guard. sync.cpp has the protocol and the argument for it.
// A writer's death: the supervisor undoes what it changed (if asked to), notes the death in `died_*`, frees the lock and
// wakes the first waiter. A reader's: its Hold is taken off `readers`.
constexpr u64 LOCK_SHARED = 1ull << 63;
enum OnDeath : u8 { DEATH_DEFAULT = 0, DEATH_RAISE = 1, DEATH_IGNORE = 2, DEATH_POISON = 3 };
enum Died : u8 { DIED = 1, DIED_TASK = 2, DIED_UNDONE = 4 };  // bits: nobody was told; the task only; the object is as before
struct alignas(64) Mutex {
  WaitQueue q;
  std::atomic<u64> owner;       // [word]
  u32 readers;                  // [lock q.guard] the sum of the Holds
  u32 writers;                  // [lock q.guard] of the waiters, those for exclusive mode
  std::atomic<u8> died;         // [word] Died: the last holder died, and nobody has been told
  std::atomic<u8> on_death;     // [word] OnDeath, set once
  u16 pad0;
  u32 depth;                    // of re-entry; the holder's own
  std::atomic<u64> taken;       // times, for statistics; written by the holder, by readers in the guard
  Offset before;                // the newest Before, see before.cpp; the holder's own, through Tx
  u64 died_ns;                  // died_*: the supervisor's, or the holder's who says it of himself
  i32 died_pid;
  u32 pad1;
  char died_label[48];
};
static_assert(sizeof(Mutex) == 128);

// What the buffers of a mutable object were when its lock was taken with rollback=True: a block of this and the bytes.
// First in Slot::drafts, while it is being made; then in the list Mutex::before, until the lock is released.
struct alignas(64) Before {
  Offset older;  // of an outer acquisition
  Offset at;     // where the bytes belong
  u64 size;
  u64 depth;     // Mutex::depth at the time
};

// A semaphore, event, condition or barrier; every change is made in the guard through Tx. An object of KIND_SYNC has a
// Mutex as well (a condition's own lock). [lock q.guard], the atomic fields are also read without it.
//   semaphore: `value` permits are free, `holders` lists the Holds of the others.
//   event: `value` is 1 when set.    event, condition: a waiter draws ticket `next`, and is let go once `released` is
//   beyond it.
//   barrier: `value` of `limit` parties wait; `next` is the generation; bit g % 64 of `aborted` says that generation g
//   ended broken; `full`: all have come, one of them runs the action.
// A waiter's death: the supervisor takes it out of the queue; a notification it had not noticed goes to the next, a
// generation that counted on it is broken. A holder's death: its permits are free again.
enum SyncType : u32 { SYNC_SEMAPHORE = 1, SYNC_EVENT = 2, SYNC_CONDITION = 3, SYNC_BARRIER = 4 };
enum SyncFlags : u32 { SYNC_BOUNDED = 1, SYNC_KEEP = 2 };  // KEEP: permits are not given back for the dead
struct alignas(64) Sync {
  WaitQueue q;
  std::atomic<u64> value;
  u64 limit;                 // constant: the semaphore's initial value, the barrier's parties
  std::atomic<u64> next;
  std::atomic<u64> released;
  u32 type, flags;           // constant
  u64 aborted;
  Offset holders;
  std::atomic<u32> broken;
  u32 full;
  u64 taken;                 // acquisitions, notifications, generations: for statistics
};
static_assert(sizeof(Sync) == 128);

// Which processes have a writable view of a mutable object: a bit each, after its Mutex. [lock Entry::lock] Each process
// sets its bit with the first of its views and clears it with the last; freezing needs them all clear.
// The process's death: the supervisor clears its bit.
struct alignas(64) Writers {
  std::atomic<u64> bits[MAX_PROCESSES / 64];
};

// Who may write to a mutable object that was put with an owner (FLAG_OWNED). It comes after the Writers.
//     actor  host
//     0      0     nobody: whoever claims it has it
//     0      P     the process P (its slot and the slot's epoch, so that the next process in the slot is another)
//     A      0     the actor A, none of whose processes has come for it yet
//     A      P     the actor A, in its process P
// All is changed in the guard through Tx, but for died_*, which are written before `died` says that they count. `actor`,
// `host`, `epoch` and `requests` are read by anybody as a hint. `epoch` goes up whenever an owner begins. `committed` is a
// block with the bytes of all buffers at the last commit; a commit fills another block and exchanges the two, so it is
// always whole. Without an owner nobody waits who has not been given it.
// The owner's death: the supervisor copies the committed bytes back and gives it to the first who waits, or to nobody; an
// actor that will be restarted stays the owner, in a new epoch. A waiter's death: it is unlinked, and what it was given
// goes to the next. The actor's end before it ever came: whoever looks next, in the guard.
enum OwnerEnd : u32 { OWNER_DIED = 1, OWNER_TASK_ENDED = 2 };
struct alignas(64) Ownership {
  WaitQueue q;                   // claims, oldest first; one whose `result` is not 0 was given it and has not looked
  std::atomic<Handle> actor;     // no reference: its generation tells whether it still exists
  std::atomic<u64> host;         // Slot::epoch << 32 | slot + 1
  std::atomic<u64> epoch;
  std::atomic<u32> requests;     // of the waiters, those that the owner is to hear of
  u32 died;                      // OwnerEnd: the last owner ended so, and nobody has been told
  Offset committed;
  u64 commits;                   // times, the first value included
  u64 ticket;                    // of the copy that is committed, among those of this epoch: Client::commit_tickets
  u64 since_ns;                  // when the epoch began
  u64 died_ns, died_epoch;
  i32 died_pid;
  u32 pad;
  char died_label[48];
};
static_assert(sizeof(Ownership) == 192);

// First bytes of a payload block. Contained references are counted one by one (`nrefs` moves together with the
// target's `contained`), so that a dead maker or disposer leaves an exact count behind.
// Then: Handle refs[nrefs_max]; BufferSpan buffers[nbuffers]; meta bytes; buffers, each 64-byte aligned.
struct Payload {
  u32 format;
  u32 nrefs, nrefs_max;
  u32 nbuffers;
  u64 meta;       // offset from the payload
  u64 meta_size;
};
struct BufferSpan {
  u64 start;  // offset from the payload
  u64 size;
};

// A payload of KIND_VALUE of at least SPILL_FROM bytes begins with this. It can leave memory for the spill file while no
// process looks at it: so before a process looks it sets its bit, with the first of its views, and clears it with the last.
//   viewers, spiller: [lock Entry::lock].    used_ns: [word] a hint, when somebody began or ceased to look.
//   FLAG_SPILLED: Entry::payload is the place in the file, | (slot + 1) << SPILL_MARK of a process that reads it back.
// The viewer's death: the supervisor clears its bit. The spiller's: see SpillJob.
struct alignas(64) Large {
  Payload head;
  std::atomic<u64> used_ns;
  u32 spiller;  // slot + 1 of the process that writes it out at present
  u32 pad[5];
  std::atomic<u64> viewers[MAX_PROCESSES / 64];
};
static_assert(sizeof(Large) == 128);
constexpr u32 SPILL_MARK = 48;

// The spill file: one per session, without a name. Address space in it costs nothing, so it is divided into segments, in
// which extents are cut one after the other; what is freed becomes a hole at once, and a segment is used again from its
// start when none of its extents is left. An extent counts in every segment that it touches. [lock]
struct alignas(64) Spill {
  SpinLock lock;
  u32 segment;  // where extents are cut
  u64 next;     // the first unused byte in it
  std::atomic<u64> bytes, objects;  // in the file now, payloads only
  // For statistics: bytes and ns since the start [word]
  std::atomic<u64> written, write_ns, read, read_ns, writes, reads;
  u32 live[SPILL_SEGMENTS];
};

// ---------------------------------------------------------------------------------------------- memory

enum PageState : u8 { PAGE_FREE = 0, PAGE_RUN = 1, PAGE_SPAN = 2 };
enum Warmth : u8 { COLD_SOME = 1, WARM_SOME = 2 };

// One per page of the heap. The first and last page of a run carry its description; each page of a span
// (a run cut into small blocks) knows the span's first page. [lock Heap::lock], for spans also [lock Heap::classes]
struct PageInfo {
  u8 state;
  u8 cls;
  u8 warmth;    // COLD_SOME: some page may not be committed, commit before use; WARM_SOME: some page is
  u8 pad;
  u32 len;      // pages, valid in the first page
  u32 first;    // first page of the run, valid in the first and last page (spans: in all)
  u32 prev, next;   // free runs: list of the bin; spans: list of spans of the class with a free block
  u32 free_head;    // spans: 1 + index of a free block (list through their first word, offsets)
  u16 nfree;        // spans: blocks in the list
  u16 fresh;        // spans: blocks never handed out start here
  u32 freed_at;     // free runs: seconds, for giving memory back
};
static_assert(sizeof(PageInfo) == 32);

struct alignas(64) SizeClass {
  SpinLock lock;
  u32 partial;  // first page of a span with a free block; 0 = none (page 0 is never a span)
};

struct alignas(64) Heap {
  SpinLock lock;
  u32 pages_limit;  // pages of the heap
  u32 top;          // pages from here on were never used
  u32 bins[NUM_BINS];   // free runs, newest first
  u64 nonempty;     // bit per bin
  std::atomic<u64> used;       // pages in use; written under lock
  std::atomic<u64> peak;
  std::atomic<u64> warm_free;  // pages of free runs that hold committed memory: what trim() can give back
  std::atomic<u64> trims;      // pieces given back to the system so far: page tables filled before may have holes since
  std::atomic<u32> starving;   // [word] 1: somebody waits for memory, see pressure.cpp
  std::atomic<u64> starved[MAX_PROCESSES / 64];  // [word] those who do
  std::atomic<u32> trim_armed; // [word] 1: the supervisor knows that there is something to give back
  u32 info_committed;          // page descriptions below this are committed
  u64 wait_ns;                 // how long a process waits for memory at most; constant
  SizeClass classes[NUM_CLASSES];
  alignas(64) SpinLock entry_lock;
  u32 entry_head;   // free entries [lock entry_lock]
  u32 entry_free;   // their number
  std::atomic<u32> entry_top;    // entries from here on were never used
  u32 entry_committed;
};

// ----------------------------------------------------------------------------------------------- tasks

enum TaskState : u32 { TASK_BUILDING = 0, TASK_WAITING = 1, TASK_QUEUED = 2, TASK_RUNNING = 3, TASK_DROPPED = 4 };
enum TaskKind : u16 { TASK_NORMAL = 0, TASK_CREATE_ACTOR = 1, TASK_ACTOR_CALL = 2 };
enum TaskFlags : u16 { TASK_STREAMING = 1, TASK_DYNAMIC = 2, TASK_CANCELLED = 4, TASK_RETRY_EXCEPTIONS = 8,
                       TASK_ALONE = 16,  // not to be run inside another one: what it does to its process is its own
                       TASK_TIMED = 32,  // it has a timeout_ms
                       TASK_RETRY_TIMEOUT = 64,  // a run that took too long is followed by another, as far as `retries` goes
                       // Set while it runs, under its lock, by who wants it to end; all but FORCED interrupt it.
                       TASK_TIMED_OUT = 128,
                       TASK_FORCED = 256,     // by the end of its process
                       TASK_RECURSIVE = 512,  // and those that it has submitted with it
                       TASK_INTERRUPT = 4096,  // it has still to be interrupted; its process takes this mark away as it does so
                       // Set with Actor::saved: its effect is in there and its returns are complete, if not sealed yet.
                       TASK_SAVED = 1024,
                       TASK_SAVED_FAILED = 2048 };  // ... they hold an exception

// A reference held by a task; if `waiting`, a node in the dependents' list of its object. [lock the object's Entry]
struct Dep {
  Handle object;
  Offset next;   // next Dep of the same object
  Offset task;
  u32 waiting;
  u32 pad;
};

// A call: one block, laid out Task, Dep deps[ndeps_max], Handle returns[nreturns_max], argument bytes.
// Written by the submitter until it is queued; then by whoever has unlinked it from its queue under that
// queue's lock. The executing process has it in Slot::running; when that process dies the supervisor queues it
// again or fails its returns.
struct Task {
  u64 id;
  SpinLock lock;            // guards `unready`, and `flags` while it runs
  std::atomic<u32> state;   // TaskState, changed under the lock of the queue it is in
  std::atomic<u32> unready; // [lock] dependencies not finished yet, + 1 while it is being submitted
  u32 runner;               // slot + 1 of the process that executes it
  u16 kind, flags;
  u32 shape;
  u32 caller;               // slot
  i32 retries;              // left; -1 = without end
  u32 attempt;
  u32 ndeps, ndeps_max;     // references counted so far / room
  u32 nreturns, nreturns_max;
  u32 method;               // actor calls: index of the method
  Handle function;          // the pickled function or class
  Handle actor;
  Offset qnext, qprev;      // [lock of the queue] ready queue or mailbox; [slot] Slot::running
  u64 args_size;
  u8 streamed;              // [slot] 1: items of a generator are out, to run it again would repeat them
  u8 spawned;               // [slot] 1: it has submitted tasks
  u16 pad;
  u32 timeout_ms;           // TASK_TIMED: how long it may run
  u64 parent;               // the id of the task that submitted it; 0: none did
  Handle scratch;           // [slot] a streaming generator's next return, see stream_next()
};

// Ready tasks with the same demand, oldest first.
struct alignas(64) Shape {
  SpinLock lock;
  std::atomic<u32> length;  // [lock] written; read by anybody as a hint
  Offset head, tail;        // [lock]
  u32 ndemands;             // constant once Scheduler::nshapes covers it, as is all below
  u16 resource[MAX_DEMANDS];
  u32 cpu_only;             // nothing but CPU is demanded
  i64 amount[MAX_DEMANDS];
};

struct Resource {
  char name[64];
  // [lock Scheduler::lock] in 1/10000; `available` may be negative: a worker that goes on after a wait takes its CPU back
  i64 total;
  std::atomic<i64> available;
};

struct alignas(64) Scheduler {
  SpinLock lock;
  std::atomic<u32> nshapes;
  u32 nresources;
  u32 pad;
  std::atomic<u64> next_task;
  alignas(64) std::atomic<u64> idle[MAX_PROCESSES / 64];      // workers asleep; cleared by whoever wakes one
  alignas(64) std::atomic<u64> spinning[MAX_PROCESSES / 64];  // workers looking for work without sleeping
  alignas(64) std::atomic<u64> awake[MAX_PROCESSES / 64];     // processes that are not asleep in a wait
  Resource resources[MAX_RESOURCES];  // CPU is always the first, GPU the second
  i64 gpu_available[MAX_GPUS];        // [lock] of each GPU, in 1/10000
  Shape shapes[MAX_SHAPES];
};

// ---------------------------------------------------------------------------------------------- actors

enum ActorState : u32 { ACTOR_PENDING = 0, ACTOR_ALIVE = 1, ACTOR_RESTARTING = 2, ACTOR_DEAD = 3 };

// An actor: the payload of an entry of KIND_ACTOR. The mailbox holds calls in the order of their submission.
// head, tail, count, unready, state: [lock Actor::lock]. The host's death: the supervisor fails the calls, or
// starts the actor again.
struct alignas(64) Actor {
  SpinLock lock;
  std::atomic<u32> state;
  std::atomic<u32> count;    // calls in the mailbox
  std::atomic<u32> unready;  // of which wait for an argument
  Offset head, tail;
  std::atomic<u32> slot;     // of its process, valid when ALIVE
  std::atomic<u32> closing;  // [word] 1: no handle is left, finish the mailbox and leave; 2: exit now; 3: it leaves
  i32 restarts;              // left
  i32 max_pending;           // calls; < 0: any number
  i32 task_retries;          // of a call, for handles that are found by name
  Offset creation;           // the creation task's record, kept for a restart
  Handle class_object;
  Handle death;              // [lock] the exception that its calls get
  u32 shape;
  u32 life;                  // references of the actor to itself until it is dead: 1, a detached one 2. Changed with `contained`
  u32 submitted;             // 1: its creation is on its way; else its maker's death leaves it unborn, see sweep()
  std::atomic<u32> kill;     // [word] 1: its present process is to be killed and takes no call any more; the actor may start again
  Handle saved;              // [lock] what its class's __shoal_save__ gave last, one `contained`; only its host changes it
  char name[MAX_NAME];       // class name, for people
};

// ---------------------------------------------------------------------------------------------- queues

// A queue of objects: the payload of an entry of KIND_QUEUE. `items` is a block of its own, a ring of `room` handles of
// which those from `head` to `tail` (counted from the beginning of time) are in the queue; each counts as one
// `contained` of its object. An item goes in, or comes out into the hands of the getter, in one transaction, so the
// death of either side neither loses nor doubles one. All [lock]; the counts are read by anybody as a hint.
struct alignas(64) Queue {
  SpinLock lock;
  u32 limit;        // items; 0 = no limit
  std::atomic<u64> head, tail;
  Offset items;
  u64 room;
  u32 getter, putter;  // who waits for an item, for room: as Entry::waiter
  u64 pad;
};

// A dictionary: the payload of an entry of KIND_TABLE. Nodes hang in the lists of a hash table and in one list in the order
// of their insertion; each counts as one `contained` of its value. The hash table grows by a second one of twice the
// size, into which every change moves a few lists, so that no change is long. All [lock].
struct TableNode {
  Offset next;           // of the hash list
  Offset before, after;  // in the order of insertion
  Handle value;
  u64 hash;
  u32 length;
  u32 pad;
  char key[8];
};
struct alignas(64) Table {
  SpinLock lock;
  u32 pad0;
  std::atomic<u64> count;
  Offset buckets[2];     // [1] is 0, or the larger table that is being filled
  u64 size[2];
  u64 moved;             // lists of [0] below this are in [1]
  Offset first, last;
  u64 pad[6];
};

// -------------------------------------------------------------------------------------------- versions

// A cell with the newest version of a value: the payload of an entry of KIND_VERSIONED. A writer changes `current` and
// `version` in one transaction; a reader takes a reference to `current` under the same lock, or none at all if it
// finds `version` to be that of what it holds. Read without the lock, `version` is a hint that a repair may take back.
// A writer's death leaves the version before its own, and an object that nobody refers to: its holder bit was all.
struct alignas(64) Cell {
  SpinLock lock;
  u32 pad;
  std::atomic<u64> version;         // [lock] counts the publications
  Handle current;                   // [lock] one `contained` of that object
  u64 waiters[MAX_PROCESSES / 64];  // [lock] processes to ring when the next version comes; a bit too many is harmless
};
static_assert(sizeof(Cell) == 128);

// ----------------------------------------------------------------------------------------------- names

// name -> object. A node is a block in a bucket's list [lock Names::lock]; it holds one `contained` of the object.
struct NameNode {
  Offset next;
  Handle object;
  u32 space;   // what it names, NameSpace
  u32 length;
  char bytes[8];
};
enum NameSpace : u32 { NAMES_ACTOR = 1, NAMES_LOCK = 2, NAMES_FUNCTION = 3, NAMES_OBJECT = 4, NAMES_SYNC = 5 };

struct alignas(64) Names {
  SpinLock lock;
  u32 count;
  Offset bucket[NAME_BUCKETS];
};

// ---------------------------------------------------------------------------------------------- header

struct Statistics {  // [word] each
  std::atomic<u64> tasks_submitted, tasks_finished, tasks_failed, deaths, lock_deaths;
};

struct Header {
  u64 magic;
  u32 version;
  u32 cpus;                   // processes that may spin at a time
  u64 bytes;                  // of the arena
  Offset slots, entries, pages, heap_base;
  u64 session;                // random; part of every pickled handle
  std::atomic<u32> stopping;  // [word] 1: the session is being shut down
  std::atomic<u32> dead;      // [word] 1: the supervisor is gone, nothing will be repaired any more
  std::atomic<u32> wanted;    // [word] 1: the supervisor was rung and has not looked yet
  std::atomic<u32> slots_top; // slots from here on were never used
  std::atomic<u32> actors;    // [lock Scheduler::lock] that live or will; read without it as a hint for the limit of processes
  std::atomic<u32> slots_committed;  // [word] slots below this have memory
  std::atomic<u32> unwatched;  // [word] 1: nobody watches the memory, as no task runs; who takes one rings the supervisor
  std::atomic<u32> crowd;     // [word] 1: tasks wait and workers sleep, as no core is free; the supervisor looks in a moment
  std::atomic<i32> supervisor_status;  // [word] how the supervisor ended, by who saw that, before `dead`: see how_it_ended()
  std::atomic<u64> watched;   // [word] the supervisor looks at the Slot::deadlines again at this time; 0: ring it
  Handle config;              // the session's settings, made by the driver before the supervisor starts
  char end_reason[256];       // written once, by the supervisor, before it ends of its own accord; read once `dead` is set
  Statistics stats;
  Heap heap;
  Spill spill;
  Scheduler sched;
  Names names;
};

}  // namespace shoal
