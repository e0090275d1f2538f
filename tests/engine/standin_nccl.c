// NCCL's calls in main memory, between processes of one machine: lets jseg/engine/ranks.py be tested without GPUs.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SLOT = 1 << 16, RANKS = 4 };
typedef struct { char bytes[128]; } UniqueId;
typedef struct { pthread_barrier_t barrier; double slots[RANKS][SLOT]; } Shared;
typedef struct { int rank, world; Shared* shared; } Communicator;
static int depth = 0;

int ncclGetUniqueId(UniqueId* id) {
    snprintf(id->bytes, sizeof id->bytes, "/standin_nccl_%d", (int)getpid());
    int file = shm_open(id->bytes, O_CREAT | O_EXCL | O_RDWR, 0600);
    return file < 0 || ftruncate(file, sizeof(Shared)) || close(file);
}

int ncclCommInitRank(Communicator** result, int world, UniqueId id, int rank) {
    int file = shm_open(id.bytes, O_RDWR, 0600);
    Communicator* communicator = malloc(sizeof *communicator);
    *communicator = (Communicator){rank, world, mmap(0, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)};
    volatile double* ready = &communicator->shared->slots[0][0];
    if (rank == 0) {
        pthread_barrierattr_t shared;
        pthread_barrierattr_init(&shared);
        pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
        pthread_barrier_init(&communicator->shared->barrier, &shared, world);
        *ready = 1;
    }
    while (*ready != 1) usleep(1000);
    pthread_barrier_wait(&communicator->shared->barrier);
    if (rank == 0) shm_unlink(id.bytes);
    *result = communicator;
    return close(file);
}

int ncclGroupStart(void) { return depth++; }

int ncclGroupEnd(void) { return --depth; }

int ncclAllReduce(const void* own, void* sum, size_t count, int type, int operation, Communicator* with, void* stream) {
    if (depth != 1 || (type != 7 && type != 8) || operation != 0 || stream || count > SLOT) return 1;
    for (size_t i = 0; i < count; i++)
        with->shared->slots[with->rank][i] = type == 7 ? ((const float*)own)[i] : ((const double*)own)[i];
    pthread_barrier_wait(&with->shared->barrier);
    for (size_t i = 0; i < count; i++) {
        double total = 0;
        for (int rank = 0; rank < with->world; rank++) total += with->shared->slots[rank][i];
        if (type == 7) ((float*)sum)[i] = total;
        else ((double*)sum)[i] = total;
    }
    pthread_barrier_wait(&with->shared->barrier);
    return 0;
}

const char* ncclGetErrorString(int code) { return code ? "stand-in failed" : "no error"; }
