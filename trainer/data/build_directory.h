// Where something that takes long is built, to be gone on with after an interruption: .tmp-NAME beside NAME, with a state, working
// files and the result, which is renamed into place once it is complete.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace electra {

class BuildDirectory {
 public:
  static constexpr const char* kInput = "input-";  // how names of working files begin that clear leaves

  // Takes what an interrupted process left. Throws IoError, also where another process builds there.
  explicit BuildDirectory(const std::filesystem::path& out);
  ~BuildDirectory();  // removes everything unless something was saved
  BuildDirectory(const BuildDirectory&) = delete;
  BuildDirectory& operator=(const BuildDirectory&) = delete;

  const std::filesystem::path& work() const { return work_; }
  const std::filesystem::path& result() const { return result_; }
  // What was saved last, perhaps by another process. To save replaces it as a whole.
  std::optional<std::string> state() const;
  void save(std::string_view state);
  // Starts over: removes state, result and working files.
  void clear();
  // Nothing stays when this object goes.
  void discard() { discarded_ = true; }
  // Renames the result into place, where it is not there yet; what stood there goes once the new one is complete.
  void publish();

 private:
  std::filesystem::path out_, work_, result_, replaced_, state_;
  int lock_ = -1;
  bool discarded_ = false;
};

}  // namespace electra
