/* What comes out of a ring, for Python: bytes, or one of three objects.

   Ask       somebody who waits for an answer; unanswered when it is destroyed
   Delivery  what the library itself makes the item of; has its last call when it is destroyed
   Given     memory that was given without a copy, seen through a memoryview; released when destroyed

   An object is made before its item is claimed, and owns nothing until then. */

#include "face.h"

#include <stdlib.h>
#include <string.h>

#if defined(Py_LIMITED_API) && Py_LIMITED_API + 0 < 0x030B0000
/* Exporting a buffer is in the limited API since 3.11, as it was in 3.10, which does not change any
   more: the same numbers, the same structure. */
#ifndef Py_bf_getbuffer /* the headers of 3.15 have it */
#define Py_bf_getbuffer 1
#endif
#define PyBUF_WRITABLE 0x0001
#define PyBUF_FORMAT 0x0004
#define PyBUF_ND 0x0008
#define PyBUF_STRIDES (0x0010 | PyBUF_ND)
typedef struct {
    void *buf;
    PyObject *obj;
    Py_ssize_t len, itemsize;
    int readonly, ndim;
    char *format;
    Py_ssize_t *shape, *strides, *suboffsets;
    void *internal;
} Py_buffer;
#endif

/* -- Given --------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    const void *data;
    size_t size;
    dss_free release; /* NULL until it is ours */
    void *arg;
} Given;

static void given_dealloc(PyObject *self) {
    Given *given = (Given *)self;
    if (given->release) {
        raised exception;
        set_aside(&exception);
        given->release((void *)(uintptr_t)given->data, given->arg);
        go_on_raising(&exception);
    }
    free_object(self);
}

static int given_getbuffer(PyObject *self, Py_buffer *view, int flags) {
    if (flags & PyBUF_WRITABLE) {
        view->obj = NULL;
        PyErr_SetString(PyExc_BufferError, "what was given without a copy is read-only");
        return -1;
    }
    Given *given = (Given *)self;
    Py_INCREF(self);
    view->obj = self;
    view->buf = (void *)(uintptr_t)given->data;
    view->len = (Py_ssize_t)given->size;
    view->itemsize = 1;
    view->readonly = 1;
    view->ndim = 1;
    view->format = flags & PyBUF_FORMAT ? (char *)(uintptr_t)"B" : NULL;
    view->shape = flags & PyBUF_ND ? &view->len : NULL;
    view->strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? &view->itemsize : NULL;
    view->suboffsets = NULL;
    view->internal = NULL;
    return 0;
}

static PyType_Slot given_slots[] = {
    {Py_tp_dealloc, (void *)given_dealloc},
    {Py_bf_getbuffer, (void *)given_getbuffer},
    {0, NULL},
};

/* -- Ask ----------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    dss_asker *asker; /* NULL until it is ours */
    PyObject *data;
} Ask;

static void ask_dealloc(PyObject *self) {
    Ask *ask = (Ask *)self;
    if (ask->asker) {
        dss_asker_settle(ask->asker, DSS_UNANSWERED, NULL, 0); /* if nobody has */
        dss_asker_drop(ask->asker);
    }
    Py_XDECREF(ask->data);
    free_object(self);
}

static PyObject *ask_settle(PyObject *self, PyObject *args) {
    int status;
    PyObject *bytes; /* not "y#", which is another function in the headers of 3.13 */
    char *answer;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "iS", &status, &bytes) ||
        PyBytes_AsStringAndSize(bytes, &answer, &size)) {
        return NULL;
    }
    return PyBool_FromLong(dss_asker_settle(((Ask *)self)->asker, status, answer, (size_t)size));
}

static PyObject *ask_data(PyObject *self, void *closure) {
    (void)closure;
    Ask *ask = (Ask *)self;
    PyObject *data = dss_asker_delivers(ask->asker) ? Py_None : ask->data;
    Py_INCREF(data);
    return data;
}

static PyObject *ask_waits(PyObject *self, void *closure) {
    (void)closure;
    return PyBool_FromLong(dss_asker_waits(((Ask *)self)->asker));
}

static PyObject *ask_gone(PyObject *self, void *closure) {
    (void)closure;
    return PyBool_FromLong(!dss_asker_decoded(((Ask *)self)->asker));
}

static PyObject *ask_left(PyObject *self, void *closure) {
    (void)closure;
    double left = dss_asker_left(((Ask *)self)->asker);
    if (left < 0) {
        Py_RETURN_NONE;
    }
    return PyFloat_FromDouble(left);
}

static PyObject *ask_decode(PyObject *self, PyObject *ignored);

