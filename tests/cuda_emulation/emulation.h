// Runs a CUDA kernel on a CPU: blocks one after the other, the threads of a block as fibers.
//
// A fiber runs until it must wait for others (a barrier, an operation of the whole warp); who goes on next is decided by
// `Order`: a kernel that lacks a barrier gives different results in some order, because shared memory starts as NaN,
// one warp may run far ahead, and asynchronous copies happen as late as they may (or, in some orders, at once).
// What this cannot show: races within one step of a warp, and memory that real hardware makes visible late.
#pragma once

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <ucontext.h>

namespace emulation {

constexpr int LANES = 32, STACK = 1 << 18;

enum Order { ROUND_ROBIN, FIRST_WARP_AHEAD, LAST_WARP_AHEAD, RANDOM, ORDERS };

struct Copy {  // an asynchronous one that has not happened yet
    void* to;
    unsigned char bytes[16];
    int size, group;
};

struct Exchange {  // what the lanes of a warp give to one operation and get from it
    unsigned char in[LANES][40], out[LANES][16];
};

struct Fiber {  // runs the same thread of one block after the other: starting one takes system calls
    std::unique_ptr<char[]> stack;
    ucontext_t context;
    jmp_buf place;
    std::vector<Copy> copies;
    int group;
    long operations;  // of the warp, so far
};

struct Warp {
    Exchange exchanges[2];  // two: a lane may be one operation ahead of those that still read
    int arrived = 0;
    std::vector<int> waiting;
    const char* operation = nullptr;
};

struct Block {
    int column, row, threads, running;
    std::vector<Warp> warps;
    std::vector<unsigned char> shared;
    size_t shared_bytes;
    std::vector<int> ready, at_barrier;
    Order order;
    bool last = false;  // of the blocks of a launch
    uint32_t random;
    int current = 0;
    jmp_buf scheduler;
    std::function<void()> kernel;
};

inline Block*& block() {
    static Block* current = nullptr;
    return current;
}

inline Order& order() {
    static Order chosen = ROUND_ROBIN;
    return chosen;
}

inline bool& has_barriers() {
    static bool chosen = true;  // false: barriers of the block do nothing, to see that their absence is noticed
    return chosen;
}

inline bool& has_waits() {
    static bool chosen = true;  // likewise for waiting for asynchronous copies
    return chosen;
}

inline std::deque<Fiber>& fibers() {
    static std::deque<Fiber> all;
    return all;
}

inline Fiber& fiber() { return fibers()[block()->current]; }

[[noreturn]] inline void fail(const std::string& what) {
    std::fprintf(stderr, "emulation: %s\n", what.c_str());
    std::abort();
}

// Leaves this fiber until somebody puts it on the list `ready`.
__attribute__((noinline)) inline void give_way() {
    if (_setjmp(fiber().place) == 0) _longjmp(block()->scheduler, 1);
}

inline int next_ready(Block& b) {
    size_t place = 0;  // round robin
    if (b.order == RANDOM) {
        b.random = b.random * 1664525u + 1013904223u;
        place = (b.random >> 8) % b.ready.size();
    } else if (b.order != ROUND_ROBIN) {
        for (size_t i = 1; i < b.ready.size(); i++)
            if ((b.order == FIRST_WARP_AHEAD) == (b.ready[i] < b.ready[place])) place = i;
    }
    const int thread = b.ready[place];
    b.ready.erase(b.ready.begin() + place);
    return thread;
}

inline void run_fiber() {
    for (;; give_way()) {
        block()->kernel();
        Block& b = *block();
        b.running--;
        if (b.running > 0 && (int)b.at_barrier.size() == b.running) {
            b.ready.insert(b.ready.end(), b.at_barrier.begin(), b.at_barrier.end());
            b.at_barrier.clear();
        }
    }
}

__attribute__((noinline)) inline void run_until_it_waits(Block& b) {
    if (_setjmp(b.scheduler)) return;
    Fiber& f = fiber();
    if (f.stack) _longjmp(f.place, 1);
    f.stack.reset(new char[STACK]);
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.get();
    f.context.uc_stack.ss_size = STACK;
    f.context.uc_link = nullptr;
    makecontext(&f.context, run_fiber, 0);
    setcontext(&f.context);
}

inline void run_block(Block& b) {
    block() = &b;
    if ((int)fibers().size() < b.threads) fibers().resize(b.threads);
    for (int i = 0; i < b.threads; i++) {
        Fiber& f = fibers()[i];
        f.copies.clear();
        f.group = f.operations = 0;
        b.ready.push_back(i);
    }
    while (!b.ready.empty()) {
        b.current = next_ready(b);
        run_until_it_waits(b);
    }
    if (b.running) fail(std::to_string(b.running) + " threads wait for others that never come");
    for (size_t i = b.shared_bytes; i < b.shared.size(); i++)
        if (b.shared[i] != 0xFF) fail("written beyond the shared memory");
}

// An operation of a whole warp: `work` runs once, when the last lane has come, and fills `out` of every lane.
template <class In, class Out, class Work>
void together(const char* name, const In& in, Out& out, const Work& work) {
    static_assert(sizeof(In) <= 40 && sizeof(Out) <= 16);
    Block& b = *block();
    const int thread = b.current, lane = thread % LANES;
    Warp& warp = b.warps[thread / LANES];
    Exchange& exchange = warp.exchanges[fiber().operations++ % 2];
    std::memcpy(exchange.in[lane], &in, sizeof(In));
    if (warp.arrived == 0) warp.operation = name;
    if (warp.operation != name) fail(std::string(name) + " meets " + warp.operation + " in one warp");
    if (++warp.arrived == LANES) {
        warp.arrived = 0;
        In ins[LANES];
        Out outs[LANES];
        for (int i = 0; i < LANES; i++) std::memcpy(&ins[i], exchange.in[i], sizeof(In));
        work(ins, outs);
        for (int i = 0; i < LANES; i++) std::memcpy(exchange.out[i], &outs[i], sizeof(Out));
        b.ready.insert(b.ready.end(), warp.waiting.begin(), warp.waiting.end());
        warp.waiting.clear();
    } else {
        warp.waiting.push_back(thread);
        give_way();
    }
    std::memcpy(&out, exchange.out[lane], sizeof(Out));
}

inline void barrier() {
    if (!has_barriers()) return;
    Block& b = *block();
    b.at_barrier.push_back(b.current);
    if ((int)b.at_barrier.size() == b.running) {
        b.ready.insert(b.ready.end(), b.at_barrier.begin(), b.at_barrier.end());
        b.at_barrier.clear();
    }
    give_way();
}

inline void check_shared(const void* at, size_t bytes, size_t alignment) {
    Block& b = *block();
    const unsigned char* place = static_cast<const unsigned char*>(at);
    if (place < b.shared.data() || place + bytes > b.shared.data() + b.shared_bytes) fail("outside the shared memory");
    if (reinterpret_cast<uintptr_t>(place) % alignment) fail("shared memory is not aligned");
}

inline void finish_copies(int pending) {
    if (!has_waits()) return;
    Fiber& f = fiber();
    std::vector<Copy> later;
    for (const Copy& copy : f.copies) {
        if (copy.group < f.group - pending)
            std::memcpy(copy.to, copy.bytes, copy.size);
        else
            later.push_back(copy);
    }
    f.copies.swap(later);
}

template <class Kernel, class Arguments>
void run(Kernel kernel, int columns, int rows, int threads, int bytes, const Arguments& arguments) {
    for (int row = 0; row < rows; row++)
        for (int column = 0; column < columns; column++) {
            Block b;
            b.column = column;
            b.row = row;
            b.threads = b.running = threads;
            b.warps = std::vector<Warp>(threads / LANES);
            b.shared.assign(bytes + 1024, 0xFF);
            b.shared_bytes = bytes;
            b.order = order();
            b.random = row * 7919 + column;
            b.kernel = [&] { kernel(arguments); };
            run_block(b);
        }
}

}  // namespace emulation
