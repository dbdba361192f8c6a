// Errors: each message reads "[where] what was expected, what came".
#pragma once
#include <cstddef>
#include <stdexcept>
#include <string_view>

namespace electra {

class Error : public std::runtime_error {
 public:
  Error(std::string_view where, std::string_view what);
  // The two parts of the message, for whoever knows a better place or has something to add.
  std::string_view where() const { return std::string_view(what()).substr(1, where_length_); }
  std::string_view detail() const { return std::string_view(what()).substr(where_length_ + 3); }

 private:
  size_t where_length_;
};

class ShapeError : public Error { public: using Error::Error; };   // shapes, dtypes, alignment
class ConfigError : public Error { public: using Error::Error; };  // wrong usage or configuration: exit status 2
class DataError : public Error { public: using Error::Error; };    // text, vocabularies, token shards
class DeviceError : public Error { public: using Error::Error; };  // CUDA, cuBLAS, memory
class CommError : public Error { public: using Error::Error; };    // NCCL, MPI
class FormatError : public Error { public: using Error::Error; };  // damaged or foreign files
class IoError : public Error { public: using Error::Error; };      // the operating system refused: missing, full, read-only

}  // namespace electra
