#include "encoder.h"

std::unique_ptr<magic_pyramid::Runner> magic_pyramid::make_avx2(const mp_shape& shape, const Tensors& tensors) {
    return std::make_unique<Encoder>(shape, tensors);
}
