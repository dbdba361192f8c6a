#include "trainer/data/input_stream.h"

#include <fcntl.h>
#include <lzma.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <stdexcept>

#include "kernels/core/error.h"

namespace electra {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBufferBytes = 128 << 10;
constexpr int kPollMs = 100;             // how often stop is asked while a pipe is empty
constexpr int kZstdWindowLog = 31;       // what 'zstd --long=31' writes
constexpr uint64_t kXzMemory = 1u << 30; // bytes; 'xz -9' needs 65 MiB

// What a decoder has to say about its input; the stream adds where.
struct Damaged : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace

std::string input_name(const fs::path& path) { return path == kStandardInput ? "standard input" : path.string(); }

struct InputStream::File {
  File(const fs::path& path, std::string name_, std::function<bool()> stop_) : name(std::move(name_)), stop(std::move(stop_)) {
    fd = path == kStandardInput ? STDIN_FILENO : open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail();
    struct stat status {};
    waits = fstat(fd, &status) == 0 && !S_ISREG(status.st_mode);
  }
  ~File() {
    if (fd > STDIN_FILENO) close(fd);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  [[noreturn]] void fail() const { throw IoError(name, std::string("expected to read a text file, got '") + std::strerror(errno) + "'"); }

  // 0 at the end, and once stopped.
  size_t read(std::span<char> out) {
    if (waits && stop) {
      pollfd waited{.fd = fd, .events = POLLIN, .revents = 0};
      while (!stopped && poll(&waited, 1, kPollMs) <= 0) stopped = stop();
      if (stopped) return 0;
    }
    for (;;) {
      const ssize_t n = ::read(fd, out.data(), out.size());
      if (n >= 0) return static_cast<size_t>(n);
      if (errno != EINTR) fail();
    }
  }

  std::string name;
  std::function<bool()> stop;
  int fd = -1;
  bool waits = false, stopped = false;
};

struct InputStream::Decoder {
  explicit Decoder(const char* name_) : name(name_) {}
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  virtual ~Decoder() = default;
  // Moves in behind what it used and returns the bytes written. last: nothing comes after in. Throws Damaged.
  virtual size_t decode(std::string_view& in, std::span<char> out, bool last) = 0;

  const char* name;
  bool complete = false;  // an archive has ended and no other has begun
};

struct InputStream::Gzip : Decoder {
  Gzip() : Decoder("gzip") {
    if (inflateInit2(&stream, 15 + 16) != Z_OK) throw std::bad_alloc();  // 16: with gzip's header and checksum
  }
  ~Gzip() override { inflateEnd(&stream); }
  size_t decode(std::string_view& in, std::span<char> out, bool) override {
    if (in.empty() && complete) return 0;
    if (complete) inflateReset(&stream);
    complete = false;
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in.data()));
    stream.avail_in = static_cast<uInt>(in.size());
    stream.next_out = reinterpret_cast<Bytef*>(out.data());
    stream.avail_out = static_cast<uInt>(std::min<size_t>(out.size(), 1u << 30));
    const size_t room = stream.avail_out;
    const int status = inflate(&stream, Z_NO_FLUSH);
    in.remove_prefix(in.size() - stream.avail_in);
    if (status == Z_STREAM_END) complete = true;
    else if (status != Z_OK && status != Z_BUF_ERROR) throw Damaged(stream.msg ? stream.msg : zError(status));
    return room - stream.avail_out;
  }
  z_stream stream{};
};

struct InputStream::Zstd : Decoder {
  Zstd() : Decoder("zstd"), stream(ZSTD_createDStream()) {
    if (!stream) throw std::bad_alloc();
    ZSTD_DCtx_setParameter(stream, ZSTD_d_windowLogMax, kZstdWindowLog);
  }
  ~Zstd() override { ZSTD_freeDStream(stream); }
  size_t decode(std::string_view& in, std::span<char> out, bool) override {
    if (in.empty() && complete) return 0;  // asked for more it would begin another frame
    ZSTD_inBuffer input{in.data(), in.size(), 0};
    ZSTD_outBuffer output{out.data(), out.size(), 0};
    const size_t left = ZSTD_decompressStream(stream, &output, &input);
    in.remove_prefix(input.pos);
    if (ZSTD_isError(left)) throw Damaged(ZSTD_getErrorName(left));
    complete = left == 0;
    return output.pos;
  }
  ZSTD_DStream* stream;
};

struct InputStream::Xz : Decoder {
  Xz() : Decoder("xz") {
    if (lzma_stream_decoder(&stream, kXzMemory, LZMA_CONCATENATED) != LZMA_OK) throw std::bad_alloc();
  }
  ~Xz() override { lzma_end(&stream); }
  size_t decode(std::string_view& in, std::span<char> out, bool last) override {
    if (complete) return 0;
    stream.next_in = reinterpret_cast<const uint8_t*>(in.data());
    stream.avail_in = in.size();
    stream.next_out = reinterpret_cast<uint8_t*>(out.data());
    stream.avail_out = out.size();
    const lzma_ret status = lzma_code(&stream, last ? LZMA_FINISH : LZMA_RUN);
    in.remove_prefix(in.size() - stream.avail_in);
    switch (status) {
      case LZMA_STREAM_END: complete = true; break;
      case LZMA_OK:
      case LZMA_BUF_ERROR: break;
      case LZMA_FORMAT_ERROR: throw Damaged("no xz header");
      case LZMA_MEMLIMIT_ERROR: throw Damaged("a dictionary of more than 1 GiB");
      case LZMA_OPTIONS_ERROR: throw Damaged("unsupported options");
      case LZMA_MEM_ERROR: throw std::bad_alloc();
      default: throw Damaged("corrupt data");
    }
    return out.size() - stream.avail_out;
  }
  lzma_stream stream = LZMA_STREAM_INIT;
};

