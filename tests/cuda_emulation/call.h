// Calls kernels from Python: `run` hands tensors to `dispatch`, which each library defines.
//
// Inputs and outputs are copied to memory that ends at a page nobody may touch; what lies around them is NaN, and outputs
// are NaN before the kernel runs, but for the last `kept` ones, which the kernel changes.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include "emulation.h"

typedef std::function<double(const char*)> Numbers;
typedef std::vector<unsigned char*> Places;

// Runs the function `kind`.
void dispatch(const char* kind, const Numbers& number, const Places& in, const Places& out, const size_t* out_bytes);

namespace {

class Guarded {
   public:
    // `offset` bytes behind an address that is a multiple of 16.
    Guarded(const void* data, size_t bytes, size_t offset) : bytes(bytes) {
        const size_t page = sysconf(_SC_PAGESIZE), pages = (bytes + 64) / page + 1;
        size = (pages + 1) * page;
        memory = (unsigned char*)mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) emulation::fail("no memory");
        usable = pages * page;
        std::memset(memory, 0xFF, usable);
        mprotect(memory + usable, page, PROT_NONE);
        start = memory + usable - (bytes + offset + 15) / 16 * 16 + offset;
        if (data) std::memcpy(start, data, bytes);
    }
    ~Guarded() { munmap(memory, size); }
    void copy_back(void* to) const {
        for (const unsigned char* at = memory; at < memory + usable; at++)
            if ((at < start || at >= start + bytes) && *at != 0xFF) emulation::fail("written outside an output");
        std::memcpy(to, start, bytes);
    }
    unsigned char* start;

   private:
    unsigned char* memory;
    size_t bytes, size, usable;
};

}  // namespace

extern "C" void run(const char* kind, int names, const char** name, const double* value, int inputs, const void** input,
                    const size_t* input_bytes, const size_t* input_offset, int outputs, void** output,
                    const size_t* output_bytes, const size_t* output_offset, int kept, int order, int barriers, int waits) {
    const auto number = [&](const char* wanted) {
        for (int i = 0; i < names; i++)
            if (std::strcmp(name[i], wanted) == 0) return value[i];
        emulation::fail(std::string("no number ") + wanted);
    };
    emulation::order() = (emulation::Order)order;
    emulation::has_barriers() = barriers;
    emulation::has_waits() = waits;
    std::vector<std::unique_ptr<Guarded>> memory;
    Places in, out;
    for (int i = 0; i < inputs; i++) {
        memory.emplace_back(new Guarded(input[i], input_bytes[i], input_offset[i]));
        in.push_back(memory.back()->start);
    }
    for (int i = 0; i < outputs; i++) {
        const void* before = i >= outputs - kept ? output[i] : nullptr;
        memory.emplace_back(new Guarded(before, output_bytes[i], output_offset[i]));
        out.push_back(memory.back()->start);
    }
    dispatch(kind, number, in, out, output_bytes);
    for (int i = 0; i < outputs; i++) memory[inputs + i]->copy_back(output[i]);
}
