// Queues of objects. Locks: Queue::lock before Entry::lock.
#include "client.h"

namespace shoal {

constexpr u64 FIRST_ROOM = 64;

static u32 also(u32 waiter, u32 slot) { return waiter == 0 || waiter == slot + 1 ? slot + 1 : WAITER_MANY; }

static void ring_waiter(Client& c, u32 waiter) {
  if (waiter == WAITER_MANY) {
    for (u32 s = 0, n = c.h->slots_top.load(); s < n; s++)
      if (c.slots[s].state.load(std::memory_order_relaxed) == SLOT_ALIVE) c.ring(s);
  } else if (waiter) {
    c.ring(waiter - 1);
  }
}

Handle Client::create_queue(u32 limit) {
  Handle h = create(KIND_QUEUE);
  try {
    begin_payload(h, FORMAT_PICKLE, 0, 0, 0, nullptr);
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
  u64 room = q->room ? q->room * 2 : FIRST_ROOM;
  u64 size = room * sizeof(Handle);
  for (;;) {
    ensure_block(size);
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
    return;
  }
}

bool Client::queue_put(Queue* q, Handle item) {
  for (;;) {
    u32 getter;
    {
      Entry& e = entry(item);
      Tx tx(*this);
      tx.lock(q->lock);
      u64 head = q->head.load(std::memory_order_relaxed), tail = q->tail.load(std::memory_order_relaxed);
      if (q->limit && tail - head >= q->limit) return false;
      if (tail - head < q->room) {
        at<Handle>(q->items)[tail % q->room] = item;
        tx.lock(e.lock);
        tx.set(e.contained, e.contained + 1);
        bool last = local[index_of(item)] == 1;
        if (last) {  // our reference becomes the queue's
          auto& word = e.holder_bits[slot / 64];
          tx.set(word, word.load(std::memory_order_relaxed) & ~(1ull << slot % 64));
          tx.set(e.holders, e.holders - 1);
        }
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
      ring_waiter(*this, getter);
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
    Entry& e = entry(item);
    tx.lock(e.lock);
    tx.set(e.contained, e.contained - 1);
    if (!local[index_of(item)]) {
      auto& word = e.holder_bits[slot / 64];
      tx.set(word, word.load(std::memory_order_relaxed) | 1ull << slot % 64);
      tx.set(e.holders, e.holders + 1);
    }
    putter = q->putter;
    if (putter) tx.set(q->putter, 0u);
    tx.set(q->head, head + 1);
    tx.commit();
    local[index_of(item)]++;
  }
  ring_waiter(*this, putter);
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

}  // namespace shoal
