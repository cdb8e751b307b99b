// The audit: walks the whole arena and compares every count with what it counts. For tests and debugging, at a moment
// when no participant changes anything; it returns the first few contradictions, or nothing.
#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "client.h"

namespace shoal {

namespace {

struct Audit {
  Client& c;
  std::string report{};
  u32 found = 0;
  std::unordered_set<Offset> tasks{}, blocks{};
  std::unordered_map<u32, u32> contained{};  // entry index -> references found
  std::vector<u64> cached = std::vector<u64>(NUM_CLASSES), owned = std::vector<u64>(NUM_CLASSES);
  u64 runs_owned = 0;

  void say(const std::string& text) {
    if (++found <= 20) report += text + "\n";
  }
  std::string name(Handle h) { return "object " + std::to_string(index_of(h)); }

  void block(Offset o, const std::string& who) {
    if (!blocks.insert(o).second) say(who + ": its block " + std::to_string(o) + " has another owner too");
    const PageInfo& p = c.pages[c.page_of(o)];
    if (p.state == PAGE_SPAN) owned[p.cls]++;
    else if (p.state == PAGE_RUN) runs_owned += p.len;
    else say(who + ": its block " + std::to_string(o) + " is free memory");
  }

  void task(Offset o) {
    if (!o || !tasks.insert(o).second) return;
    Task* t = c.at<Task>(o);
    std::string who = "task " + std::to_string(t->id);
    block(o, who);
    for (u32 i = 0; i < t->ndeps; i++) contained[index_of(c.deps(t)[i].object)]++;
    for (u32 i = 0; i < t->nreturns; i++) {
      Handle r = c.returns(t)[i];
      if (c.valid(r) && c.entry(r).task == o) contained[index_of(r)]++;
    }
    if (t->scratch && c.valid(t->scratch) && c.entry(t->scratch).task == o) contained[index_of(t->scratch)]++;
  }

  void heap() {
    Heap& heap = c.h->heap;
    u64 used = 0, warm = 0, spans = 0;
    std::unordered_set<u32> free_runs;
    for (u32 b = 0; b < NUM_BINS; b++)
      for (u32 p = heap.bins[b]; p; p = c.pages[p].next)
        if (!free_runs.insert(p).second) return say("heap: bin " + std::to_string(b) + " runs in a circle");
    std::vector<u64> out(NUM_CLASSES);
    for (u32 p = 1; p < heap.top; p += c.pages[p].len) {
      const PageInfo& i = c.pages[p];
      if (!i.len || i.first != p) return say("heap: page " + std::to_string(p) + " does not start a run");
      if (i.state == PAGE_FREE) {
        if (!free_runs.erase(p)) say("heap: free run " + std::to_string(p) + " is in no bin");
        if (i.warmth & WARM_SOME) warm += i.len;
      } else {
        used += i.len;
        if (i.state == PAGE_SPAN) {
          spans += i.len;
          out[i.cls] += u64(i.fresh) - i.nfree;
        }
      }
    }
    if (!free_runs.empty()) say("heap: a bin lists a run that does not exist");
    if (used != heap.used.load()) say("heap: " + std::to_string(heap.used.load()) + " pages counted as used, " + std::to_string(used) + " found");
    if (warm != heap.warm_free.load()) say("heap: warm free pages counted wrong");
    for (u32 k = 0; k < NUM_CLASSES; k++)
      if (out[k] != cached[k] + owned[k])
        say("heap: class " + std::to_string(k) + ": " + std::to_string(out[k]) + " blocks handed out, " + std::to_string(cached[k]) +
            " in caches, " + std::to_string(owned[k]) + " in use: " + std::to_string(i64(out[k] - cached[k] - owned[k])) + " lost");
    if (used != spans + runs_owned) say("heap: " + std::to_string(i64(used - spans - runs_owned)) + " pages of large blocks lost");
  }

