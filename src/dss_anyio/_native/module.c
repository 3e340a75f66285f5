/* Python's face of the native senders: the module dss_anyio._native._dss.

   Bell      wakes one hub for all of its native senders; wraps what is in bell.c
   Ring      one native sender's queue; closes it when it is destroyed
   the rest  in items.c: what comes out of a ring

   The functions that take items may be interrupted by a collection, whose finalizers take items from
   the same ring. So what an item is going to be is made first, then the item is claimed, and if
   somebody else has it by now, the next one is looked at. If there is no memory, it stays queued.

   One binary for all versions from 3.10 on (the limited API); which slots the module has is decided
   when it is loaded, by the version that loads it. */

#include "face.h"
#ifdef DSS_FFI
#include "closures.h"
#endif

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* -- Bell ---------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    dss_bell *bell;
} Bell;

static PyObject *bell_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    Bell *self = PyObject_New(Bell, type);
    if (self && !(self->bell = dss_bell_new())) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void bell_dealloc(PyObject *self) {
    if (((Bell *)self)->bell) {
        dss_bell_drop(((Bell *)self)->bell);
    }
    free_object(self);
}

static PyObject *bell_open(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    int readable;
    if (!dss_bell_open(((Bell *)self)->bell, &readable)) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromLong(readable);
}

