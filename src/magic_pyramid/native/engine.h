// The C interface of the native engine: make one, give it the weights by name, run packed batches.
//
// Functions that can fail return 0 when all went well, and otherwise leave a sentence for mp_error.
#pragma once

#include <stdint.h>

#if defined(__GNUC__)
#define MP_API __attribute__((visibility("default")))
#else
#define MP_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum mp_activation { MP_GELU, MP_GELU_TANH, MP_RELU, MP_SILU, MP_TANH };
enum mp_problem { MP_SINGLE_LABEL, MP_MULTI_LABEL, MP_REGRESSION };
enum mp_head { MP_HEAD_CLS, MP_HEAD_FASTBERT, MP_HEAD_BLOCK };
enum mp_criterion { MP_ENTROPY, MP_MAX_PROB, MP_MARGIN, MP_PATIENCE };
enum mp_divisor { MP_KEPT, MP_INPUT, MP_FIXED };

// What the model is; the fields are those of ModelConfig.
typedef struct {
    int32_t vocab_size, hidden_size, num_layers, num_heads, intermediate_size, embedding_size;
    int32_t num_positions, position_offset, num_types, num_labels;
    int32_t hidden_act, head_act, problem, final_head;
    int32_t exit_head, exit_head_size, exit_head_heads;
    int32_t criterion;
    int32_t prunes, divisor, fixed_length;
    int32_t separator;     // Token id that is never removed; -1: none.
    int32_t max_distance;  // Relative position bias reaches from -max_distance to max_distance; 0: there is none.
    int32_t int8;          // Products in 8 bits.
    float layer_norm_eps, patience_tolerance;
} mp_shape;

// One batch of sequences, packed back to back, and where the answers go.
typedef struct {
    const int32_t* token_ids;      // [tokens]
    const int32_t* token_types;    // [tokens]; null where the model has no types.
    const int64_t* starts;         // [sequences + 1]
    int64_t num_sequences;
    float prune_scale;             // 0 removes nothing.
    const float* exit_thresholds;  // [layers]: leave after a layer when the uncertainty is at most this.
    const uint8_t* tests_exit;     // [layers]: whether the layer's exit head is asked.
    float* all_logits;             // [layers, sequences, labels] of every exit head and, last, the final head, as if
                                   // nobody left; null where only the answers are wanted.
    float* logits;                 // [sequences, labels]
    int64_t* exit_layer;           // [sequences]
    int64_t* num_tokens;           // [sequences, layers + 1]
} mp_batch;

typedef struct mp_engine mp_engine;

MP_API const char* mp_source_hash(void);
// The instruction sets this build has code for and this processor can run, best first, separated by spaces.
MP_API const char* mp_instruction_sets(void);
MP_API mp_engine* mp_create(const mp_shape* shape, const char* instruction_set);
// The tensor must stay where it is until mp_prepare has returned.
MP_API void mp_set(mp_engine* engine, const char* name, const float* data, int64_t count);
MP_API int mp_prepare(mp_engine* engine, int threads);
// May be called from any number of threads.
MP_API int mp_run(const mp_engine* engine, const mp_batch* batch);
MP_API const char* mp_error(void);
MP_API void mp_destroy(mp_engine* engine);

#ifdef __cplusplus
}
#endif
