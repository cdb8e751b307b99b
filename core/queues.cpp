// Queues of objects. Locks: Queue::lock before Entry::lock.
#include <algorithm>

#include "client.h"

namespace shoal {

constexpr u64 FIRST_ROOM = 64;

static u32 also(u32 waiter, u32 slot) { return waiter == 0 || waiter == slot + 1 ? slot + 1 : WAITER_MANY; }

// [lock of the container] Locks the item's entry.
void Client::take_over(Tx& tx, Handle item) {
  tx.lock(entry(item).lock);
  count_in(tx, item);
}

// [lock of the container] `item` comes and `old` goes; true: nothing refers to `old` any more. These are the only two
// entries that are ever locked together, the lower index first. They may be the same: then only our reference goes.
bool Client::exchange(Tx& tx, Handle item, Handle old) {
  tx.lock(entry(index_of(item) < index_of(old) ? item : old).lock);
  if (item != old) tx.lock(entry(index_of(item) < index_of(old) ? old : item).lock);
  count_in(tx, item);
  tx.set(entry(old).contained, entry(old).contained - 1);
  return unreferenced(tx, old);
}

void Client::count_in(Tx& tx, Handle item) {  // [Entry::lock]
  Entry& e = entry(item);
  tx.set(e.contained, e.contained + 1);
  if (local[index_of(item)] != 1) return;
  auto& word = e.holder_bits[slot / 64];
  tx.set(word, word.load(std::memory_order_relaxed) & ~(1ull << slot % 64));
  tx.set(e.holders, e.holders - 1);
}

void Client::hand_out(Tx& tx, Handle item, bool keep) {
  Entry& e = entry(item);
  tx.lock(e.lock);
  if (!keep) tx.set(e.contained, e.contained - 1);
  if (local[index_of(item)]) return;
  auto& word = e.holder_bits[slot / 64];
  tx.set(word, word.load(std::memory_order_relaxed) | 1ull << slot % 64);
  tx.set(e.holders, e.holders + 1);
}

// `lock`, if there is one, lives as long as the queue; its only reference in the payload.
Handle Client::create_queue(u32 limit, Handle lock) {
  Handle h = create(KIND_QUEUE);
  try {
    begin_payload(h, FORMAT_PICKLE, lock ? 1 : 0, 0, 0, nullptr);
    if (lock) contain(h, lock);
    Queue* q = queue(h);
    q->limit = limit;
    queue_grow(q);
  } catch (...) {
    release(h);
    throw;
  }
  publish(h, false);
  return h;
}

// Twice the room: a new block, the items copied, the old block freed, all in one change.
void Client::queue_grow(Queue* q) {
  u64 now = peek(q->room), room = now ? now * 2 : FIRST_ROOM;
  u64 size = room * sizeof(Handle);
  with_room(size, false, [&] {
    fill_cache(size);
    Tx tx(*this);
    tx.lock(q->lock);
    if (q->room >= room) return;  // somebody else was quicker
    Offset block = alloc_block(tx, size);
    if (size > SMALL_LIMIT) commit_block(block, size);
    // The free list's link lies in the first word: journal it. The rest is nobody's.
    auto* to = at<Handle>(block);
    tx.set(to[0], Handle(0));
    u64 head = q->head.load(), tail = q->tail.load();
    for (u64 k = head; k < tail; k++) {
      if (k % room == 0) tx.set(to[0], at<Handle>(q->items)[k % q->room]);
      else to[k % room] = at<Handle>(q->items)[k % q->room];
    }
    Offset old = q->items;
    tx.set(q->items, block);
    tx.set(q->room, room);
    if (old) free_block(tx, old);
    tx.commit();
  });
}

bool Client::queue_put(Queue* q, Handle item) {
  for (;;) {
    u32 getter;
    {
      Tx tx(*this);
      tx.lock(q->lock);
      u64 head = q->head.load(std::memory_order_relaxed), tail = q->tail.load(std::memory_order_relaxed);
      if (q->limit && tail - head >= q->limit) return false;
      if (tail - head < q->room) {
        at<Handle>(q->items)[tail % q->room] = item;
        take_over(tx, item);
        getter = q->getter;
        if (getter) tx.set(q->getter, 0u);
        tx.set(q->tail, tail + 1);
        tx.commit();
        local[index_of(item)]--;
      } else {
        getter = WAITER_MANY - 1;
      }
    }
    if (getter != WAITER_MANY - 1) {
      ring_waiter(getter);
      return true;
    }
    queue_grow(q);
  }
}

Handle Client::queue_get(Queue* q) {
  Handle item;
  u32 putter;
  {
    Tx tx(*this);
    tx.lock(q->lock);
    u64 head = q->head.load(std::memory_order_relaxed);
    if (head == q->tail.load(std::memory_order_relaxed)) return 0;
    item = at<Handle>(q->items)[head % q->room];
    hand_out(tx, item, false);
    putter = q->putter;
    if (putter) tx.set(q->putter, 0u);
    tx.set(q->head, head + 1);
    tx.commit();
    local[index_of(item)]++;
  }
  ring_waiter(putter);
  return item;
}

bool Client::queue_watch(Queue* q, bool get) {
  Tx tx(*this);
  tx.lock(q->lock);
  u64 n = q->tail.load(std::memory_order_relaxed) - q->head.load(std::memory_order_relaxed);
  if (get ? n > 0 : !q->limit || n < q->limit) return false;
  if (get) tx.set(q->getter, also(q->getter, slot));
  else tx.set(q->putter, also(q->putter, slot));
  tx.commit();
  return true;
}

bool Client::queue_drop_first(Queue* q, Handle* dead) {
  *dead = 0;
  u64 head = q->head.load();
  Tx tx(*this);
  if (head == q->tail.load()) {
    if (!q->items) return false;
    free_block(tx, q->items);
    tx.set(q->items, Offset(0));
    tx.commit();
    return false;
  }
  Handle item = at<Handle>(q->items)[head % q->room];
  if (drop_contained_tx(tx, item)) *dead = item;
  tx.set(q->head, head + 1);
  tx.commit();
  return true;
}

// -- the same as a list: places counted from the front, negative ones from the end

static bool place(Queue* q, i64 index, u64* at) {  // [Queue::lock]
  u64 head = q->head.load(std::memory_order_relaxed), n = q->tail.load(std::memory_order_relaxed) - head;
  if (index < 0) index += i64(n);
  if (index < 0 || u64(index) >= n) return false;
  *at = head + u64(index);
  return true;
}

Handle Client::queue_at(Queue* q, i64 index) {
  u64 at_;
  Tx tx(*this);
  tx.lock(q->lock);
  if (!place(q, index, &at_)) return 0;
  Handle item = at<Handle>(q->items)[at_ % q->room];
  hand_out(tx, item, true);
  tx.commit();
  local[index_of(item)]++;
  return item;
}

bool Client::queue_set(Queue* q, i64 index, Handle item) {
  u64 at_;
  Handle old;
  bool dead;
  {
    Tx tx(*this);
    tx.lock(q->lock);
    if (!place(q, index, &at_)) return false;
    Handle& where = at<Handle>(q->items)[at_ % q->room];
    old = where;
    dead = exchange(tx, item, old);
    tx.set(where, item);
    tx.commit();
    local[index_of(item)]--;
  }
  if (dead) dispose(old);
  return true;
}

// From the ends in one step; from the middle by a new block without the item, like queue_grow. `only`: not 0, and we have a
// reference to it, so that nothing else can have its handle.
Handle Client::queue_pop(Queue* q, i64 index, Handle only) {
  u64 at_;
  Handle item;
  {
    Tx tx(*this);
    tx.lock(q->lock);
    if (!place(q, index, &at_)) return 0;
    u64 head = q->head.load(std::memory_order_relaxed), tail = q->tail.load(std::memory_order_relaxed);
    item = at<Handle>(q->items)[at_ % q->room];
    if (only && item != only) return 0;
    hand_out(tx, item, false);
    if (at_ == head) tx.set(q->head, head + 1);
    else if (at_ == tail - 1) tx.set(q->tail, tail - 1);
    else rebuild(tx, q, at_, 0);
    tx.commit();
    local[index_of(item)]++;
  }
  return item;
}

bool Client::queue_insert(Queue* q, i64 index, Handle item) {
  for (;;) {
    {
      Tx tx(*this);
      tx.lock(q->lock);
      u64 head = q->head.load(std::memory_order_relaxed), n = q->tail.load(std::memory_order_relaxed) - head;
      if (n < q->room) {
        if (index < 0) index = std::max<i64>(0, index + i64(n));
        take_over(tx, item);
        rebuild(tx, q, head + std::min<u64>(u64(index), n), item);
        tx.commit();
        local[index_of(item)]--;
        return true;
      }
    }
    queue_grow(q);
  }
}

// [Queue::lock, and the item's Entry::lock: the heap's comes last] A new block with `item` before place `at_`, or without the item at that place (item 0).
void Client::rebuild(Tx& tx, Queue* q, u64 at_, Handle item) {
  Offset block;
  Handle* to = new_items(tx, q, &block);
  const auto* from = at<Handle>(q->items);
  u64 head = q->head.load(), tail = q->tail.load(), n = 0;
  for (u64 k = head; k < tail; k++) {
    if (k == at_ && item) to[n++] = item;
    if (k == at_ && !item) continue;
    to[n++] = from[k % q->room];
  }
  if (at_ == tail && item) to[n++] = item;
  swap_items(tx, q, block, n);
}

// [Queue::lock] A block of the size of that of the items.
Handle* Client::new_items(Tx& tx, Queue* q, Offset* block) {
  // The class may be refilled only outside of a change; a run of pages needs no refill.
  u64 size = std::max<u64>(q->room * sizeof(Handle), SMALL_LIMIT + 1);
  *block = alloc_block(tx, size);
  commit_block(*block, size);
  return at<Handle>(*block);
}

// [Queue::lock] It takes the place of the old block, with n items in it.
void Client::swap_items(Tx& tx, Queue* q, Offset block, u64 n) {
  free_block(tx, q->items);
  tx.set(q->items, block);
  tx.set(q->head, u64(0));
  tx.set(q->tail, n);
}

// `after`, the items in another order, if they are still those of `before`, of which the caller has references.
bool Client::queue_reorder(Queue* q, const std::vector<Handle>& before, const std::vector<Handle>& after) {
  Tx tx(*this);
  tx.lock(q->lock);
  u64 head = q->head.load(std::memory_order_relaxed), n = q->tail.load(std::memory_order_relaxed) - head;
  if (n != before.size()) return false;
  for (u64 k = 0; k < n; k++)
    if (at<Handle>(q->items)[(head + k) % q->room] != before[k]) return false;
  Offset block;
  std::copy(after.begin(), after.end(), new_items(tx, q, &block));
  swap_items(tx, q, block, n);
  tx.commit();
  return true;
}

void Client::queue_clear(Queue* q) {
  while (Handle item = queue_pop(q, -1)) release(item);
}

}  // namespace shoal
