// Pre-training on the device: the same training as the CPU's, the same bits again after a stop.
#include <catch2/catch.hpp>
#include <algorithm>
#include <cmath>

#include "tests/on_device.h"
#include "tests/toy_run.h"
#include "trainer/checkpoint.h"

using namespace electra;

namespace {

// Heads of 64, as the kernels of the device want them; dropout, two micro-batches, two layers in either half.
const Overrides kHeads{"hidden_size=64",         "num_heads=1",  "generator.width_fraction=1", "intermediate_size=128", "batch.sequences=2",
                       "batch.accumulate=2",     "train_steps=6", "eval_steps=3",              "checkpoint_steps=3",    "warmup_steps=2"};

PretrainRequest on_device(PretrainRequest request) {
  request.device = {test::kTestDevice, "the test says"};
  return request;
}

PretrainRequest request(const Toy& toy, const std::string& name, Overrides more) {
  more.insert(more.begin(), kHeads.begin(), kHeads.end());
  return toy.request(name, more);
}

// The largest relative difference of a field over the lines of a kind.
double apart(const Toy& toy, const std::string& kind, const char* field) {
  const auto expected = toy.lines("cpu", kind), got = toy.lines("device", kind);
  REQUIRE(expected.size() >= 2);
  REQUIRE(got.size() == expected.size());
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    CHECK(got[i]["step"] == expected[i]["step"]);
    const double e = expected[i][field], g = got[i][field];
    worst = std::max(worst, std::abs(g - e) / std::abs(e));
  }
  return worst;
}

}  // namespace

// Masks, dropout and samples are drawn on the device: were one of them another, a loss would differ in its second or third digit.
TEST_CASE("a run on the device follows the CPU's, dropout and samples included", test::kOnDevice) {
  for (const Overrides& form : {Overrides{}, Overrides{"recompute=layers"}, Overrides{"masking.replacement=true", "untied_generator_embeddings=true"},
                                Overrides{"masking.unit=span", "schedule.lengths=12:2", "mask_prob=0.2"},
                                Overrides{"electra_objective=false"}, Overrides{"uniform_generator=true"}, Overrides{"disallow_correct=true", "temperature=0.7"}}) {
    INFO((form.empty() ? "" : form.front()));
    const Toy toy;
    Overrides fp32 = form;
    fp32.push_back("precision=fp32");
    REQUIRE(pretrain(request(toy, "cpu", fp32)) == 0);
    REQUIRE(pretrain(on_device(request(toy, "device", fp32))) == 0);
    CHECK(apart(toy, "train", "loss") < 1e-5);
    CHECK(apart(toy, "eval", "loss") < 1e-5);
    CHECK(apart(toy, "train", "grad_norm") < 1e-4);
    std::filesystem::remove_all(toy.run("device"));
    Overrides bf16 = form;
    bf16.push_back("precision=bf16");
    REQUIRE(pretrain(on_device(request(toy, "device", bf16))) == 0);
    CHECK(apart(toy, "train", "loss") < 0.02);
    CHECK(apart(toy, "train", "loss") > 1e-7);
    CHECK(apart(toy, "eval", "loss") < 0.02);
  }
}

TEST_CASE("a run on the device that is stopped and resumed ends with the weights of one that was not, bit for bit", test::kOnDevice) {
  for (const char* precision : {"precision=fp32", "precision=bf16"}) {
    INFO(precision);
    const Toy toy;
    REQUIRE(pretrain(on_device(request(toy, "whole", {precision}))) == 0);
    CHECK(stopped_by(SIGINT, 2, toy, on_device(request(toy, "parts", {precision}))) == 130);
    CHECK(Checkpoint::open(toy.run("parts")).state().step == 3);
    REQUIRE(pretrain(on_device(toy.resumed("parts"))) == 0);
    check_same_weights(toy.latest("whole"), toy.latest("parts"));
  }
}
