#include "pool.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

namespace irn {
namespace {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr int kMaxThreads = 256;
constexpr int kSpins = 2000;  // some 30 us: steps follow each other faster than a thread wakes up

class Pool {
 public:
  void run(int threads, int64_t items, RangeFunction function, const void* context) {
    if (busy_.exchange(true, std::memory_order_acquire)) return function(context, 0, items);
    grow(threads - 1);
    function_ = function, context_ = context, items_ = items;
    grain_ = items / (threads * 4) > 1 ? items / (threads * 4) : 1;
    limit_ = uint32_t(threads - 1);
    next_.store(0, std::memory_order_relaxed);
    state_.store(kOpen, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      wake_.notify_all();
    }
    work();
    // Every range is taken; those that took one and have not finished are counted in state_.
    state_.fetch_and(~kOpen, std::memory_order_acq_rel);
    for (int spins = 0; state_.load(std::memory_order_acquire) != 0; ++spins)
      spins < kSpins ? relax() : std::this_thread::yield();  // its processor may be wanted by them
    busy_.store(false, std::memory_order_release);
  }

 private:
  static constexpr uint32_t kOpen = 1u << 31;

  void grow(int workers) {
    while (workers_ < workers && workers_ < kMaxThreads) {
      try {
        std::thread([this] { serve(); }).detach();
      } catch (const std::system_error&) {
        return;  // with fewer threads the work is done all the same
      }
      ++workers_;
    }
  }

  void work() {
    for (;;) {
      int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
      if (begin >= items_) return;
      function_(context_, begin, begin + grain_ < items_ ? begin + grain_ : items_);
    }
  }

  // Takes part in the open call, if there is one and it wants more threads.
  bool join() {
    uint32_t state = state_.load(std::memory_order_acquire);
    while ((state & kOpen) && (state & ~kOpen) < limit_.load(std::memory_order_relaxed))
      if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) return true;
    return false;
  }

  void serve() {
    for (int spins = 0;; ++spins) {
      if (join()) {
        work();
        state_.fetch_sub(1, std::memory_order_acq_rel);
        spins = 0;
      } else if (spins < kSpins) {
        relax();
      } else {
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        if (!(state_.load(std::memory_order_seq_cst) & kOpen)) wake_.wait(lock);
        sleepers_.fetch_sub(1, std::memory_order_relaxed);
        spins = 0;
      }
    }
  }

  std::atomic<bool> busy_{false};
  std::atomic<uint32_t> state_{0};  // kOpen while ranges may be left, plus the workers that take part
  std::atomic<uint32_t> limit_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<int> sleepers_{0};
  RangeFunction function_ = nullptr;
  const void* context_ = nullptr;
  int64_t items_ = 0, grain_ = 1;
  int workers_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
};

// Never destroyed: its threads may outlive every static object.
std::atomic<Pool*> current{nullptr};

Pool& pool() {
  static const int once = pthread_atfork(nullptr, nullptr, [] { current.store(nullptr); });
  (void)once;
  Pool* found = current.load(std::memory_order_acquire);
  if (found) return *found;
  Pool* made = new Pool;
  if (current.compare_exchange_strong(found, made)) return *made;
  delete made;  // another thread was first; this one has no workers yet
  return *found;
}

}  // namespace

void parallel(int threads, int64_t items, RangeFunction run, const void* context) {
  if (items <= 0) return;
  if (threads > kMaxThreads) threads = kMaxThreads;
  if (threads > items) threads = int(items);
  if (threads <= 1) return run(context, 0, items);
  pool().run(threads, items, run, context);
}

}  // namespace irn
