/* What a thread allocates and frees while it sends, for tests/test_native_costs.py, which preloads
   this: its malloc and its free are those of the whole process. With glibc, whose own are still there
   under other names. */

#include "dss_anyio.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

/* Of the thread; where they lie is known when the process starts, so to look there allocates nothing. */
static __thread bool counting __attribute__((tls_model("initial-exec")));
static __thread int counted __attribute__((tls_model("initial-exec")));

EXPORT void *malloc(size_t size) {
    counted += counting;
    return __libc_malloc(size);
}

EXPORT void *calloc(size_t many, size_t size) {
    counted += counting;
    return __libc_calloc(many, size);
}

EXPORT void *realloc(void *there, size_t size) {
    counted += counting;
    return __libc_realloc(there, size);
}

EXPORT void *memalign(size_t alignment, size_t size) {
    counted += counting;
    return __libc_memalign(alignment, size);
}

EXPORT void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

EXPORT int posix_memalign(void **where, size_t alignment, size_t size) {
    *where = memalign(alignment, size);
    return *where ? 0 : 12;
}

EXPORT void free(void *there) {
    counted += counting;
    __libc_free(there);
}

typedef struct {
    dss_sender *sender;
    size_t size;
    int times, *statuses, counted;
} sends;

static void *count(void *arg) {
    sends *it = arg;
    char data[64];
    memset(data, 0, sizeof(data));
    counting = true;
    for (int number = 0; number < it->times; number++) {
        it->statuses[number] = dss_send(it->sender, data, it->size);
    }
    counting = false;
    it->counted = counted;
    return NULL;
}

/* Send so often, from a new thread. How often that has allocated or freed something. */
EXPORT int count_sends(dss_sender *sender, size_t size, int times, int *statuses) {
    sends it = {sender, size, times, statuses, -1};
    pthread_t thread;
    if (pthread_create(&thread, NULL, count, &it)) {
        return -1;
    }
    pthread_join(thread, NULL);
    return it.counted;
}

/* Is this the malloc of *make*, and the free of *end*, which are functions of somebody else's? */
EXPORT int count_others(void *(*make)(const char *), void (*end)(void *)) {
    counted = 0;
    counting = true;
    end(make("something"));
    counting = false;
    return counted;
}
