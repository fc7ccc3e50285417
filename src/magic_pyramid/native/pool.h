// A few threads that share the parts of a job and wait for each other.
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace magic_pyramid {

// The caller is one of the threads. Helpers spin for a moment between jobs, because a layer is a handful of
// jobs of some ten microseconds, and then sleep.
class Pool {
   public:
    explicit Pool(int threads) {
        try {
            for (int i = 1; i < threads; i++) helpers_.emplace_back([this] { help(); });
        } catch (const std::system_error&) {
            // The system allows no more threads: those that are there share the work.
        }
    }

    ~Pool() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            stopping_ = true;
            round_.fetch_add(1);
        }
        wake_.notify_all();
        for (std::thread& helper : helpers_) helper.join();
    }

    int threads() const { return static_cast<int>(helpers_.size()) + 1; }

    // Runs job(0) to job(parts - 1), each once, on any thread; returns when all are done. What a job throws, the
    // first of several, is thrown here.
    template <class Job>
    void run(int parts, const Job& job) {
        if (parts <= 1 || helpers_.empty()) {
            for (int part = 0; part < parts; part++) job(part);
            return;
        }
        job_ = [&job](int part) { job(part); };
        parts_ = parts;
        next_.store(0);
        working_.store(static_cast<int>(helpers_.size()));
        {
            std::lock_guard<std::mutex> lock(mutex_);
            round_.fetch_add(1);
        }
        if (sleeping_.load() > 0) wake_.notify_all();
        take_parts();
        while (working_.load(std::memory_order_acquire) > 0) pause();
        if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    }

   private:
    static constexpr int SPINS = 20000;

    static void pause() {
#if defined(__x86_64__)
        _mm_pause();
#else
        std::this_thread::yield();
#endif
    }

    void take_parts() {
        for (int part = next_.fetch_add(1); part < parts_; part = next_.fetch_add(1)) {
            try {
                job_(part);
            } catch (...) {
                const std::lock_guard<std::mutex> lock(mutex_);
                if (!error_) error_ = std::current_exception();
            }
        }
    }

    void help() {
        long seen = 0;
        for (;;) {
            for (int spin = 0; spin < SPINS && round_.load(std::memory_order_acquire) == seen; spin++) pause();
            if (round_.load() == seen) {
                std::unique_lock<std::mutex> lock(mutex_);
                sleeping_.fetch_add(1);
                wake_.wait(lock, [&] { return round_.load() != seen; });
                sleeping_.fetch_sub(1);
            }
            seen++;
            if (stopping_.load()) return;
            take_parts();
            working_.fetch_sub(1, std::memory_order_release);
        }
    }

    std::vector<std::thread> helpers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::function<void(int)> job_;
    std::exception_ptr error_;
    int parts_ = 0;
    std::atomic<int> next_{0};
    std::atomic<int> working_{0};
    std::atomic<int> sleeping_{0};
    std::atomic<long> round_{0};
    std::atomic<bool> stopping_{false};
};

}  // namespace magic_pyramid
