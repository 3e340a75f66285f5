/* What the files of Python's face share. Only these files know Python. */

#ifndef DSS_FACE_H
#define DSS_FACE_H

#include <Python.h>

#include "ring.h"

typedef struct { /* of each interpreter */
    PyObject *bell_type, *ring_type, *ask_type, *given_type, *delivery_type;
} state;

static inline void free_object(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF(type);
}

/* An exception that is being raised while an object is destroyed. What is not ours may enter Python in
   between, which must not find it there. */
typedef struct {
    PyObject *type, *value, *traceback;
} raised;

static inline void set_aside(raised *exception) {
    PyErr_Fetch(&exception->type, &exception->value, &exception->traceback);
}

static inline void go_on_raising(raised *exception) {
    PyErr_Restore(exception->type, exception->value, exception->traceback);
}

/* items.c: what comes out of a ring */
enum { ASK, GIVEN, DELIVERY, ITEM_TYPES };
extern PyType_Spec item_specs[ITEM_TYPES];

/* Something that can become the item that is looked at; *kept* is where its content goes. */
PyObject *make_item(state *, const dss_look *, PyObject **kept);
/* It was claimed: let *kept* have what is in the cell. */
void fill_item(const dss_look *, PyObject *kept);

#endif
