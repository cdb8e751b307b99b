// Names of actors, locks and functions: a hash table of short lists under one lock; no hot path uses it.
// A name of an actor does not keep it alive; every other name does.
#include "client.h"

namespace shoal {

static u32 bucket_of(NameSpace space, std::string_view name) {
  u64 x = 1469598103934665603ull ^ space;  // FNV-1a
  for (char c : name) x = (x ^ u8(c)) * 1099511628211ull;
  return u32(x ^ x >> 32) % NAME_BUCKETS;
}

static NameNode* find(Client& c, NameSpace space, std::string_view name, Offset** link) {
  Offset* at = &c.h->names.bucket[bucket_of(space, name)];
  for (; *at; at = &c.at<NameNode>(*at)->next) {
    auto* n = c.at<NameNode>(*at);
    if (n->space == space && n->length == name.size() && !std::memcmp(n->bytes, name.data(), name.size())) {
      *link = at;
      return n;
    }
  }
  *link = at;
  return nullptr;
}

// [Entry::lock, or a reference] Named, but it takes no more calls; one that merely has no handle left can be found again,
// and stays then.
bool Client::actor_over(Handle handle) const {
  return !sealed(handle) || actor(handle)->closing.load() >= 2 || actor(handle)->state.load() == ACTOR_DEAD;
}

bool Client::name_set(NameSpace space, std::string_view name, Handle object) {
  if (name.size() > 4096) throw Error(Error::INVALID, "a name may have at most 4096 bytes");
  u64 size = sizeof(NameNode) + name.size();
  ensure_block(size);
  Tx tx(*this);
  tx.lock(h->names.lock);
  Offset* link;
  if (NameNode* taken = find(*this, space, name, &link)) {
    if (space != NAMES_ACTOR) return false;
    tx.lock(entry(taken->object).lock);
    if (!actor_over(taken->object)) return false;
    tx.set(taken->object, object);  // its name will be taken away from it soon
  } else {
    if (space != NAMES_ACTOR) {
      Entry& e = entry(object);
      tx.lock(e.lock);
      tx.set(e.contained, e.contained + 1);
    }
    Offset block = alloc_block(tx, size);
    auto* n = at<NameNode>(block);
    tx.set(n->next, Offset(0));  // the free list's link lies here: journal it
    n->object = object;
    n->space = space;
    n->length = u32(name.size());
    std::memcpy(n->bytes, name.data(), name.size());
    tx.set(*link, block);
    tx.set(h->names.count, h->names.count + 1);
  }
  tx.commit();
  return true;
}

// hold: the handle returned counts as one more reference of this process.
Handle Client::name_get(NameSpace space, std::string_view name, bool hold) {
  Handle object = 0;
  {
    Tx tx(*this);
    tx.lock(h->names.lock);
    Offset* link;
    NameNode* n = find(*this, space, name, &link);
    if (!n) return 0;
    object = n->object;
  }
  try {
    acquire(object);
  } catch (const Error&) {
    return 0;  // gone between the two steps
  }
  bool over = space == NAMES_ACTOR && actor_over(object);  // it decided to leave before it could see us
  if (over || !hold) release(object);
  return over ? 0 : object;
}

bool Client::name_remove(NameSpace space, std::string_view name, Handle object) {
  bool dead = false;
  {
    Tx tx(*this);
    tx.lock(h->names.lock);
    Offset* link;
    NameNode* n = find(*this, space, name, &link);
    if (!n || (object && n->object != object)) return false;
    object = n->object;
    if (space != NAMES_ACTOR) dead = drop_contained_tx(tx, object);
    tx.set(*link, n->next);
    tx.set(h->names.count, h->names.count - 1);
    free_block(tx, offset(n));
    tx.commit();
  }
  if (dead) dispose(object);
  if (!to_ring.empty()) after_tx();
  return true;
}

std::vector<std::pair<std::string, Handle>> Client::name_list(NameSpace space) {
  std::vector<std::pair<std::string, Handle>> all;
  Tx tx(*this);
  tx.lock(h->names.lock);
  for (Offset head : h->names.bucket)
    for (Offset o = head; o; o = at<NameNode>(o)->next) {
      auto* n = at<NameNode>(o);
      if (n->space == space) all.emplace_back(std::string(n->bytes, n->length), n->object);
    }
  return all;
}

std::string Client::name_of(Handle object) {
  Tx tx(*this);
  tx.lock(h->names.lock);
  for (Offset head : h->names.bucket)
    for (Offset o = head; o; o = at<NameNode>(o)->next) {
      auto* n = at<NameNode>(o);
      if (n->object == object && (n->space == NAMES_LOCK || n->space == NAMES_SYNC)) return std::string(n->bytes, n->length);
    }
  return "";
}

}  // namespace shoal
