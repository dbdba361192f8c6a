// From a configuration to what engine and model understand.
#pragma once
#include "model/electra.h"
#include "trainer/config.h"
#include "trainer/data/data_set.h"
#include "trainer/data/examples.h"
#include "trainer/data/loader.h"
#include "trainer/optimizer.h"

namespace electra {

// Capacity of one micro-batch.
BatchShape micro_batch_shape(const PretrainConfig& config);
// Masking of the configuration with the special ids of its vocabulary.
MaskingOptions masking_options(const PretrainConfig& config, const SpecialIds& special);
// For programs that run on the stream. With precision auto or bf16 kernels compute in bf16 on a GPU; on the CPU always in fp32.
// vocabulary: what tells which pieces continue words; where there is none, as for made-up batches, none does.
ElectraGraphOptions graph_options(const PretrainConfig& config, const SpecialIds& special, bool train, const Stream& stream, const Vocabulary* vocabulary = nullptr);
ExampleOptions example_options(const PretrainConfig& config);
// Of the data sets' training examples, in the configuration's shares.
ExampleStream example_stream(const PretrainConfig& config, const std::vector<const ExampleIndex*>& indices);
OptimizerConfig optimizer_config(const PretrainConfig& config);

// Settles what is left to the device: precision and gemm. Throws ConfigError for what the CPU cannot do.
void choose_for_device(ResolvedConfig& resolved, Backend backend);
// Makes the products of this process those of the configuration; auto: the library where there is one.
void use_gemm(GemmChoice choice, Backend backend);

// Throws DataError, naming the first entry that differs, for data of another vocabulary than a model's.
void check_vocabulary(const DataSet& data, const Vocabulary& of_model);

}  // namespace electra