InputStream::InputStream(const fs::path& path, std::string name, std::function<bool()> stop)
    : file_(std::make_unique<File>(path, std::move(name), std::move(stop))), buffer_(kBufferBytes) {}
InputStream::~InputStream() = default;
InputStream::InputStream(InputStream&&) noexcept = default;
InputStream& InputStream::operator=(InputStream&&) noexcept = default;

// Reads behind what is in the buffer, whose start in_ must be.
void InputStream::refill() {
  const size_t n = file_->read(std::span(buffer_).subspan(in_.size()));
  ended_ = n == 0;
  stored_ += n;
  in_ = {buffer_.data(), in_.size() + n};
}

void InputStream::detect() {
  constexpr size_t kLongestMagic = 6;
  in_ = {buffer_.data(), 0};
  while (!ended_ && in_.size() < kLongestMagic) refill();
  detected_ = true;
  if (in_.starts_with("\x1F\x8B")) decoder_ = std::make_unique<Gzip>();
  // A skippable frame, one of sixteen numbers, may come first.
  if (in_.starts_with("\x28\xB5\x2F\xFD") || (in_.size() >= 4 && in_[0] >= 0x50 && in_[0] <= 0x5F && in_.substr(1).starts_with("\x2A\x4D\x18")))
    decoder_ = std::make_unique<Zstd>();
  if (in_.starts_with(std::string_view("\xFD" "7zXZ\0", 6))) decoder_ = std::make_unique<Xz>();
}

size_t InputStream::read(std::span<char> out) {
  if (!detected_) detect();
  for (;;) {
    if (in_.empty() && !ended_) {
      in_ = {buffer_.data(), 0};
      refill();
    }
    if (file_->stopped) return 0;
    if (!decoder_) {
      const size_t n = in_.copy(out.data(), out.size());
      in_.remove_prefix(n);
      return n;
    }
    try {
      if (const size_t n = decoder_->decode(in_, out, ended_); n > 0) return n;
    } catch (const Damaged& damage) {
      throw DataError(file_->name, std::string("expected ") + decoder_->name + " data, got damage, found at byte " + std::to_string(stored_ - in_.size()) +
                                       " of the file ('" + damage.what() + "')");
    }
    if (!ended_ || !in_.empty()) continue;
    if (!decoder_->complete)
      throw DataError(file_->name, std::string("expected a whole ") + decoder_->name + " archive, got a truncated one that ends at byte " + std::to_string(stored_));
    return 0;
  }
}

void InputStream::skip(uint64_t bytes) {
  if (!detected_) detect();
  uint64_t left = bytes;
  if (!decoder_ && !file_->waits && left > in_.size()) {
    left -= in_.size();
    in_ = {};
    struct stat status {};
    const off_t at = lseek(file_->fd, 0, SEEK_CUR);
    if (at < 0 || fstat(file_->fd, &status) != 0) file_->fail();
    const uint64_t step = std::min<uint64_t>(left, static_cast<uint64_t>(std::max<off_t>(status.st_size - at, 0)));
    if (lseek(file_->fd, static_cast<off_t>(step), SEEK_CUR) < 0) file_->fail();
    stored_ += step;
    left -= step;
  }
  std::vector<char> thrown_away(left > 0 ? kBufferBytes : 0);
  while (left > 0) {
    const size_t n = read(std::span(thrown_away).first(static_cast<size_t>(std::min<uint64_t>(left, thrown_away.size()))));
    if (n == 0 && file_->stopped) return;
    if (n == 0) throw DataError(file_->name, "expected at least " + std::to_string(bytes) + " bytes, got " + std::to_string(bytes - left));
    left -= n;
  }
}

bool InputStream::stopped() const { return file_->stopped; }

size_t InputStream::read_stored(std::span<char> out) { return file_->read(out); }

bool copy_input(const fs::path& from, const fs::path& to, const std::function<bool()>& stop) {
  errno = 0;
  std::ofstream out(to, std::ios::binary);
  std::vector<char> buffer(kBufferBytes);
  InputStream in(from, input_name(from), stop);
  for (;;) {
    const size_t n = in.read_stored(buffer);
    if (n == 0) break;
    if (stop && stop()) return false;
    out.write(buffer.data(), static_cast<std::streamsize>(n));
  }
  if (stop && stop()) return false;
  out.close();
  if (!out) throw IoError(to.string(), std::string("expected to write a file, got '") + std::strerror(errno) + "'");
  return true;
}

}  // namespace electra
