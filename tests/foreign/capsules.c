/* What an extension module does with the capsules, without pybind11: for test_native_capsules.py,
   which calls the first three with the GIL. */

#include <Python.h>

#include "dss_anyio.h"

#include <pthread.h>
#include <stddef.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

static const dss_api_2_0 *api; /* the table that this module uses */

/* With an exception: it is not there. Else the size that the table says it has. */
EXPORT Py_ssize_t import_api(const char *name) {
    const dss_api_2_0 *found = PyCapsule_Import(name, 0);
    if (!found) {
        return -1;
    }
    api = found;
    return (Py_ssize_t)found->size;
}

EXPORT const char *api_name(void) { return DSS_API_CAPSULE; }

/* What the sender of a capsule is; an exception if it is no such capsule. */
EXPORT dss_sender *open_capsule(PyObject *capsule) {
    return PyCapsule_GetPointer(capsule, DSS_SENDER_CAPSULE);
}

EXPORT size_t api_size(void) { return sizeof(dss_api_2_0); }

/* The functions of the table that was imported, in the order of the header. */
EXPORT void api_functions(void (*functions[8])(void)) {
    void (*all[])(void) = {
        (void (*)(void))api->send,    (void (*)(void))api->send_wait, (void (*)(void))api->give,
        (void (*)(void))api->ask,     (void (*)(void))api->hold,      (void (*)(void))api->release,
        (void (*)(void))api->deliver, (void (*)(void))api->put,
    };
    memcpy(functions, all, sizeof(all));
}

EXPORT int has_the_same_table(dss_sender *sender) { return sender->api == api; }

enum { CALLS = 6 };

typedef struct {
    dss_sender *sender;
    int statuses[CALLS];
    char answer[16];
    size_t answered;
    pthread_t thread;
} user;

static int decode(dss_output *output, void *data) {
    return output ? (output->api->put(output, data, 9), 1) : 0;
}

/* Each function of the table. */
static void *use(void *arg) {
    static char given[] = "given", delivered[] = "delivered";
    user *it = arg;
    it->statuses[0] = api->hold(it->sender) == it->sender ? DSS_OK : DSS_INVALID;
    it->statuses[1] = api->send(it->sender, "sent", 4);
    it->statuses[2] = api->send_wait(it->sender, "sent in time", 12, 10);
    it->statuses[3] = api->give(it->sender, given, 5, NULL, NULL);
    it->statuses[4] = api->deliver(it->sender, decode, NULL, delivered);
    it->statuses[5] = api->ask(
        it->sender, "asked", 5, it->answer, sizeof(it->answer), &it->answered, 10
    );
    api->release(it->sender);
    return NULL;
}

static user the_user;

/* A thread of C uses it. */
EXPORT void use_start(dss_sender *sender) {
    the_user = (user){.sender = sender};
    pthread_create(&the_user.thread, NULL, use, &the_user);
}

EXPORT size_t use_join(int statuses[CALLS], char answer[16]) {
    pthread_join(the_user.thread, NULL);
    memcpy(statuses, the_user.statuses, sizeof(the_user.statuses));
    memcpy(answer, the_user.answer, sizeof(the_user.answer));
    return the_user.answered;
}
