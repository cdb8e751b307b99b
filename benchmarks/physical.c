// Two processes pass a word to and fro through a shared page: the fastest that any call and its answer can be.
//
//     physical asleep|spinning SECONDS      prints round trips per second
//     physical scattered SECONDS SIZE RECORDS DRAWN      prints bytes per second, three times
//
// asleep: whoever has passed the word sleeps on a futex until it comes back. spinning: both look all the time.
// scattered: one process copies records of SIZE bytes from random places of shared memory into a batch of DRAWN.
#define _GNU_SOURCE
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// Each word has a cache line of its own: one goes up for each question, the other for each answer.
typedef struct {
  _Alignas(128) atomic_uint question;
  _Alignas(128) atomic_uint answer;
} Shared;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void pause_cpu(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Two that spin must not share a core: each is held on its own, the first two that this process may use.
static void hold(int which) {
  cpu_set_t allowed, one;
  CPU_ZERO(&one);
  if (sched_getaffinity(0, sizeof allowed, &allowed)) return;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &allowed) && which-- == 0) CPU_SET(cpu, &one);
  sched_setaffinity(0, sizeof one, &one);
}

static void pass(atomic_uint *word, unsigned value, int asleep) {
  atomic_store_explicit(word, value, memory_order_release);
  if (asleep) syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void await(atomic_uint *word, unsigned value, int asleep) {
  unsigned seen;
  while ((seen = atomic_load_explicit(word, memory_order_acquire)) != value) {
    if (asleep) syscall(SYS_futex, word, FUTEX_WAIT, seen, NULL, NULL, 0);
    else pause_cpu();
  }
}

static int scattered(double seconds, size_t size, size_t records, size_t drawn) {
  int fd = memfd_create("physical", 0);
  if (fd < 0 || ftruncate(fd, (off_t)(size * records))) return 1;
  char *all = mmap(NULL, size * records, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), *batch = malloc(size * drawn);
  if (all == MAP_FAILED || !batch) return 1;
  memset(all, 1, size * records);
  memset(batch, 1, size * drawn);
  for (int sample = 0; sample < 4; sample++) {  // the first warms up
    double copied = 0, begun = now();
    while (now() - begun < seconds) {
      for (size_t i = 0; i < drawn; i++) memcpy(batch + i * size, all + (size_t)random() % records * size, size);
      copied += (double)(size * drawn);
    }
    if (sample) printf("%.0f\n", copied / (now() - begun));
  }
  return 0;
}

int main(int argc, char **argv) {
  if (argc > 5 && strcmp(argv[1], "scattered") == 0)
    return scattered(atof(argv[2]), (size_t)atoll(argv[3]), (size_t)atoll(argv[4]), (size_t)atoll(argv[5]));
  int asleep = argc > 1 && strcmp(argv[1], "asleep") == 0;
  double seconds = argc > 2 ? atof(argv[2]) : 0.3;
  Shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return 1;
  pid_t child = fork();
  if (child < 0) return 1;
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!asleep) hold(1);
    for (unsigned i = 1;; i++) {
      await(&shared->question, i, asleep);
      pass(&shared->answer, i, asleep);
    }
  }
  if (!asleep) hold(0);
  unsigned trips = 0;
  double start = 0, end = now() + seconds / 4;  // the first quarter warms up
  for (unsigned i = 1;; i++) {
    pass(&shared->question, i, asleep);
    await(&shared->answer, i, asleep);
    trips++;
    if (i % 64) continue;
    double t = now();
    if (t < end) continue;
    if (start) {
      printf("%.1f\n", trips / (t - start));
      kill(child, SIGKILL);
      return 0;
    }
    start = t;
    end = t + seconds;
    trips = 0;
  }
}