  void slots() {
    for (u32 i = 0, n = c.h->slots_top.load(); i < n; i++) {
      Slot& s = c.slots[i];
      std::string who = "process slot " + std::to_string(i);
      if (s.state.load() == SLOT_FREE && (s.drafts[0] || s.running || s.building || s.lease)) say(who + ": free but not empty");
      if (s.journal.count && i != c.slot) say(who + ": a change is half made");
      for (u32 k = 0; k < NUM_CLASSES; k++) {
        u64 n_blocks = 0;
        for (Offset o = s.blocks[k].head; o && n_blocks <= s.blocks[k].count; o = *c.at<Offset>(o)) n_blocks++;
        if (n_blocks != s.blocks[k].count) say(who + ": cache of class " + std::to_string(k) + " counted wrong");
        cached[k] += s.blocks[k].count;
      }
      u32 n_entries = 0;
      for (u32 e = s.entry_head; e && n_entries <= s.entry_count; e = c.entries[e].next) n_entries++;
      bool alive = s.state.load() == SLOT_ALIVE;
      for (auto& w : s.waits)
        if (w.queue) {
          if (!alive) say(who + ": gone, but waits for a lock");
          waits[w.queue]++;
        }
      for (auto& hold : s.holds)
        if (hold.queue) {
          if (!alive) say(who + ": gone, but holds a lock");
          if (hold.thread && !hold.count) say(who + ": an empty record of a shared lock");
          if (!c.valid(hold.object)) say(who + ": holds a lock that does not exist");
          else held[hold.queue] += hold.count;
        }
      if (n_entries != s.entry_count) say(who + ": cache of entries counted wrong");
      free_entries += n_entries;
      for (Offset o = s.running; o; o = c.at<Task>(o)->qnext) task(o);
      if (s.building && !(s.building & 1)) task(s.building);
      for (Offset o : s.drafts)
        if (o) block(o, who);
    }
  }
  u64 free_entries = 0;
  std::unordered_map<Offset, u64> waits{}, held{};  // by what is waited for or held

  // A queue's links, and the waiters' own records of it.
  u32 queue(WaitQueue& q, const std::string& who) {
    u32 n = 0, writers = 0;
    Offset before = 0;
    for (Offset o = q.head; o && n <= MAX_PROCESSES * WAIT_NODES; o = c.at<WaitNode>(o)->next) {
      auto* w = c.at<WaitNode>(o);
      if (w->prev != before || w->queue != c.offset(&q)) say(who + ": links of its waiters do not match");
      before = o;
      writers += w->mode == WAIT_EXCLUSIVE;
      n++;
    }
    if (q.tail != before) say(who + ": the tail of its waiters is wrong");
    if (n != q.waiters.load() || n != waits[c.offset(&q)]) say(who + ": waiters counted wrong");
    if (q.guard.owner.load()) say(who + ": its guard is taken");
    waits.erase(c.offset(&q));
    return writers;
  }

  void lock(Mutex* m, const std::string& who) {
    if (queue(m->q, who) != m->writers) say(who + ": waiting writers counted wrong");
    u64 word = m->owner.load(), readers = held[c.offset(m)];
    if (m->readers != readers) say(who + ": " + std::to_string(m->readers) + " readers counted, " + std::to_string(readers) + " found");
    if (readers && word != LOCK_SHARED) say(who + ": has readers but is not in shared mode");
    if (word == LOCK_SHARED && !readers && !m->q.head) say(who + ": in shared mode without a reader");
    if (word && word != LOCK_SHARED && (word >> 32 > MAX_PROCESSES || c.slots[(word >> 32) - 1].state.load() != SLOT_ALIVE))
      say(who + ": held by a process that is gone");
    if (m->before && (!word || word == LOCK_SHARED)) say(who + ": nobody has it exclusively, but there is a copy to go back to");
    for (Offset o = m->before; o; o = c.at<Before>(o)->older) block(o, who);
    held.erase(c.offset(m));
  }

  void ownership(Handle h, Ownership* o, const std::string& who) {
    queue(o->q, who);
    u64 host = o->host.load(), requests = 0;
    bool nobody = !o->actor.load() && !host;
    for (Offset n = o->q.head; n; n = c.at<WaitNode>(n)->next) {
      auto* w = c.at<WaitNode>(n);
      if (nobody && !w->result) say(who + ": somebody claims it, and nobody owns it");
      requests += w->mode == WAIT_REQUEST && !w->result;
    }
    if (requests != o->requests.load()) say(who + ": requests for it counted wrong");
    if (o->committed) block(o->committed, who);
    if (c.entry(h).kind == KIND_FROZEN) return;
    if (!o->committed) say(who + ": it was never committed");
    if (!o->epoch.load()) say(who + ": it never had an owner");
    if (!host) return;
    u32 s = u32(host) - 1;
    if (s >= MAX_PROCESSES || c.host_word(s) != host || c.slots[s].state.load() != SLOT_ALIVE) say(who + ": owned by a process that is gone");
    else if (o->actor.load() && c.slots[s].actor.load() != o->actor.load()) say(who + ": owned by an actor in a process that is not its own");
  }

  void sync(Sync* s, const std::string& who) {
    queue(s->q, who);
    u64 counted = 0, n = 0;
    for (Offset o = s->holders; o && n <= MAX_PROCESSES; o = c.at<Hold>(o)->next, n++) counted += c.at<Hold>(o)->count;
    if (counted != held[c.offset(s)]) say(who + ": holders' permits counted wrong");
    held.erase(c.offset(s));
  }