static PyObject *bell_connect(PyObject *self, PyObject *args) {
    unsigned int place;
    int fd;
    if (!PyArg_ParseTuple(args, "Ii", &place, &fd)) {
        return NULL;
    }
    if (place > 1) {
        PyErr_SetString(PyExc_ValueError, "there are two places");
        return NULL;
    }
    if (fd < 0) {
        dss_bell_disconnect(((Bell *)self)->bell, place);
    } else if (!dss_bell_connect(((Bell *)self)->bell, place, fd)) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyObject *bell_arm(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    dss_bell_arm(((Bell *)self)->bell);
    Py_RETURN_NONE;
}

static PyObject *bell_clear(PyObject *self, PyObject *fd) {
    (void)self;
    long readable = PyLong_AsLong(fd);
    if (readable == -1 && PyErr_Occurred()) {
        return NULL;
    }
    dss_bell_clear((int)readable);
    Py_RETURN_NONE;
}

static PyObject *bell_set_home(PyObject *self, PyObject *number) {
    unsigned long long thread = PyLong_AsUnsignedLongLong(number);
    if (thread == (unsigned long long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    dss_bell_set_home(((Bell *)self)->bell, thread);
    Py_RETURN_NONE;
}

static PyObject *bell_close(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    dss_bell_close(((Bell *)self)->bell);
    Py_RETURN_NONE;
}

static PyObject *bell_failures(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLongLong(dss_bell_failures(((Bell *)self)->bell));
}

static PyObject *bell_gone(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLongLong(dss_bell_gone(((Bell *)self)->bell));
}

static PyMethodDef bell_methods[] = {
    {"open", bell_open, METH_NOARGS, "Make a descriptor that is readable after a ring."},
    {"connect", bell_connect, METH_VARARGS,
     "connect(place, fd): send a datagram to that socket, too; below 0: no longer."},
    {"arm", bell_arm, METH_NOARGS, "Have the next item ring. In the receiving thread, then look."},
    {"clear", bell_clear, METH_O, "clear(fd): make the descriptor unreadable. Then look."},
    {"set_home", bell_set_home, METH_O,
     "set_home(number): that thread receives, unless it was armed before. Its native_id if "
     "NATIVE_IDS, else its ident."},
    {"close", bell_close, METH_NOARGS, "Close the descriptors; nobody writes to them any more."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef bell_members[] = {
    {"failures", bell_failures, NULL, "How many notifications failed.", NULL},
    {"gone", bell_gone, NULL, "How many askers have given up.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot bell_slots[] = {
    {Py_tp_new, (void *)bell_new},
    {Py_tp_dealloc, (void *)bell_dealloc},
    {Py_tp_methods, bell_methods},
    {Py_tp_getset, bell_members},
    {0, NULL},
};

/* -- Ring ---------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    dss_ring *ring;
    dss_taking taking; /* of the receiving thread: see "taking_of" */
    _Atomic bool in_hand;
    _Atomic uint32_t received; /* by receive() in this turn; written with *taking* in hand */
    uint32_t most;
} Ring;

static PyObject *ring_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    state *ours = PyType_GetModuleState(type);
    PyObject *bell;
    unsigned int limit;
    Py_ssize_t item_size;
    int policy;
    if (!ours || !PyArg_ParseTuple(
                     args, "O!Ini", (PyTypeObject *)ours->bell_type, &bell, &limit, &item_size,
                     &policy
                 )) {
        return NULL;
    }
    Ring *self = PyObject_New(Ring, type);
    if (self) {
        self->taking = (dss_taking){0};
        atomic_init(&self->in_hand, false);
        atomic_init(&self->received, 0);
        self->most = 0;
        self->ring =
            dss_ring_new(((Bell *)bell)->bell, &dss_api, limit, (size_t)item_size, policy);
        if (!self->ring) {
            Py_DECREF(self);
            return PyErr_NoMemory();
        }
    }
    return (PyObject *)self;
}

static void close_ring(dss_ring *ring, bool graceful) {
    if (!dss_ring_is_fork(ring)) {
        dss_ring_close(ring); /* first, and then those who wait: see "ask_and_wait" */
        dss_waits_release(ring, graceful);
    }
}

static void ring_dealloc(PyObject *self) {
    dss_ring *ring = ((Ring *)self)->ring;
    if (ring && !dss_ring_is_fork(ring)) { /* else it is the parent's, with all that is in it */
        raised exception;
        set_aside(&exception);
        close_ring(ring, false);
        dss_taking *taking = &((Ring *)self)->taking;
        dss_look look;
        /* A release may fork, and come back in the child; there all of this is the parent's. */
        while (!dss_ring_is_fork(ring) && dss_ring_look(ring, taking, &look)) {
            if (!dss_ring_claim(ring, taking, &look)) {
                continue;
            }
            if (look.item.kind == DSS_GIVEN && look.item.release) {
                look.item.release((void *)(uintptr_t)look.item.data, look.item.arg);
            } else if (look.item.kind == DSS_ASKED) {
                dss_asker_settle(look.item.asker, DSS_RELEASED, NULL, 0);
                dss_asker_drop(look.item.asker);
            } else if (look.item.kind == DSS_DELIVERED) {
                look.item.decode(NULL, (void *)(uintptr_t)look.item.data);
            }
            dss_ring_hand_over(ring, taking);
        }
        dss_ring_drop(ring);
        go_on_raising(&exception);
    }
    free_object(self);
}

/* What the receiving thread goes on with from one call to the next; for any other, *own*; *own* also if
   it is in a call's hand. A finalizer may take in the middle of a call, in the same thread; and without
   the GIL another thread may come home while one drains. Whoever has looked before finds that its item
   was claimed, and looks again.

   The exchange acquires what let_go releases: *taking*, *most* and *received* as the call before has left
   them, whichever thread that was in. */
static dss_taking *taking_of(Ring *self, dss_taking *own) {
    bool ours = dss_bell_is_home(dss_ring_bell(self->ring)) && !atomic_exchange(&self->in_hand, true);
    return ours ? &self->taking : own;
}

static void let_go(Ring *self, dss_taking *taking) {
    if (taking == &self->taking) {
        atomic_store_explicit(&self->in_hand, false, memory_order_release);
    }
}

/* Take up to *most* items into *into*. -1 if there is no memory for the first one; else how many of
   them are an Ask or a Delivery. */
static Py_ssize_t take_into(Ring *self, state *ours, PyObject *into, Py_ssize_t most) {
    dss_ring *ring = self->ring;
    Py_ssize_t taken = 0, asks = 0;
    dss_taking own = {0}, *taking = taking_of(self, &own);
    dss_look look;
    while (taken < most && !dss_ring_is_fork(ring) && dss_ring_look(ring, taking, &look)) {
        PyObject *kept, *item = make_item(ours, &look, &kept);
        bool entered = item && PyList_Append(into, item) == 0;
        if (!entered) {
            Py_XDECREF(item);
            if (!taken) {
                asks = -1;
                break;
            }
            PyErr_Clear(); /* the caller gets what there is; the next call says it */
            break;
        }
        if (dss_ring_claim(ring, taking, &look)) {
            fill_item(&look, kept);
            asks += look.item.kind == DSS_ASKED || look.item.kind == DSS_DELIVERED;
            taken += 1;
        } else if (PyList_SetSlice(into, taken, PY_SSIZE_T_MAX, NULL)) { /* take it out again */
            Py_DECREF(item);
            asks = -1;
            break;
        }
        Py_DECREF(item);
    }
    dss_ring_hand_over(ring, taking);
    let_go(self, taking);
    return asks;
}

static PyObject *ring_drain(PyObject *self, PyObject *most) {
    state *ours = PyType_GetModuleState(Py_TYPE(self));
    Py_ssize_t many = PyLong_AsSsize_t(most);
    if (!ours || (many == -1 && PyErr_Occurred())) {
        return NULL;
    }
    PyObject *items = PyList_New(0), *result = items ? PyTuple_New(2) : NULL;
    if (!result) {
        Py_XDECREF(items);
        return NULL;
    }
    PyTuple_SetItem(result, 0, items);
    Py_ssize_t asks = take_into((Ring *)self, ours, items, many);
    if (asks < 0) {
        Py_DECREF(result);
        return NULL;
    }
    PyTuple_SetItem(result, 1, PyBool_FromLong(asks > 0)); /* needs no memory: see the head */
    return result;
}

/* Take the oldest item; without *ours*, only if it is a copy. NULL without an error: there is none. */
static PyObject *take_one(dss_ring *ring, state *ours, dss_taking *taking) {
    dss_look look;
    while (!dss_ring_is_fork(ring) && dss_ring_look(ring, taking, &look)) {
        if (!ours && look.item.kind != DSS_COPIED) {
            break;
        }
        PyObject *kept, *item = make_item(ours, &look, &kept);
        if (!item) {
            break;
        }
        if (dss_ring_claim(ring, taking, &look)) {
            fill_item(&look, kept);
            return item;
        }
        Py_DECREF(item);
    }
    return NULL;
}

static PyObject *or_none(PyObject *item) {
    if (item || PyErr_Occurred()) {
        return item;
    }
    Py_RETURN_NONE;
}

/* relaxed, also where it is written: who has *taking* in hand has acquired it with that; for any other
   thread it is a statistic */
static uint32_t received_of(Ring *self) {
    return atomic_load_explicit(&self->received, memory_order_relaxed);
}

/* For an iteration: the path of most items. What is taken in here one by one is handed over as if it
   was taken in one call; at once only if a putter is to be woken by so many places. And it is counted
   in here: the two numbers that Python would count each item with take as long as all the rest of
   this. */
static PyObject *ring_receive(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    dss_ring *ring = ((Ring *)self)->ring;
    dss_taking *taking = taking_of((Ring *)self, NULL);
    if (!taking) {
        Py_RETURN_NONE;
    }
    uint32_t received = received_of((Ring *)self);
    PyObject *item = received < ((Ring *)self)->most ? take_one(ring, NULL, taking) : NULL;
    if (item) {
        atomic_store_explicit(&((Ring *)self)->received, received + 1, memory_order_relaxed);
    }
    /* After the claim: who waits leaves its note, and *then* tries once more (see sender.c). */
    uint32_t wanted = atomic_load(&dss_ring_waits(ring)->asleep);
    if (wanted && wanted <= taking->many) {
        dss_ring_hand_over(ring, taking);
    }
    let_go((Ring *)self, taking);
    return or_none(item);
}

static bool add_to_received(PyObject *books, PyObject *number) {
    PyObject *before = PyObject_GetAttrString(books, "received");
    PyObject *after = before ? PyNumber_Add(before, number) : NULL;
    int failed = after ? PyObject_SetAttrString(books, "received", after) : -1;
    Py_XDECREF(before);
    Py_XDECREF(after);
    return !failed;
}

/* In one function of C, so that no exception of a signal handler comes between the books and us. */
static PyObject *ring_begin_turn(PyObject *self, PyObject *args) {
    unsigned int most;
    PyObject *account, *books;
    if (!PyArg_ParseTuple(args, "IOO", &most, &account, &books)) {
        return NULL;
    }
    dss_taking *taking = taking_of((Ring *)self, NULL);
    PyObject *number = PyLong_FromUnsignedLong(taking ? received_of((Ring *)self) : 0);
    if (taking) { /* else another thread receives, or this one is in the middle of that */
        if (number && add_to_received(account, number) && add_to_received(books, number)) {
            atomic_store_explicit(&((Ring *)self)->received, 0, memory_order_relaxed);
            ((Ring *)self)->most = most;
        } else {
            Py_CLEAR(number);
        }
        let_go((Ring *)self, taking);
    }
    return number;
}

static PyObject *ring_take(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    state *ours = PyType_GetModuleState(Py_TYPE(self));
    dss_ring *ring = ((Ring *)self)->ring;
    if (!ours) {
        return NULL;
    }
    dss_taking own = {0}, *taking = taking_of((Ring *)self, &own);
    PyObject *item = take_one(ring, ours, taking);
    dss_ring_hand_over(ring, taking);
    let_go((Ring *)self, taking);
    return or_none(item);
}

static PyObject *ring_count(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    dss_ring *ring = ((Ring *)self)->ring;
    return PyLong_FromUnsignedLongLong(dss_ring_is_fork(ring) ? 0 : dss_ring_count(ring));
}

static PyObject *ring_close(PyObject *self, PyObject *graceful) {
    int is_graceful = PyObject_IsTrue(graceful);
    if (is_graceful < 0) {
        return NULL;
    }
    close_ring(((Ring *)self)->ring, is_graceful);
    Py_RETURN_NONE;
}

static PyObject *ring_counts(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    dss_counts counts = dss_ring_counts(((Ring *)self)->ring);
    return Py_BuildValue(
        "KKKI", (unsigned long long)counts.queued, (unsigned long long)counts.dropped,
        (unsigned long long)counts.late,
        (unsigned int)received_of((Ring *)self)
    );
}

#define MOST_BLOCKED 4096

/* The list is copied with the lock held, and only then turned into objects. */
static PyObject *ring_blocked(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    dss_ring *ring = ((Ring *)self)->ring;
    PyObject *rows = PyList_New(0);
    dss_waiter *copies = malloc(MOST_BLOCKED * sizeof(*copies));
    if (!rows || !copies || dss_ring_is_fork(ring)) {
        free(copies);
        return rows && !copies ? (Py_DECREF(rows), PyErr_NoMemory()) : rows;
    }
    dss_waits *waits = dss_ring_waits(ring);
    size_t many = 0;
    pthread_mutex_lock(&waits->lock);
    for (dss_waiter *each = waits->first; each && many < MOST_BLOCKED; each = each->next) {
        copies[many++] = *each;
    }
    pthread_mutex_unlock(&waits->lock);
    double now = dss_now();
    for (size_t index = 0; index < many && rows; index++) {
        PyObject *row = Py_BuildValue(
            "sdK", copies[index].call, now - copies[index].since,
            (unsigned long long)copies[index].thread
        );
        if (!row || PyList_Append(rows, row)) {
            Py_CLEAR(rows);
        }
        Py_XDECREF(row);
    }
    free(copies);
    return rows;
}

static PyObject *ring_address(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromVoidPtr(((Ring *)self)->ring);
}

static PyObject *ring_capsule(PyObject *self, void *closure) {
    (void)closure;
    return PyCapsule_New(((Ring *)self)->ring, DSS_SENDER_CAPSULE, NULL);
}

static PyMethodDef ring_methods[] = {
    {"receive", ring_receive, METH_NOARGS,
     "Take the oldest item if it is bytes; None if it is not, if there is none to receive, or if the "
     "turn is over."},
    {"begin_turn", ring_begin_turn, METH_VARARGS,
     "begin_turn(most, account, books): receive() may return so many. How many it has returned since "
     "the last one, which are added to the *received* of both."},
    {"take", ring_take, METH_NOARGS,
     "Take the oldest item: bytes, a memoryview, or an Ask; None if there is none."},
    {"drain", ring_drain, METH_O,
     "drain(most): take so many at most; return them, and whether one is an Ask or a Delivery."},
    {"count", ring_count, METH_NOARGS, "How many items are in it. After Bell.arm it is a look."},
    {"close", ring_close, METH_O,
     "close(graceful): accept nothing more, release who waits for room; else who asks, too."},
    {"counts", ring_counts, METH_NOARGS, "(queued, dropped, late, received in this turn)"},
    {"blocked", ring_blocked, METH_NOARGS, "Who waits in it: (function, seconds, thread) each."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef ring_members[] = {
    {"address", ring_address, NULL, "The dss_sender *, valid for ever.", NULL},
    {"capsule", ring_capsule, NULL, "The same in a capsule named DSS_SENDER_CAPSULE.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot ring_slots[] = {
    {Py_tp_new, (void *)ring_new},
    {Py_tp_dealloc, (void *)ring_dealloc},
    {Py_tp_methods, ring_methods},
    {Py_tp_getset, ring_members},
    {0, NULL},
};

/* -- The module ---------------------------------------------------------------------------------- */

static PyType_Spec specs[] = {
    {"dss_anyio._native._dss.Bell", sizeof(Bell), 0, Py_TPFLAGS_DEFAULT, bell_slots},
    {"dss_anyio._native._dss.Ring", sizeof(Ring), 0, Py_TPFLAGS_DEFAULT, ring_slots},
};

static int add_type(PyObject *module, PyType_Spec *spec, const char *name, PyObject **where) {
    *where = PyType_FromModuleAndSpec(module, spec, NULL);
    return *where ? PyModule_AddObjectRef(module, name, *where) : -1;
}

static int add_functions(PyObject *module) {
    struct {
        const char *name;
        void (*function)(void);
    } all[] = {
        {"dss_send", (void (*)(void))dss_api.send},
        {"dss_send_wait", (void (*)(void))dss_api.send_wait},
        {"dss_give", (void (*)(void))dss_api.give},
        {"dss_ask", (void (*)(void))dss_api.ask},
        {"dss_hold", (void (*)(void))dss_api.hold},
        {"dss_release", (void (*)(void))dss_api.release},
        {"dss_deliver", (void (*)(void))dss_api.deliver},
        {"dss_put", (void (*)(void))dss_api.put},
        {"dss_status", (void (*)(void))dss_status},
    };
    PyObject *functions = PyDict_New();
    for (size_t index = 0; functions && index < sizeof(all) / sizeof(*all); index++) {
        PyObject *address = PyLong_FromVoidPtr((void *)(uintptr_t)all[index].function);
        if (!address || PyDict_SetItemString(functions, all[index].name, address)) {
            Py_CLEAR(functions);
        }
        Py_XDECREF(address);
    }
    int failed = functions ? PyModule_AddObjectRef(module, "functions", functions) : -1;
    Py_XDECREF(functions);
    return failed;
}

static int exec(PyObject *module) {
    state *ours = PyModule_GetState(module);
    if (add_type(module, &specs[0], "Bell", &ours->bell_type) ||
        add_type(module, &specs[1], "Ring", &ours->ring_type) ||
        add_type(module, &item_specs[ASK], "Ask", &ours->ask_type) ||
        add_type(module, &item_specs[GIVEN], "Given", &ours->given_type) ||
        add_type(module, &item_specs[DELIVERY], "Delivery", &ours->delivery_type) || add_functions(module)) {
        return -1;
    }
    PyObject *api = PyCapsule_New((void *)(uintptr_t)&dss_api, DSS_API_CAPSULE, NULL);
    int failed = api ? PyModule_AddObjectRef(module, "api_2_0", api) : -1;
    Py_XDECREF(api);
    failed = failed || PyModule_AddIntConstant(module, "NATIVE_IDS", DSS_NATIVE_IDS) ? -1 : 0;
#ifdef DSS_FFI
    failed = failed || dss_add_closures(module) ? -1 : 0;
#endif
    return failed;
}

static int traverse(PyObject *module, visitproc visit, void *arg) {
    state *ours = PyModule_GetState(module);
    Py_VISIT(ours->bell_type);
    Py_VISIT(ours->ring_type);
    Py_VISIT(ours->ask_type);
    Py_VISIT(ours->given_type);
    Py_VISIT(ours->delivery_type);
    return 0;
}

static int clear(PyObject *module) {
    state *ours = PyModule_GetState(module);
    Py_CLEAR(ours->bell_type);
    Py_CLEAR(ours->ring_type);
    Py_CLEAR(ours->ask_type);
    Py_CLEAR(ours->given_type);
    Py_CLEAR(ours->delivery_type);
    return 0;
}

static void free_module(void *module) { clear(module); }

/* Numbers of slots that this version of the headers, or of the limited API, may not have. */
#define MULTIPLE_INTERPRETERS 3 /* since 3.12; 2: also with a GIL each */
#define GIL 4                   /* since 3.13; 1: not used */

static PyModuleDef_Slot slots[4];
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_dss",
    .m_doc = "What dss_anyio's native senders are made of.",
    .m_size = sizeof(state),
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = free_module,
};

static void choose_slots(void) {
    int minor = atoi(Py_GetVersion() + 2); /* "3.13.0 (main, ..." */
    PyModuleDef_Slot *next = slots;
    *next++ = (PyModuleDef_Slot){Py_mod_exec, (void *)exec};
    if (minor >= 12) {
        *next++ = (PyModuleDef_Slot){MULTIPLE_INTERPRETERS, (void *)2};
    }
    if (minor >= 13) {
        *next++ = (PyModuleDef_Slot){GIL, (void *)1};
    }
    *next = (PyModuleDef_Slot){0, NULL};
}

PyMODINIT_FUNC PyInit__dss(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT; /* two interpreters may come at once */
    pthread_once(&once, choose_slots);
    return PyModuleDef_Init(&definition);
}