static PyMethodDef ask_methods[] = {
    {"decode", ask_decode, METH_NOARGS, "As Delivery.decode; None also if it has ended before."},
    {"settle", ask_settle, METH_VARARGS,
     "settle(status, answer): end it. False if it has ended. From any thread; never waits."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef ask_members[] = {
    {"data", ask_data, NULL, "What was asked, as bytes; None if decode() makes it.", NULL},
    {"waits", ask_waits, NULL, "Does somebody wait for the answer?", NULL},
    {"gone", ask_gone, NULL, "Had it ended before decode() came to it?", NULL},
    {"left", ask_left, NULL, "How many seconds it still waits; None for no limit.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot ask_slots[] = {
    {Py_tp_dealloc, (void *)ask_dealloc},
    {Py_tp_methods, ask_methods},
    {Py_tp_getset, ask_members},
    {0, NULL},
};

static PyObject *decoded_bytes(dss_decoded *decoded) {
    PyObject *bytes = NULL;
    if (decoded->status > 0) {
        bytes = PyBytes_FromStringAndSize(decoded->bytes, (Py_ssize_t)decoded->size);
    } else if (decoded->status == 0) {
        Py_INCREF(Py_None);
        bytes = Py_None;
    } else {
        PyErr_Format(PyExc_RuntimeError, "decode of dss_deliver has returned %d", decoded->status);
    }
    free(decoded->bytes);
    return bytes;
}

static PyObject *ask_decode(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    dss_decoded decoded;
    if (!dss_asker_decode(((Ask *)self)->asker, &decoded)) {
        Py_RETURN_NONE;
    }
    return decoded_bytes(&decoded);
}

/* -- Delivery: what nobody waits for; has its last call when it is destroyed, if not before ------- */

typedef struct {
    PyObject_HEAD
    dss_decode decode; /* NULL: it has had its last call, or is not ours */
    void *data;
} Delivery;

static PyObject *delivery_decode(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    Delivery *delivery = (Delivery *)self;
    dss_decode decode = delivery->decode;
    dss_decoded decoded;
    if (!decode) {
        Py_RETURN_NONE;
    }
    delivery->decode = NULL; /* it may come back here */
    dss_decode_it(&decoded, decode, delivery->data);
    if (decoded.status < 0) {
        decode(NULL, delivery->data); /* now: the exception may keep us for a while */
    }
    return decoded_bytes(&decoded);
}

static void delivery_dealloc(PyObject *self) {
    Delivery *delivery = (Delivery *)self;
    if (delivery->decode) {
        raised exception;
        set_aside(&exception);
        delivery->decode(NULL, delivery->data);
        go_on_raising(&exception);
    }
    free_object(self);
}

static PyMethodDef delivery_methods[] = {
    {"decode", delivery_decode, METH_NOARGS,
     "Have the library make the item: bytes, or None if it has done everything. In the hub's "
     "thread, once."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot delivery_slots[] = {
    {Py_tp_dealloc, (void *)delivery_dealloc},
    {Py_tp_methods, delivery_methods},
    {0, NULL},
};

/* -- Making them ---------------------------------------------------------------------------------- */

static PyObject *bytes_of(const dss_look *look) {
    return PyBytes_FromStringAndSize(NULL, (Py_ssize_t)look->item.size);
}

PyObject *make_item(state *ours, const dss_look *look, PyObject **kept) {
    if (look->item.kind == DSS_COPIED) {
        return *kept = bytes_of(look);
    }
    if (look->item.kind == DSS_GIVEN) {
        Given *given = PyObject_New(Given, (PyTypeObject *)ours->given_type);
        if (!given) {
            return NULL;
        }
        given->data = look->item.data;
        given->size = look->item.size;
        given->release = NULL;
        PyObject *view = PyMemoryView_FromObject((PyObject *)given);
        Py_DECREF(given); /* the view holds it */
        *kept = (PyObject *)given;
        return view;
    }
    if (look->item.kind == DSS_DELIVERED) {
        Delivery *delivery = PyObject_New(Delivery, (PyTypeObject *)ours->delivery_type);
        if (delivery) {
            delivery->decode = NULL;
            delivery->data = (void *)(uintptr_t)look->item.data;
        }
        return *kept = (PyObject *)delivery;
    }
    Ask *ask = PyObject_New(Ask, (PyTypeObject *)ours->ask_type);
    if (ask) {
        ask->asker = NULL;
        ask->data = bytes_of(look);
        if (!ask->data) {
            Py_CLEAR(ask);
        }
    }
    return *kept = (PyObject *)ask;
}

void fill_item(const dss_look *look, PyObject *kept) {
    PyObject *bytes = kept;
    if (look->item.kind == DSS_GIVEN) {
        ((Given *)kept)->release = look->item.release;
        ((Given *)kept)->arg = look->item.arg;
        return;
    }
    if (look->item.kind == DSS_DELIVERED) {
        ((Delivery *)kept)->decode = look->item.decode;
        return;
    }
    if (look->item.kind == DSS_ASKED) {
        ((Ask *)kept)->asker = look->item.asker;
        bytes = ((Ask *)kept)->data;
    }
    if (look->item.size) {
        memcpy(PyBytes_AsString(bytes), look->item.data, look->item.size);
    }
}

PyType_Spec item_specs[ITEM_TYPES] = {
    [ASK] = {"dss_anyio._native._dss.Ask", sizeof(Ask), 0,
             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, ask_slots},
    [GIVEN] = {"dss_anyio._native._dss.Given", sizeof(Given), 0,
               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, given_slots},
    [DELIVERY] = {"dss_anyio._native._dss.Delivery", sizeof(Delivery), 0,
                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, delivery_slots},
};
