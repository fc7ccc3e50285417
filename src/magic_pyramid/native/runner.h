// What the C interface needs from an engine that is compiled for one instruction set.
#pragma once

#include <map>
#include <memory>
#include <stdexcept>
#include <string>

#include "engine.h"
#include "pool.h"

namespace magic_pyramid {

struct Tensor {
    const float* data = nullptr;
    int64_t count = 0;
};

using Tensors = std::map<std::string, Tensor>;

class Runner {
   public:
    virtual ~Runner() = default;
    virtual void run(const mp_batch& batch, Pool& pool) const = 0;
};

using MakeRunner = std::unique_ptr<Runner> (*)(const mp_shape& shape, const Tensors& tensors);

std::unique_ptr<Runner> make_portable(const mp_shape& shape, const Tensors& tensors);
std::unique_ptr<Runner> make_avx2(const mp_shape& shape, const Tensors& tensors);
std::unique_ptr<Runner> make_avx512_vnni(const mp_shape& shape, const Tensors& tensors);

}  // namespace magic_pyramid
