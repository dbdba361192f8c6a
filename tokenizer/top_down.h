// Word pieces from the top down: whole words first, then those parts that longer pieces leave. The algorithm that TensorFlow Text's guide
// "Subword tokenizers" describes; its code also subtracts the occurrences of pieces that are not kept (tensorflow/text#583), so that
// hardly more than words and their ends remain, and is not followed there.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace electra {

class TopDownLearner {
 public:
  static constexpr size_t kMostCharacters = 50;  // of a word
  static constexpr int kIterations = 4;

  struct Piece {
    std::string text;   // with "##" before a continuing one
    int64_t count = 0;  // of its occurrences that no longer kept piece covers
  };

  // At most kMostCharacters characters. Takes four bytes a character, and after build 16 to 20 more and 18 for each distinct part of words.
  void add_word(std::string_view word, int64_t count);
  // To be called once, after the last word.
  void build();
  // The pieces that occur `threshold` times or more, those that occur most in front, equally frequent ones in the order of their bytes.
  //
  // Occurrences of a piece are those that begin at the same place as it in a word; from the longest pieces to the shortest, what reaches
  // the threshold is kept, and its occurrences count no more for what it begins with. At first a piece may begin at each place of a word;
  // in three more iterations only where splitting the word by what was kept, greedily, with single characters where nothing else fits,
  // lets one begin. stop is asked before each and may be empty; none where it said so.
  std::vector<Piece> learn(int64_t threshold, const std::function<bool()>& stop);
  // Above this threshold nothing is kept.
  int64_t most() const { return most_; }

 private:
  // A part of words that begins at the beginning of one or inside: a node of one of two tries. Parents stand before their children.
  struct Node {
    uint32_t parent;
    uint32_t length;   // in characters
    uint64_t place;    // where its text is, among others
  };
  static constexpr uint32_t kNone = UINT32_MAX;
  bool is_first(uint64_t place) const;
  std::u32string_view tail(uint64_t place) const;

  std::vector<char32_t> text_;     // of all words, each behind a 0
  std::vector<uint64_t> words_;    // places where they begin
  std::vector<int64_t> counts_;
  std::vector<Node> nodes_;
  std::vector<uint32_t> tails_;    // for each place the node of what begins there and ends with the word
  std::vector<int64_t> left_;      // for each node its occurrences that are not covered
  std::vector<char> kept_;
  int64_t most_ = 0;
};

}  // namespace electra
