// Dictionaries. Locks: Table::lock before Entry::lock. Growth in small steps as in Redis' dict.
#include "client.h"

namespace shoal {

constexpr u64 FIRST_SIZE = 64;
constexpr u32 MOVE_NODES = 12;  // of the old hash table with each change

static Offset* bucket(Client& c, Table* t, int which, u64 hash) { return c.at<Offset>(t->buckets[which]) + hash % t->size[which]; }

// [lock] The link to the node of that key, or nullptr.
static Offset* find(Client& c, Table* t, u64 hash, std::string_view key) {
  for (int which = 0; which < 2; which++) {
    if (!t->buckets[which]) continue;
    for (Offset* link = bucket(c, t, which, hash); *link; link = &c.at<TableNode>(*link)->next) {
      auto* n = c.at<TableNode>(*link);
      if (n->hash == hash && n->length == key.size() && !std::memcmp(n->key, key.data(), key.size())) return link;
    }
  }
  return nullptr;
}

Handle Client::create_table(Handle lock) {  // see create_queue
  Handle h = create(KIND_TABLE);
  try {
    begin_payload(h, FORMAT_PICKLE, lock ? 1 : 0, 0, 0, nullptr);
    if (lock) contain(h, lock);
    Table* t = table(h);
    u64 bytes = FIRST_SIZE * sizeof(Offset);
    ensure_block(bytes);
    Tx tx(*this);
    Offset block = alloc_block(tx, bytes);
    tx.set(*at<Offset>(block), Offset(0));
    std::memset(at<Offset>(block) + 1, 0, bytes - sizeof(Offset));
    tx.set(t->size[0], FIRST_SIZE);
    tx.set(t->buckets[0], block);
    tx.commit();
  } catch (...) {
    release(h);
    throw;
  }
  publish(h, false);
  return h;
}

// One change of its own: starts a larger hash table when the present one is full, or moves some of its lists on.
void Client::table_step(Table* t) {
  u64 bytes = 0;
  {
    Tx tx(*this);
    tx.lock(t->lock);
    if (t->buckets[1]) {
      u32 nodes = 0;
      while (t->moved < t->size[0] && nodes < MOVE_NODES) {
        Offset* from = at<Offset>(t->buckets[0]) + t->moved;
        if (!*from) {
          tx.set(t->moved, t->moved + 1);
          if (++nodes == MOVE_NODES) break;
          continue;
        }
        Offset o = *from;
        auto* n = at<TableNode>(o);
        Offset* to = bucket(*this, t, 1, n->hash);
        tx.set(*from, n->next);
        tx.set(n->next, *to);
        tx.set(*to, o);
        nodes++;
      }
      if (t->moved == t->size[0]) {
        free_block(tx, t->buckets[0]);
        tx.set(t->buckets[0], t->buckets[1]);
        tx.set(t->size[0], t->size[1]);
        tx.set(t->buckets[1], Offset(0));
        tx.set(t->moved, u64(0));
      }
      tx.commit();
    } else if (t->count.load(std::memory_order_relaxed) > t->size[0]) {
      bytes = t->size[0] * 2 * sizeof(Offset);
    }
  }
  if (!bytes) return;
  ensure_block(bytes);
  Tx tx(*this);
  tx.lock(t->lock);
  if (t->buckets[1] || t->size[0] * 2 * sizeof(Offset) != bytes) return;
  Offset block = alloc_block(tx, bytes);
  commit_block(block, bytes);
  tx.set(*at<Offset>(block), Offset(0));
  std::memset(at<Offset>(block) + 1, 0, bytes - sizeof(Offset));
  tx.set(t->size[1], t->size[0] * 2);
  tx.set(t->moved, u64(0));
  tx.set(t->buckets[1], block);
  tx.commit();
}

bool Client::table_set(Table* t, u64 hash, std::string_view key, Handle value, bool replace) {
  u64 size = sizeof(TableNode) + key.size();
  ensure_block(size);
  Handle old = 0;
  bool dead = false;
  {
    Tx tx(*this);
    tx.lock(t->lock);
    if (Offset* link = find(*this, t, hash, key)) {
      if (!replace) return false;
      auto* n = at<TableNode>(*link);
      old = n->value;
      dead = exchange(tx, value, old);
      tx.set(n->value, value);
      tx.commit();
      local[index_of(value)]--;
    } else {
      take_over(tx, value);  // before the block: the heap's lock comes last
      Offset block = alloc_block(tx, size);
      if (size > SMALL_LIMIT) commit_block(block, size);
      auto* n = at<TableNode>(block);
      Offset* head = bucket(*this, t, t->buckets[1] ? 1 : 0, hash);
      tx.set(n->next, *head);  // the free list's link lies here: journal it
      n->before = t->last;
      n->after = 0;
      n->value = value;
      n->hash = hash;
      n->length = u32(key.size());
      std::memcpy(n->key, key.data(), key.size());
      if (t->last) tx.set(at<TableNode>(t->last)->after, block);
      else tx.set(t->first, block);
      tx.set(t->last, block);
      tx.set(*head, block);
      tx.set(t->count, t->count.load(std::memory_order_relaxed) + 1);
      tx.commit();
      local[index_of(value)]--;
    }
  }
  if (dead) dispose(old);
  table_step(t);
  return true;
}

Handle Client::table_get(Table* t, u64 hash, std::string_view key) {
  Tx tx(*this);
  tx.lock(t->lock);
  Offset* link = find(*this, t, hash, key);
  if (!link) return 0;
  Handle value = at<TableNode>(*link)->value;
  hand_out(tx, value, true);
  tx.commit();
  local[index_of(value)]++;
  return value;
}

static void unlink(Tx& tx, Table* t, Offset* link) {  // [lock]
  Client& c = tx.client;
  Offset o = *link;
  auto* n = c.at<TableNode>(o);
  tx.set(*link, n->next);
  if (n->before) tx.set(c.at<TableNode>(n->before)->after, n->after);
  else tx.set(t->first, n->after);
  if (n->after) tx.set(c.at<TableNode>(n->after)->before, n->before);
  else tx.set(t->last, n->before);
  tx.set(t->count, t->count.load(std::memory_order_relaxed) - 1);
  c.free_block(tx, o);
}

Handle Client::table_pop(Table* t, u64 hash, std::string_view key) {
  Handle value;
  {
    Tx tx(*this);
    tx.lock(t->lock);
    Offset* link = find(*this, t, hash, key);
    if (!link) return 0;
    value = at<TableNode>(*link)->value;
    hand_out(tx, value, false);
    unlink(tx, t, link);
    tx.commit();
    local[index_of(value)]++;
  }
  if (surplus) trim_caches();
  return value;
}

bool Client::table_pop_end(Table* t, bool last, std::string* key, Handle* value) {
  {
    Tx tx(*this);
    tx.lock(t->lock);
    Offset o = last ? t->last : t->first;
    if (!o) return false;
    auto* n = at<TableNode>(o);
    key->assign(n->key, n->length);
    *value = n->value;
    hand_out(tx, *value, false);
    unlink(tx, t, find(*this, t, n->hash, *key));
    tx.commit();
    local[index_of(*value)]++;
  }
  if (surplus) trim_caches();
  return true;
}

// The keys of one moment, in the order of insertion.
std::vector<std::string> Client::table_keys(Table* t) {
  std::vector<std::string> out;
  out.reserve(t->count.load());
  Tx tx(*this);
  tx.lock(t->lock);
  for (Offset o = t->first; o; o = at<TableNode>(o)->after) out.emplace_back(at<TableNode>(o)->key, at<TableNode>(o)->length);
  tx.commit();
  return out;
}

bool Client::table_drop_one(Table* t, Handle* dead) {
  *dead = 0;
  Tx tx(*this);
  Offset o = t->first;
  if (o) {
    auto* n = at<TableNode>(o);
    Handle value = n->value;
    if (drop_contained_tx(tx, value)) *dead = value;
    unlink(tx, t, find(*this, t, n->hash, std::string_view(n->key, n->length)));
    tx.commit();
    return true;
  }
  for (auto& b : t->buckets)
    if (b) {
      free_block(tx, b);
      tx.set(b, Offset(0));
    }
  tx.commit();
  return false;
}

}  // namespace shoal
