// The attention kernels of jseg/ops/kernels on a CPU: one library for each NUMBER_TYPE and PADDED_DEPTH.
//
// Inputs and outputs are copied to memory that ends at a page nobody may touch; what lies around them is NaN, and outputs
// are NaN before the kernel runs.
#include <sys/mman.h>
#include <unistd.h>

#include "attention_calls.cuh"

using namespace jseg;

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

// kind: joint_forward, joint_backward, cross_forward, cross_backward; inputs and outputs in the order of those functions.
extern "C" void run(const char* kind, int names, const char** name, const double* value, int inputs, const void** input,
                    const size_t* input_bytes, const size_t* input_offset, int outputs, void** output,
                    const size_t* output_bytes, const size_t* output_offset, int order, int barriers, int waits) {
    const auto number = [&](const char* wanted) {
        for (int i = 0; i < names; i++)
            if (std::strcmp(name[i], wanted) == 0) return value[i];
        emulation::fail(std::string("no number ") + wanted);
    };
    emulation::order() = (emulation::Order)order;
    emulation::has_barriers() = barriers;
    emulation::has_waits() = waits;
    std::vector<std::unique_ptr<Guarded>> memory;
    std::vector<unsigned char*> in, out;
    for (int i = 0; i < inputs; i++) {
        memory.emplace_back(new Guarded(input[i], input_bytes[i], input_offset[i]));
        in.push_back(memory.back()->start);
    }
    for (int i = 0; i < outputs; i++) {
        memory.emplace_back(new Guarded(nullptr, output_bytes[i], output_offset[i]));
        out.push_back(memory.back()->start);
    }
    const auto joint = [&](auto mask) {
        constexpr Mask MASK = decltype(mask)::value;
        if (std::strcmp(kind, "joint_forward") == 0)
            joint_forward<NUMBER_TYPE, PADDED_DEPTH, MASK>(number, in[0], in[1], out[0], (float*)out[1]);
        else
            joint_backward<NUMBER_TYPE, PADDED_DEPTH, MASK>(number, in[0], in[1], in[2], (float*)in[3], in[4], out[0], out[1], (float*)out[2]);
    };
    const auto cross = [&](auto dropout) {
        constexpr bool DROPOUT = decltype(dropout)::value;
        if (std::strcmp(kind, "cross_forward") == 0)
            cross_forward<NUMBER_TYPE, PADDED_DEPTH, DROPOUT>(number, in[0], in[1], in[2], (float*)in[3], out[0], (float*)out[1]);
        else
            cross_backward<NUMBER_TYPE, PADDED_DEPTH, DROPOUT>(number, in[0], in[1], in[2], (float*)in[3], in[4], (float*)in[5], in[6],
                                                 out[0], out[1], out[2], (float*)out[3]);
    };
    if (kind[0] == 'c') {
        if (number("dropout") > 0) cross(std::true_type());
        else cross(std::false_type());
    } else {
        const int mask = number("mask");
        if (mask == FULL) joint(std::integral_constant<Mask, FULL>());
        if (mask == CAUSAL) joint(std::integral_constant<Mask, CAUSAL>());
        if (mask == REGIONS) joint(std::integral_constant<Mask, REGIONS>());
    }
    for (int i = 0; i < outputs; i++) memory[inputs + i]->copy_back(output[i]);
}
