// Keeps Jittor's compile progress off std::cerr and says once, in one line, that kernels are being compiled.
//
// Jittor 1.3.11 (src/parallel_compiler.cc) writes "\nCompiling Operators(3/4) used: 2.3s eta: 0.7s \r...\n" piece by piece
// to std::cerr whenever a batch of kernels takes more than two seconds. Everything else that is written to std::cerr passes
// unchanged. The state is kept per thread, because an error may be written by one thread while another reports progress.
#include <atomic>
#include <cstring>
#include <iostream>
#include <streambuf>
#include <string>

namespace {

const char PROGRESS[] = "Compiling Operators(";
const std::streamsize PROGRESS_LENGTH = sizeof(PROGRESS) - 1;

enum class State { text, newline_held, progress, progress_line_done };
thread_local State state = State::text;

class CerrFilter : public std::streambuf {
public:
    CerrFilter(std::streambuf* target, const char* notice) : target(target), notice(notice), announced(!*notice) {}

protected:
    std::streamsize xsputn(const char* text, std::streamsize length) override {
        if (length > 0) write(text, length, length == 1 && *text == '\n');
        return length;
    }

    int overflow(int character) override {
        if (character != traits_type::eof()) {
            const char text = static_cast<char>(character);
            write(&text, 1, false);
        }
        return traits_type::not_eof(character);
    }

    int sync() override { return target->pubsync(); }

private:
    std::streambuf* target;
    std::string notice;
    std::atomic<bool> announced;
    std::atomic<bool> at_line_start{true};

    // `lone_newline`: the piece is "\n" alone, with which a progress report begins.
    void write(const char* text, std::streamsize length, bool lone_newline) {
        if (state == State::progress) {
            if (std::memchr(text, '\r', length)) state = State::progress_line_done;
            return;
        }
        if (state == State::progress_line_done) {
            state = State::text;
            if (length == 1 && *text == '\n') return;  // ends the report
        }
        if (length >= PROGRESS_LENGTH && std::strncmp(text, PROGRESS, PROGRESS_LENGTH) == 0) {
            state = State::progress;
            if (!announced.exchange(true)) target->sputn(notice.data(), notice.size());
            return;
        }
        if (state == State::newline_held) {
            state = State::text;
            target->sputc('\n');
        }
        if (lone_newline && at_line_start) {
            state = State::newline_held;
            return;
        }
        at_line_start = text[length - 1] == '\n';
        target->sputn(text, length);
    }
};

}  // namespace

// Installs the filter. `notice` is written before the first dropped report; "" = it has been said already.
// The filter is never destroyed: std::cerr outlives everything that could destroy it.
extern "C" void jseg_filter_cerr(const char* notice) {
    std::cerr.rdbuf(new CerrFilter(std::cerr.rdbuf(), notice));
}