  void queues() {
    for (u32 i = 0, n = c.h->sched.nshapes.load(); i < n; i++) {
      Shape& x = c.h->sched.shapes[i];
      u32 length = 0;
      Offset before = 0;
      for (Offset o = x.head; o; o = c.at<Task>(o)->qnext) {
        if (c.at<Task>(o)->qprev != before) say("queue " + std::to_string(i) + ": links do not match");
        before = o;
        length++;
        task(o);
      }
      if (x.tail != before) say("queue " + std::to_string(i) + ": its tail is wrong");
      if (length != x.length.load()) say("queue " + std::to_string(i) + ": length counted wrong");
    }
    for (Offset head : c.h->names.bucket)
      for (Offset o = head; o; o = c.at<NameNode>(o)->next) {
        auto* n = c.at<NameNode>(o);
        block(o, "name");
        if (n->space != NAMES_ACTOR) contained[index_of(n->object)]++;
      }
    if (c.h->config) contained[index_of(c.h->config)]++;
  }

  void writers(Handle h) {
    const Entry& e = c.entry(h);
    for (u32 s = 0; s < MAX_PROCESSES; s++) {
      bool writes = c.writers(h)->bits[s / 64].load() >> s % 64 & 1;
      std::string who = "process slot " + std::to_string(s);
      if (writes && e.kind == KIND_FROZEN) say(name(h) + " is frozen, but " + who + " can write to it");
      if (writes && !(e.holder_bits[s / 64].load() >> s % 64 & 1)) say(name(h) + ": " + who + " can write to it but does not hold it");
      if (s == c.slot && writes != (c.views[index_of(h)] > 0)) say(name(h) + ": writable views of this process counted wrong");
    }
  }

  // A large value in memory: who looks at it.
  void viewers(Handle h) {
    Large* p = c.head(h);
    if (p->spiller) say(name(h) + " is being spilled");
    for (u32 s = 0; s < MAX_PROCESSES; s++) {
      bool looks = p->viewers[s / 64].load() >> s % 64 & 1;
      if (looks && c.slots[s].state.load() != SLOT_ALIVE) say(name(h) + ": looked at by a process that is gone");
      if (s == c.slot && looks != (c.views[index_of(h)] > 0)) say(name(h) + ": views of this process counted wrong");
    }
  }

  // ... and one in the spill file.
  std::vector<std::pair<u64, u64>> extents{};
  void spilled(Handle h) {
    Entry& e = c.entry(h);
    if (e.flags != FLAG_SPILLED || !c.large(h) || e.state.load() != ENTRY_READY) say(name(h) + " is spilled and should not be");
    if (e.payload >> SPILL_MARK) say(name(h) + " is being restored");
    if (c.views[index_of(h)]) say(name(h) + " is spilled, but this process has views of it");
    u64 at = e.payload & ((1ull << SPILL_MARK) - 1);
    extents.emplace_back(at, e.size);
  }
  void spill_file() {
    Spill& s = c.h->spill;
    std::sort(extents.begin(), extents.end());
    std::vector<u32> live(SPILL_SEGMENTS);
    u64 bytes = 0, end = PAGE;
    for (auto [at, size] : extents) {
      if (at < end) say("spill file: two objects at " + std::to_string(at));
      end = at + (size + PAGE - 1) / PAGE * PAGE;
      bytes += size;
      for (u64 i = at / SPILL_SEGMENT; i <= (end - 1) / SPILL_SEGMENT; i++) live[i]++;
    }
    if (bytes != s.bytes.load() || extents.size() != s.objects.load()) say("spill file: its objects are counted wrong");
    for (u32 i = 0; i < SPILL_SEGMENTS; i++)
      if (live[i] != s.live[i])
        say("spill file: segment " + std::to_string(i) + " has " + std::to_string(live[i]) + " objects, counted " + std::to_string(s.live[i]));
    for (u32 i = 0, n = c.h->slots_top.load(); i < n; i++)
      for (SpillJob& job : c.slots[i].spills)
        if (job.object) say("process slot " + std::to_string(i) + ": spills or restores an object");
  }

