// The C interface: picks the code for this processor, and turns exceptions into messages.

#include <unistd.h>

#include <exception>
#include <mutex>

#include "runner.h"

#ifndef MP_SOURCE_HASH
#define MP_SOURCE_HASH ""
#endif

using namespace magic_pyramid;

namespace {

thread_local std::string last_error;

struct InstructionSet {
    const char* name;
    MakeRunner make;
    bool (*is_there)();
};

bool always() { return true; }

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512_vnni() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}
#endif

// Best first.
const InstructionSet INSTRUCTION_SETS[] = {
#if defined(__x86_64__)
    {"avx512_vnni", make_avx512_vnni, has_avx512_vnni},
    {"avx2", make_avx2, has_avx2},
#endif
    {"portable", make_portable, always},
};

template <class Work>
int guarded(const Work& work) {
    try {
        work();
        return 0;
    } catch (const std::exception& error) {
        last_error = error.what();
        return 1;
    }
}

}  // namespace

struct mp_engine {
    mp_shape shape;
    MakeRunner make;
    Tensors tensors;
    std::unique_ptr<Runner> runner;
    std::unique_ptr<Pool> pool;
    pid_t pool_process = 0;
    mutable std::mutex pool_mutex;

    // A forked process has the pool's memory, but not its threads.
    bool has_helpers() const { return pool && pool_process == getpid(); }

    ~mp_engine() {
        if (!has_helpers()) (void)pool.release();
    }
};

const char* mp_source_hash(void) { return MP_SOURCE_HASH; }

const char* mp_instruction_sets(void) {
    static const std::string names = [] {
        std::string joined;
        for (const InstructionSet& set : INSTRUCTION_SETS) {
            if (set.is_there()) joined += (joined.empty() ? "" : " ") + std::string(set.name);
        }
        return joined;
    }();
    return names.c_str();
}

mp_engine* mp_create(const mp_shape* shape, const char* instruction_set) {
    for (const InstructionSet& set : INSTRUCTION_SETS) {
        if (set.is_there() && std::string(set.name) == instruction_set) {
            auto* engine = new mp_engine;
            engine->shape = *shape;
            engine->make = set.make;
            return engine;
        }
    }
    last_error = "this processor has no instruction set " + std::string(instruction_set) + "; it has " +
                 mp_instruction_sets();
    return nullptr;
}

void mp_set(mp_engine* engine, const char* name, const float* data, int64_t count) {
    engine->tensors[name] = Tensor{data, count};
}

int mp_prepare(mp_engine* engine, int threads) {
    return guarded([&] {
        engine->runner = engine->make(engine->shape, engine->tensors);
        engine->tensors.clear();
        engine->pool = std::make_unique<Pool>(threads);
        engine->pool_process = getpid();
    });
}

int mp_run(const mp_engine* engine, const mp_batch* batch) {
    return guarded([&] {
        // Whoever finds the helpers at work does without: together the callers fill the cores anyway.
        std::unique_lock<std::mutex> lock(engine->pool_mutex, std::defer_lock);
        Pool alone(1);
        const bool together = engine->has_helpers() && lock.try_lock();
        engine->runner->run(*batch, together ? *engine->pool : alone);
    });
}

const char* mp_error(void) { return last_error.c_str(); }

void mp_destroy(mp_engine* engine) { delete engine; }