  void objects() {
    u64 free = 0;
    u32 top = c.h->heap.entry_top.load();
    for (u32 i = 1; i < top; i++) {  // first pass: what they refer to
      Entry& e = c.entries[i];
      Handle h = c.handle_of(i);
      u32 state = e.state.load();
      if (state == ENTRY_FREE) {
        free++;
        continue;
      }
      if (state == ENTRY_DISPOSING || state == ENTRY_CREATING) say(name(h) + " is half made");
      if ((state == ENTRY_READY || state == ENTRY_FAILED) && e.task) say(name(h) + " is finished but names a task");
      if (state == ENTRY_PENDING && !e.task) say(name(h) + " is awaited but nothing makes it");
      u32 bits = 0;
      for (auto& w : e.holder_bits) bits += u32(__builtin_popcountll(w.load()));
      if (bits != e.holders) say(name(h) + ": " + std::to_string(e.holders) + " holders counted, " + std::to_string(bits) + " found");
      for (u32 s = 0; s < MAX_PROCESSES; s++)
        if (e.holder_bits[s / 64].load() >> s % 64 & 1 && c.slots[s].state.load() == SLOT_FREE) say(name(h) + " is held by a process that is gone");
      if (e.lock.owner.load()) say(name(h) + " is locked");
      if (e.flags & FLAG_HAS_BLOCK) {
        block(e.payload, name(h));
        if (c.large(h)) viewers(h);
        for (u32 k = 0; k < c.payload(h)->nrefs; k++) contained[index_of(c.refs(h)[k])]++;
      }
      if (e.flags & FLAG_SPILLED) spilled(h);
      if ((e.kind == KIND_MUTABLE || e.kind == KIND_FROZEN) && state == ENTRY_READY) writers(h);
      if (e.kind == KIND_VERSIONED && state == ENTRY_READY) {
        Cell* cell = c.cell(h);
        if (cell->lock.owner.load()) say(name(h) + ": the cell is locked");
        if (!cell->current || !c.valid(cell->current) || c.entry(cell->current).state.load() != ENTRY_READY)
          say(name(h) + ": its newest version is not a finished object");
        else contained[index_of(cell->current)]++;
      }
      task(e.task);
      for (Offset o = e.dependents; o; o = c.at<Dep>(o)->next) task(c.at<Dep>(o)->task);
      if (state == ENTRY_READY && has_mutex(e.kind)) {
        lock(c.mutex(h), name(h));
        if (e.kind == KIND_SYNC) sync(c.sync(h), name(h));
        if (c.has_ownership(h)) ownership(h, c.ownership(h), name(h));
      }
      if (e.kind == KIND_TABLE && state == ENTRY_READY) {
        Table* t = c.table(h);
        for (Offset o : t->buckets)
          if (o) block(o, name(h));
        u64 count = 0;
        for (Offset o = t->first; o; o = c.at<TableNode>(o)->after) {
          block(o, name(h));
          contained[index_of(c.at<TableNode>(o)->value)]++;
          count++;
        }
        if (count != t->count.load()) say(name(h) + ": entries of the dictionary counted wrong");
      }
      if (e.kind == KIND_QUEUE && state == ENTRY_READY) {
        Queue* q = c.queue(h);
        block(q->items, name(h));
        for (u64 k = q->head.load(); k < q->tail.load(); k++) contained[index_of(c.at<Handle>(q->items)[k % q->room])]++;
      }
      if (e.kind == KIND_ACTOR && state == ENTRY_READY) {
        Actor* a = c.actor(h);
        contained[i] += a->life;
        if (a->death) contained[index_of(a->death)]++;
        if (a->saved) contained[index_of(a->saved)]++;
        u32 count = 0;
        for (Offset o = a->head; o; o = c.at<Task>(o)->qnext) {
          count++;
          task(o);
        }
        if (count != a->count.load()) say("actor " + std::string(a->name) + ": mailbox counted wrong");
      }
    }
    if (!waits.empty()) say("somebody waits for a lock that does not exist");
    for (auto& [_, count] : held)
      if (count) say("somebody holds a lock that does not exist");
    u64 central = 0;
    for (u32 e = c.h->heap.entry_head; e && central <= top; e = c.entries[e].next) central++;
    if (central != c.h->heap.entry_free) say("free entries counted wrong");
    if (central + free_entries != free) say(std::to_string(i64(free - central - free_entries)) + " free entries lost");
    for (u32 i = 1; i < top; i++) {
      Entry& e = c.entries[i];
      if (e.state.load() == ENTRY_FREE) continue;
      u32 want = contained.count(i) ? contained[i] : 0;
      if (e.contained != want)
        say("object " + std::to_string(i) + ": " + std::to_string(e.contained) + " containing references counted, " + std::to_string(want) + " found");
    }
  }
};

}  // namespace

std::string Client::check() {
  Audit a{*this};
  a.slots();
  a.queues();
  a.objects();
  a.spill_file();
  a.heap();
  if (a.found > 20) a.report += "... and " + std::to_string(a.found - 20) + " more\n";
  return a.report;
}

}  // namespace shoal
